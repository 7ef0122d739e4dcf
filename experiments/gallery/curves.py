"""What is drawn of an advantage: its curves over the solve rate, exact or of a large group."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from fade_jax import decomposition
from fade_jax.decomposition import GradientMasses

AdvantageFunction = Callable[[jax.Array], jax.Array]

GROUP = 8
LARGE = 512  # where a large group has no closed form


class Curves(NamedTuple):
    """m_S, m_F, h and F at some solve rates, float64; not finite where they diverge."""

    success: np.ndarray
    failure: np.ndarray
    weight: np.ndarray
    objective: np.ndarray


def exact(advantage: AdvantageFunction, group_size: int, p: np.ndarray) -> Curves:
    """The curves of an advantage at a group size."""
    return _curves(
        decomposition.gradient_masses(advantage, p, group_size),
        decomposition.expected_weight(advantage, p, group_size),
        decomposition.implied_objective(advantage, p, group_size),
    )


def of_kept_groups(advantage: AdvantageFunction, group_size: int, p: np.ndarray) -> Curves:
    """The same when groups without a gradient are drawn anew, as dynamic sampling does.

    Masses and h are those of a kept group, which are a share 1 - p^G - q^G of those drawn. F is
    that of the batch, in which more prompts are drawn where fewer are kept: the share cancels.
    """
    every = exact(advantage, group_size, p)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = 1 - p**group_size - (1 - p) ** group_size
        success, failure, weight = (curve / kept for curve in every[:3])
    return Curves(success, failure, weight, every.objective)


def closed(
    masses: Callable[[np.ndarray], GradientMasses],
    objective: Callable[[np.ndarray], jax.Array],
    p: np.ndarray,
) -> Curves:
    """The curves from the closed forms of a large group."""
    success, failure = of_group = masses(p)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.asarray(success) / p + np.asarray(failure) / (1 - p)
    return _curves(of_group, weight, objective(p))


def ratio(curves: Curves) -> np.ndarray:
    """m_S / m_F, infinite without failure mass."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return curves.success / curves.failure


def _curves(masses: GradientMasses, weight: ArrayLike, objective: ArrayLike) -> Curves:
    success, failure = (np.asarray(mass, np.float64) for mass in masses)
    # Single precision leaves 1e-8 of a success's weight on failures that get nothing.
    rounding = 1e-6 * np.maximum(np.abs(success), np.abs(failure))
    return Curves(
        np.where(np.abs(success) > rounding, success, 0),
        np.where(np.abs(failure) > rounding, failure, 0),
        np.asarray(weight, np.float64),
        np.asarray(objective, np.float64),
    )
