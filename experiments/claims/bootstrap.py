"""Means over seeds and held-out prompts, with 95% bootstrap intervals over both at once.

A resample draws the seeds and the prompts again, each with replacement: the pigeonhole bootstrap of
crossed samples (Owen 2007, doi 10.1214/07-AOAS122), mildly conservative (arXiv 1106.2125). All
methods of a comparison get the same resamples: their runs are paired by seed, and share the
prompts. A statistic is an array `[resamples + 1, seeds]`, of which row 0 is that of the sample
itself and the others those of the resampled prompts; only the mean over seeds is left to take.

With five seeds the seeds' part of the variance comes out 4/5 of its unbiased estimate, as it does
for every bootstrap of a mean.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from experiments.report.intervals import Estimate
from fade_jax.pass_at_k import pass_at_k

RESAMPLES = 2000
SEED = 0


class Draw(NamedTuple):
    """Weights of the seeds and of the prompts in each resample; each row sums to 1.

    Attributes:
      seeds: `[resamples + 1, seeds]`, row 0 uniform.
      prompts: `[resamples + 1, prompts]`, row 0 uniform.
    """

    seeds: np.ndarray
    prompts: np.ndarray


@lru_cache(maxsize=32)
def draw(seeds: int, prompts: int, resamples: int = RESAMPLES) -> Draw:
    """The resamples of so many seeds and prompts, always the same."""
    random = np.random.default_rng(SEED)

    def weights(count: int) -> np.ndarray:
        drawn = random.multinomial(count, np.full(count, 1 / count), size=resamples)
        return np.vstack([np.ones(count), drawn]) / count

    return Draw(weights(seeds), weights(prompts))


@lru_cache(maxsize=32)
def _table(num_samples: int, k: int) -> np.ndarray:
    """pass@k of a prompt with 0, 1, ..., num_samples correct."""
    return np.asarray(pass_at_k(num_samples, np.arange(num_samples + 1), k), np.float64)


def pass_rates(counts: np.ndarray, num_samples: int, k: int) -> np.ndarray:
    """Unbiased pass@k of every prompt.

    Args:
      counts: correct samples, int `[...]`.
      num_samples: of each prompt.
      k: at most num_samples.

    Returns:
      float `[...]`.
    """
    return _table(num_samples, k)[counts]


def resampled(values: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Means over the resampled prompts: `[seeds, prompts]` to `[resamples + 1, seeds]`."""
    return prompts @ values.T


def over_seeds(statistic: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Means over the resampled seeds, of those seeds that have a value.

    Args:
      statistic: `[resamples + 1, seeds]`, or `[1, seeds]` where it does not depend on the prompts;
        NaN where a seed has no value.
      seeds: weights `[resamples + 1, seeds]`.

    Returns:
      `[resamples + 1]`, NaN where no seed of the resample has a value.
    """
    there = np.isfinite(statistic)
    weight = (seeds * there).sum(1)
    total = (seeds * np.where(there, statistic, 0)).sum(1)
    return np.divide(total, weight, out=np.full(len(seeds), np.nan), where=weight > 0)


def estimate(resamples: np.ndarray, count: int) -> Estimate:
    """The value of row 0 with the 95% percentile interval of the others.

    Args:
      resamples: `[resamples + 1]`; those that are NaN are left out.
      count: of seeds, to be said beside the value.

    Returns:
      The estimate; without an interval where there is but one seed.
    """
    rest = resamples[1:][np.isfinite(resamples[1:])]
    if count < 2 or not len(rest):
        return Estimate(float(resamples[0]), np.nan, np.nan, count)
    low, high = np.quantile(rest, (0.025, 0.975))
    return Estimate(float(resamples[0]), float(low), float(high), count)


def crossing(steps: Sequence[float] | np.ndarray, curves: np.ndarray, level: float) -> np.ndarray:
    """Where each curve first reaches a level, interpolated between evaluations.

    Args:
      steps: `[evaluations]`, ascending.
      curves: `[..., evaluations]`.
      level: to be reached.

    Returns:
      `[...]` in steps; the first step for a curve that begins at the level or above, NaN for one
      that never reaches it.
    """
    return at_crossing(steps, curves, level, np.asarray(steps, np.float64))


def at_crossing(
    steps: Sequence[float] | np.ndarray, curves: np.ndarray, level: float, others: np.ndarray
) -> np.ndarray:
    """What other curves are where each curve first reaches a level, interpolated alike.

    Args:
      steps: `[evaluations]`.
      curves: `[..., evaluations]`.
      level: to be reached.
      others: broadcasts against `curves`.

    Returns:
      `[...]`, NaN where the level is never reached.
    """
    if len(steps) != curves.shape[-1]:
        raise ValueError(f"curves must have {len(steps)} evaluations, got {curves.shape[-1]}")
    others = np.broadcast_to(others, curves.shape)
    above = curves >= level
    i = above.argmax(-1)[..., None]
    before = np.maximum(i - 1, 0)

    def take(array, at):
        return np.take_along_axis(array, at, -1)[..., 0]

    rise = take(curves, i) - take(curves, before)
    part = np.where(rise > 0, (level - take(curves, before)) / np.where(rise > 0, rise, 1), 1)
    value = take(others, before) + part * (take(others, i) - take(others, before))
    return np.where(above.any(-1), value, np.nan)
