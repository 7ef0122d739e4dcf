"""Measures of an estimator: exact masses and objective, hard cases, bias of pass@k."""

from __future__ import annotations

from collections.abc import Callable
from math import comb
from typing import Any

import numpy as np

from experiments.audit.estimators import CLAIMS, Estimator
from fade_jax import decomposition

GROUP_SIZE = 8
SOLVE_RATES = np.linspace(0, 1, 101)
# The batch around a group, for estimators that read the whole batch: each number of successes
# equally often, so that the mean reward is 1/2.
COMPANIONS = np.repeat(np.tri(GROUP_SIZE + 1, GROUP_SIZE, -1, dtype=np.float32), 8, axis=0)


def measure_curves(estimator: Estimator) -> dict[str, Any]:
    """Computes masses, expected weight and implied objective, exactly, at group size 8.

    An estimator that reads the whole batch is given each group beside `COMPANIONS`, whose mean
    reward is 1/2: its curves are those at this batch.

    Returns:
      lists over `SOLVE_RATES`: `success_mass`, `failure_mass`, `weight` (h) and `objective` (F);
      `claimed`, the objective that it claims; and `gap`, the largest distance between F/F(1) and
      the claimed objective scaled alike.
    """
    alone = _groups_with_companions if estimator.whole_batch else _groups

    def advantages(rewards):
        return alone(estimator, np.asarray(rewards, np.float32))

    masses = decomposition.gradient_masses(advantages, SOLVE_RATES, GROUP_SIZE)
    weight = decomposition.expected_weight(advantages, SOLVE_RATES, GROUP_SIZE)
    objective = decomposition.implied_objective(advantages, SOLVE_RATES, GROUP_SIZE)
    claimed = CLAIMS[estimator.claim](SOLVE_RATES, GROUP_SIZE)
    gap = np.abs(np.asarray(objective / objective[-1] - claimed / claimed[-1]))
    curves = {
        "success_mass": masses.success,
        "failure_mass": masses.failure,
        "weight": weight,
        "objective": objective,
        "claimed": claimed,
    }
    return {name: np.asarray(curve).tolist() for name, curve in curves.items()} | {
        "gap": float(gap.max())
    }


def _groups(estimator: Estimator, rewards: np.ndarray) -> np.ndarray:
    index = np.repeat(np.arange(len(rewards)), rewards.shape[1])
    lengths = np.full(rewards.size, 4)
    return np.asarray(estimator.advantages(rewards.ravel(), index, lengths)).reshape(rewards.shape)


def _groups_with_companions(estimator: Estimator, rewards: np.ndarray) -> np.ndarray:
    batches = [np.concatenate([group[None], COMPANIONS]) for group in rewards]
    return np.stack([_groups(estimator, batch)[0] for batch in batches])


def _one_group(estimator: Estimator, rewards: Any, lengths: Any = None) -> np.ndarray:
    """The advantages of one group, among `COMPANIONS` of the same size if the batch matters."""
    group = np.asarray(rewards, np.float32)
    if lengths is None:
        batch = (_groups_with_companions if estimator.whole_batch else _groups)(
            estimator, group[None]
        )
        return batch[0]
    return np.asarray(
        estimator.advantages(group, np.zeros(len(group), np.int64), np.asarray(lengths))
    )


def _largest(advantages: Any) -> float:
    return float(np.abs(np.asarray(advantages, np.float64)).max())


def _constant(estimator: Estimator) -> float:
    """The largest advantage of 64 equal rewards 0.7, or 0.1; 0 in exact arithmetic."""
    found = []
    for reward in (0.1, 0.7):
        rewards, index = np.full(64, reward, np.float32), np.zeros(64, np.int64)
        found.append(_largest(estimator.advantages(rewards, index, np.full(64, 4))))
    return max(found)


def _single(estimator: Estimator) -> list[float]:
    """The advantages of a success and of a failure that are groups of their own."""
    rewards = np.array([1, 0, 1, 0], np.float32)
    found = estimator.advantages(rewards, np.arange(4), np.full(4, 4))
    return np.asarray(found, np.float64)[:2].tolist()


def _unequal(estimator: Estimator) -> float | str:
    """Largest change of the advantages of groups of 2 and 6 rows against each group alone."""
    if not estimator.by_index or estimator.whole_batch:
        return "no index" if not estimator.by_index else "whole batch"
    rewards = np.array([1, 0, 1, 0, 0, 0, 1, 0], np.float32)
    index = np.array([0, 1, 1, 0, 1, 1, 1, 1])
    together = np.asarray(estimator.advantages(rewards, index, np.full(8, 4)))
    changes = []
    for label in (0, 1):
        alone = _one_group(estimator, rewards[index == label], np.full((index == label).sum(), 4))
        changes.append(_largest(together[index == label] - alone))
    return max(changes)


def _padding(estimator: Estimator) -> float:
    """Largest change of the advantages if rows have 1 to 8 tokens in place of 4 each."""
    rewards = np.array([1, 1, 1, 0, 0, 0, 0, 0], np.float32)
    equal = _one_group(estimator, rewards, np.full(8, 4))
    return _largest(_one_group(estimator, rewards, np.arange(1, 9)) - equal)


def _ties(estimator: Estimator) -> list[float]:
    """The advantages of rewards 0.9, 0.9, 0.1, 0.1 and four times 0."""
    return _one_group(estimator, [0.9, 0.9, 0.1, 0.1, 0, 0, 0, 0]).astype(float).tolist()


def _shift(estimator: Estimator) -> float:
    """Largest change of the advantages if 1 is added to every reward of the batch."""
    rewards = COMPANIONS.ravel()
    index, lengths = np.repeat(np.arange(len(COMPANIONS)), GROUP_SIZE), np.full(rewards.size, 4)
    return _largest(
        np.asarray(estimator.advantages(rewards + 1, index, lengths))
        - np.asarray(estimator.advantages(rewards, index, lengths))
    )


def _spread(estimator: Estimator) -> float:
    """The largest advantage where the rewards of a group are 0.5 but for one of 0.501."""
    return _largest(_one_group(estimator, [0.5] * 7 + [0.501]))


def _nan(estimator: Estimator) -> int:
    """How many of a group's 8 advantages are not finite if one of its rewards is NaN."""
    found = np.asarray(
        estimator.advantages(
            np.array([1, 0, 1, 0, 0, 0, 0, np.nan], np.float32),
            np.zeros(8, np.int64),
            np.full(8, 4),
        )
    )
    return int((~np.isfinite(found)).sum())


CASES: dict[str, Callable[[Estimator], Any]] = {
    "r̄ = 0": lambda estimator: _largest(_one_group(estimator, np.zeros(GROUP_SIZE))),
    "r̄ = 1": lambda estimator: _largest(_one_group(estimator, np.ones(GROUP_SIZE))),
    "64 equal rewards": _constant,
    "G = 1: success, failure": _single,
    "unequal groups": _unequal,
    "padding": _padding,
    "ties": _ties,
    "rewards + 1": _shift,
    "spread 0.001": _spread,
    "one NaN": _nan,
}


def measure_cases(estimator: Estimator) -> dict[str, Any]:
    """Runs `CASES`; a framework's error is the result of its case."""
    results = {}
    for name, case in CASES.items():
        try:
            results[name] = case(estimator)
        except Exception as error:  # what the framework raises is what is asked
            message = str(error).strip()
            results[name] = f"{type(error).__name__}: {message.splitlines()[0] if message else ''}"
    return results


def measure_pass_at_k(estimate: Callable[[np.ndarray, int], float]) -> list[dict[str, float]]:
    """Computes the mean of an estimate of pass@k from n = 16 samples.

    Exact over the number of successes; over their order, the mean of 16 random ones.

    Args:
      estimate: rewards `[n]` of one prompt and k to an estimate; NaN if it has none for this k.

    Returns:
      rows of the solve rate `p`, `k`, the true `pass_at_k` 1 - (1-p)^k and the mean `estimate`.
    """
    n, rows = 16, []
    rng = np.random.default_rng(0)
    # An estimate that resamples with a fixed seed depends on the order.
    orders = [
        rng.permuted(np.tile(np.arange(n) < successes, (16, 1)), axis=1).astype(np.float64)
        for successes in range(n + 1)
    ]
    for k in (2, 4, 8, 16):
        of_successes = [np.mean([estimate(each, k) for each in found]) for found in orders]
        if np.isnan(of_successes).any():
            continue
        for p in (0.02, 0.1, 0.3):
            chances = [comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
            rows.append(
                {
                    "p": p,
                    "k": k,
                    "pass_at_k": 1 - (1 - p) ** k,
                    "estimate": float(np.dot(chances, of_successes)),
                }
            )
    return rows
