"""An advantage estimator of a framework, as the audit calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from fade_jax.decomposition import objectives

# Objectives that an estimator may claim, as functions of the solve rate and the group size.
CLAIMS: dict[str, Callable[[np.ndarray, int], jax.Array]] = {
    "p": lambda p, _: objectives.reinforce(p),
    "2 arcsin √p": lambda p, _: objectives.grpo(p),
    "pass@G": lambda p, group_size: objectives.pass_at(p, group_size),
}


class Estimator(NamedTuple):
    """One estimator with its settings.

    Attributes:
      name: as the framework's user writes it.
      claim: the objective that its documentation or the paper that it names states; of `CLAIMS`.
      advantages: rewards `[N]` float32, group ids `[N]` and lengths in tokens `[N]` to advantages
        `[N]`, one for each rollout.
      by_index: whether it reads the group ids; otherwise the rows of a group are neighbors and
        groups are equal.
      whole_batch: whether the advantages of a group depend on the other groups.
    """

    name: str
    claim: str
    advantages: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    by_index: bool = False
    whole_batch: bool = False


class Report(NamedTuple):
    """What a module of this package offers of its framework.

    Attributes:
      framework: its name.
      version: of the installed package.
      estimators: of advantages.
      pass_at_k: of evaluation, by name; a function of rewards `[n]` of one prompt and k to an
        estimate of pass@k.
      statements: pairs of what the documentation says and what the code gives.
    """

    framework: str
    version: str
    estimators: list[Estimator]
    pass_at_k: dict[str, Callable[[np.ndarray, int], float]]
    statements: list[tuple[str, str]]


def of_one_group(estimator: Estimator, rewards: Sequence[float]) -> np.ndarray:
    """Returns the advantages of rewards that are a batch of one group, of 4 tokens each."""
    size = len(rewards)
    found = estimator.advantages(
        np.asarray(rewards, np.float32), np.zeros(size, np.int64), np.full(size, 4)
    )
    return np.asarray(found, np.float64)


def shown(values: np.ndarray) -> str:
    """Returns numbers as text, of three digits each."""
    return ", ".join(f"{value:.3g}" for value in np.ravel(values))
