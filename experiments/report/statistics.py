"""Means over seeds and held-out prompts with their intervals, curves over steps, gradient masses.

Aggregates the runs of `runs.py`; `plots.py`, `write.py` and notebooks/04_replication.ipynb show it.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from scipy import stats

import fade_jax
from experiments.advantages import factory_of, is_own
from experiments.report.runs import Run, furthest, series, setting
from fade_jax.decomposition import GradientMasses, gradient_masses
from fade_jax.pass_at_k import interval_over_problems

MIN_SEEDS_FOR_BAND = 3  # a t interval of two seeds is 12.7 standard errors: plot both seeds instead
RESAMPLES = 2000
SOLVE_RATES = np.linspace(0, 1, 101)


class Estimate(NamedTuple):
    """A mean and its interval.

    Attributes:
      value: float or `[...]`.
      low: likewise; NaN without an interval.
      high: likewise.
      num_seeds: in the mean.
    """

    value: Any
    low: Any
    high: Any
    num_seeds: int


def t_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Estimate:
    """Returns the mean of independent values with its Student t interval.

        v̄ ± t s / √n,   s² = Σ (v - v̄)² / (n - 1)

    Args:
      values: `[n, ...]`, a value per seed; n >= 1.
      level: coverage, in (0, 1).

    Returns:
      `[...]` each; a single value has no interval.
    """
    values = np.asarray(values, np.float64)
    count, mean = len(values), values.mean(0)
    if count == 1:
        return Estimate(mean, mean * np.nan, mean * np.nan, 1)
    half = stats.t.ppf((1 + level) / 2, count - 1) * stats.sem(values)
    return Estimate(mean, mean - half, mean + half, count)


def rate_interval(
    values: np.ndarray, lows: np.ndarray, highs: np.ndarray, level: float = 0.95
) -> Estimate:
    """Returns the mean rate over seeds with an interval over both seeds and prompts.

        low = v̄ - √((v̄ - mean l)² + (t s / √n)²),   high likewise

    The squares of the distances to two limits add up, of the interval over prompts [l, u], which
    the seeds share, and of Student's t interval over seeds. So the interval is never narrower than
    either, and has the width of the first where two seeds agree.

    Args:
      values: `[n, ...]`, a rate per seed.
      lows: likewise, lower limits of the rates, over prompts.
      highs: likewise, upper limits.
      level: coverage of the interval over seeds, in (0, 1).

    Returns:
      `[...]` each; of a single seed the interval over prompts. Limits may be outside [0, 1].

    From Zou and Donner 2008, doi 10.1002/sim.3095.
    """
    mean, _, high, count = t_interval(values, level)
    half = np.nan_to_num(high - mean)
    below, above = mean - np.mean(lows, 0), np.mean(highs, 0) - mean
    return Estimate(mean, mean - np.hypot(below, half), mean + np.hypot(above, half), count)


def paired_difference(runs: Sequence[Run], reference: Sequence[Run], k: int) -> Estimate | None:
    """Returns the mean difference of pass@k at the last step, paired by seed and by prompt.

    The interval over prompts is that of (1 + d̄)/2, which is in [0, 1], with d̄ the differences of
    a prompt averaged over seeds; `rate_interval` adds the seeds.

    Args:
      runs: of one method; those that got furthest count.
      reference: runs of the method to subtract, likewise.
      k: of pass@k.

    Returns:
      The estimate; None without a shared seed whose counts by prompt were saved at the same step.
    """
    others = {setting(run.config, "seed"): run for run in furthest(reference)}
    differences = []
    for run in furthest(runs):
        other = others.get(setting(run.config, "seed"))
        if other is None or other.last_step != run.last_step:
            continue
        a, b = run.final_pass_at_k(k), other.final_pass_at_k(k)
        if a is not None and b is not None and a.shape == b.shape:
            differences.append(np.asarray(a, np.float64) - b)
    if not differences or any(d.shape != differences[0].shape for d in differences):
        return None
    by_prompt = np.mean(differences, 0)
    _, low, high = (2 * float(x) - 1 for x in interval_over_problems((1 + by_prompt) / 2))
    values = np.mean(differences, 1)
    return rate_interval(values, np.full(len(values), low), np.full(len(values), high))


class Weights(NamedTuple):
    """Bootstrap weights; each row sums to 1, and row 0 is uniform: the sample itself.

    Attributes:
      seeds: `[resamples + 1, seeds]`.
      prompts: `[resamples + 1, prompts]`.
    """

    seeds: np.ndarray
    prompts: np.ndarray


@lru_cache(maxsize=32)
def bootstrap_weights(
    seeds: int, prompts: int, resamples: int = RESAMPLES, seed: int = 0
) -> Weights:
    """Draws seeds and prompts with replacement, each independently: the pigeonhole bootstrap.

    Methods with the same weights are paired by seed and by prompt. `weights.prompts @ rates.T`
    turns pass rates `[seeds, prompts]` into the statistic `[resamples + 1, seeds]` that
    `bootstrap_interval` and `bootstrap_difference` take.

    Source: Owen 2007, doi 10.1214/07-AOAS122; mildly conservative (arXiv:1106.2125).
    """
    random = np.random.default_rng(seed)

    def draw(count: int) -> np.ndarray:
        drawn = random.multinomial(count, np.full(count, 1 / count), size=resamples)
        return np.vstack([np.ones(count), drawn]) / count

    return Weights(draw(seeds), draw(prompts))


def mean_over_seeds(statistic: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Averages a statistic over the resampled seeds.

    Args:
      statistic: `[resamples + 1, seeds]`, or `[1, seeds]` if it does not depend on the prompts;
        NaN for a seed without a value, which the mean skips.
      seeds: weights `[resamples + 1, seeds]`.

    Returns:
      `[resamples + 1]`; NaN if no seed of a resample has a value.
    """
    weights = seeds * np.isfinite(statistic)
    total, sums = weights.sum(1), (weights * np.nan_to_num(statistic)).sum(1)
    return np.divide(sums, total, out=np.full(len(seeds), np.nan), where=total > 0)


def bootstrap_interval(statistic: np.ndarray, seeds: np.ndarray, level: float = 0.95) -> Estimate:
    """Returns the mean over seeds with its percentile bootstrap interval.

    Args:
      statistic: `[resamples + 1 or 1, seeds]`; row 0 is the statistic of the sample itself.
      seeds: weights `[resamples + 1, seeds]`.
      level: coverage, in (0, 1).

    Returns:
      The estimate; fewer than two seeds have no interval.
    """
    value, *means = mean_over_seeds(statistic, seeds)
    count = int(np.isfinite(statistic[0]).sum())
    if count < 2:
        return Estimate(float(value), np.nan, np.nan, count)
    low, high = np.nanquantile(means, ((1 - level) / 2, (1 + level) / 2))
    return Estimate(float(value), float(low), float(high), count)


def bootstrap_difference(
    a: np.ndarray, b: np.ndarray, seeds: np.ndarray, level: float = 0.95
) -> Estimate:
    """Returns the mean of a - b, paired by seed, with its bootstrap interval.

    Args:
      a: `[resamples + 1 or 1, seeds]`, as in `bootstrap_interval`.
      b: likewise, with the same weights; a seed that lacks a value in either is skipped.
      seeds: weights `[resamples + 1, seeds]`.
      level: coverage, in (0, 1).
    """
    return bootstrap_interval(a - b, seeds, level)


def matched(
    steps: Sequence[float] | np.ndarray, curves: np.ndarray, level: float, others: np.ndarray
) -> np.ndarray:
    """Returns `others` at the step where each curve first reaches `level`, interpolated linearly.

    With pass@1 as `curves` and pass@k as `others`: pass@k at matched pass@1. With `steps` as
    `others`: the number of steps to reach the level.

    Args:
      steps: `[evaluations]`, ascending.
      curves: `[..., evaluations]`.
      level: to be reached.
      others: broadcasts against `curves`.

    Returns:
      `[...]`: the first value of a curve that starts at the level or above, NaN of a curve that
      never reaches it.

    Raises:
      ValueError: if `curves` and `steps` differ in length.
    """
    if len(steps) != curves.shape[-1]:
        raise ValueError(f"curves must have {len(steps)} evaluations, got {curves.shape[-1]}")
    others = np.broadcast_to(others, curves.shape)
    reached = curves >= level
    after = reached.argmax(-1)[..., None]
    before = np.maximum(after - 1, 0)
    (x0, y0), (x1, y1) = (
        [np.take_along_axis(array, at, -1)[..., 0] for array in (curves, others)]
        for at in (before, after)
    )
    fraction = np.where(x1 > x0, (level - x0) / np.where(x1 > x0, x1 - x0, 1), 1)
    return np.where(reached.any(-1), y0 + fraction * (y1 - y0), np.nan)


class Curve(NamedTuple):
    """A metric of one method over steps.

    Attributes:
      table: columns mean, low and high, by step; low and high are NaN without an interval.
      single: runs to plot one by one: each of two seeds, and runs that stopped early.
    """

    table: pd.DataFrame
    single: list[pd.Series]


def method_curve(runs: Sequence[Run], key: str, window: int = 1) -> Curve | None:
    """Averages a metric over the runs of one method.

    Args:
      runs: of one method; runs without the metric are skipped.
      key: a column of `Run.train`, or of `Run.evaluations` if it starts with "eval/".
      window: of the centered running mean of each run, in logged lines; odd.

    Returns:
      The curve, with a t interval over at least three seeds, for a rate widened by that over
      prompts (`rate_interval`), or, for an evaluation of one run, the interval over prompts that it
      logged; None if no run has the metric.
    """
    evaluation = key.startswith("eval/")
    found = {}
    for run in runs:
        values = series(run.evaluations if evaluation else run.train, key)
        if len(values):
            found[run] = values.rolling(window, center=True, min_periods=1).mean()
    if not found:
        return None
    averaged = furthest(list(found))
    single = [values for run, values in found.items() if run not in averaged]
    runs_by_step = pd.concat([found[run] for run in averaged], axis=1, join="inner")
    sides = [runs_by_step] + [
        pd.DataFrame({run: series(run.evaluations, f"{key}_{side}") for run in averaged})
        for side in ("low", "high")
    ]
    if evaluation and all(runs_by_step.index.isin(x.dropna().index).all() for x in sides):
        at = runs_by_step.index
        interval = rate_interval(*(x.loc[at].to_numpy().T for x in sides))
    else:
        interval = t_interval(runs_by_step.to_numpy().T)
    mean, low, high, _ = interval
    table = pd.DataFrame({"mean": mean, "low": low, "high": high}, runs_by_step.index)
    if 1 < len(averaged) < MIN_SEEDS_FOR_BAND:
        table[["low", "high"]] = np.nan
        single += [found[run] for run in averaged]
    return Curve(table, single)


def final_estimate(runs: Sequence[Run], key: str) -> Estimate | None:
    """Returns an evaluation metric at the end of the runs of one method that got furthest.

    Returns:
      The mean over seeds with its interval: by `rate_interval` if the evaluations logged intervals
      over prompts, else by `t_interval`. None if no run has the metric.
    """
    return _estimate([run.evaluations.iloc[-1:] for run in furthest(runs)], key)


def start_estimate(runs: Sequence[Run], key: str) -> Estimate | None:
    """Returns `final_estimate` before training; runs with one warm start count once."""
    rows = [run.evaluations.loc[run.evaluations.index == 0] for run in runs]
    return _estimate(list({tuple(series(row, key)): row for row in rows}.values()), key)


def _estimate(rows: Sequence[pd.DataFrame], key: str) -> Estimate | None:
    rows = [row for row in rows if len(series(row, key))]
    if not rows:
        return None
    sides = [
        np.array([series(row, name).iloc[0] for row in rows if len(series(row, name))])
        for name in (key, f"{key}_low", f"{key}_high")
    ]
    complete = all(len(side) == len(rows) for side in sides)
    values, lows, highs = sides
    return rate_interval(values, lows, highs) if complete else t_interval(values)


def exact_masses(runs: Sequence[Run]) -> list[GradientMasses]:
    """Returns the exact gradient masses of one method at `SOLVE_RATES`.

    Args:
      runs: of one method; uses the first of those that got furthest.

    Returns:
      One pair of masses, or two, at the first and last step, if α or δ move; none if the advantage
      is not a function of one group's rewards, or cannot be imported.
    """
    run = furthest(runs)[0]
    group_size = setting(run.config, "group_size", 0)
    if not group_size:
        return []
    try:
        return [gradient_masses(fn, SOLVE_RATES, group_size) for fn in _advantages_of(run)]
    except (TypeError, ValueError):
        return []


def _advantages_of(run: Run) -> list[Callable[[jax.Array], jax.Array]]:
    name = str(setting(run.config, "advantage.name"))
    alphas, deltas = (series(run.train, key) for key in ("alpha", "delta"))
    if alphas.nunique() > 1 or deltas.nunique() > 1:
        # The formula of a user's advantage is unknown here, and so is its use of α and δ.
        return [] if is_own(name) else [_frozen_fade(alphas, deltas, at) for at in (0, -1)]
    transformation = factory_of(name)(**(setting(run.config, "advantage.kwargs") or {}))
    return [jax.jit(lambda rewards: transformation.update(rewards, transformation.init())[0])]


def _frozen_fade(alphas, deltas, at: int) -> Callable[[jax.Array], jax.Array]:
    alpha, delta = (float(x.iloc[at]) if len(x) else 1.0 for x in (alphas, deltas))
    return jax.jit(lambda rewards: fade_jax.fade(rewards, alpha=alpha, delta=delta))
