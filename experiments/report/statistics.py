"""Means over seeds and held-out prompts with their intervals, curves over steps, gradient masses.

Aggregates the runs of `runs.py`; `plots.py` and `write.py` show it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from scipy import special  # scipy.stats takes a second to import

import fade_jax
from experiments.advantages import factory_of, is_own
from experiments.report.runs import Run, furthest, series, setting
from experiments.tasks.verifier import COUNTED
from fade_jax.decomposition import GradientMasses, gradient_masses
from fade_jax.pass_at_k import interval_over_problems

MIN_SEEDS_FOR_BAND = 3  # a t interval of two seeds is 12.7 standard errors: plot both seeds instead
MOST_PAIRED = 4  # methods of which every pair is compared
SOLVE_RATES = np.linspace(0, 1, 101)
OUTCOMES = ("right", "wrong", "no answer", "cut off", "error", "timeout", "unknown")


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
    half = special.stdtrit(count - 1, (1 + level) / 2) * values.std(0, ddof=1) / np.sqrt(count)
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
        pair = run.pass_at_k(run.last_step, k), other.pass_at_k(other.last_step, k)
        differences.append(_difference(*pair))
    return _mean_difference(differences)


def gain(runs: Sequence[Run], k: int) -> Estimate | None:
    """Returns how much pass@k has risen since before training, paired by seed and by prompt.

    Args:
      runs: of one method; those that got furthest count.
      k: of pass@k.

    Returns:
      As `paired_difference`; None if no run has saved its counts at step 0 and at its last step.
    """
    return _mean_difference(
        [
            _difference(run.pass_at_k(run.last_step, k), run.pass_at_k(0, k))
            for run in furthest(runs)
            if run.last_step > 0
        ]
    )


def _difference(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    if a is None or b is None or a.shape != b.shape:
        return None
    return np.asarray(a, np.float64) - b


def _mean_difference(of_runs: Sequence[np.ndarray | None]) -> Estimate | None:
    differences = [d for d in of_runs if d is not None]
    if not differences or any(d.shape != differences[0].shape for d in differences):
        return None
    by_prompt = np.mean(differences, 0)
    _, low, high = (2 * float(x) - 1 for x in interval_over_problems((1 + by_prompt) / 2))
    values = np.mean(differences, 1)
    return rate_interval(values, np.full(len(values), low), np.full(len(values), high))


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


def outcome_shares(run: Run, window: int = 1) -> pd.DataFrame | None:
    """Returns what became of the completions that a run trained on, as shares of each step.

    Args:
      run: of a task that is verified on the host.
      window: of the centered running mean, in logged lines; odd.

    Returns:
      A row per step with the columns OUTCOMES, which sum to 1; None without counts, or where the
      task's checks tell no reasons.
    """
    counts = pd.DataFrame(
        {kind: series(run.train, f"verification/{name}") for kind, name in COUNTED.items()}
    ).dropna()
    sampled = setting(run.config, "prompts", 0) * setting(run.config, "group_size", 0)
    if counts.empty or not sampled:
        return None
    failed = counts.drop(columns="unknown").to_numpy().sum()
    if not failed and series(run.train, "reward").min() < 1:
        return None
    # Dynamic sampling verifies further batches in a step.
    rounds = series(run.train, "resampling/rounds").reindex(counts.index).fillna(0)
    shares = counts.div(sampled * (1 + rounds), axis=0)
    shares["right"] = 1 - shares.sum(axis=1)
    shares["error"] += shares.pop("died")
    shares = pd.DataFrame(shares, columns=pd.Index(OUTCOMES))
    return pd.DataFrame(shares.rolling(window, center=True, min_periods=1).mean())


def sampled_tokens(run: Run) -> pd.Series:
    """Returns how many tokens a run has sampled for training after each logged step, and 0 at 0.

    Steps that were not logged count as the next one, and the groups that dynamic sampling replaced
    as those that it kept. Empty if the run has logged no lengths.
    """
    tokens = series(run.train, "tokens")
    if tokens.empty:  # a run of before this column
        rollouts = setting(run.config, "prompts", 0) * setting(run.config, "group_size", 0)
        tokens = pd.Series(series(run.train, "length") * rollouts)
    tokens = pd.Series(tokens[tokens.index > 0])
    if not tokens.any():
        return tokens.iloc[:0]
    rounds = series(run.train, "resampling/rounds").reindex(tokens.index).fillna(0)
    steps = np.diff([0, *tokens.index])
    return pd.concat([pd.Series({0: 0.0}), (tokens * (1 + rounds) * steps).cumsum()])


def mean_tokens(runs: Sequence[Run]) -> pd.Series:
    """Returns `sampled_tokens` averaged over the runs of one method that got furthest.

    Between the steps that a run has logged its count is linear. Empty if none has logged lengths.
    """
    found = [tokens for run in furthest(runs) if len(tokens := sampled_tokens(run))]
    if not found:
        return pd.Series(dtype=np.float64)
    steps = np.unique(np.concatenate([tokens.index for tokens in found]))
    return pd.Series(np.mean([np.interp(steps, x.index, x) for x in found], axis=0), steps)


class Signal(NamedTuple):
    """Whether the advantages of a run had something to tell apart.

    Attributes:
      steps: that were logged.
      without: of them, steps in which all rollouts of every prompt had one reward.
      all_wrong: of those, steps in which no rollout was right.
      prompts: mean share of the prompts of a step whose rollouts had one reward.
    """

    steps: int
    without: int
    all_wrong: int
    prompts: float


def signal(run: Run) -> Signal | None:
    """Counts the steps of a run without a signal; None if it has not logged them."""
    equal = series(run.train, "zero_variance_fraction")
    if equal.empty:
        return None
    without = pd.Series(equal[equal >= 1]).index
    solved = series(run.train, "solve_rate").reindex(without)
    return Signal(len(equal), len(without), int((solved == 0).sum()), float(equal.mean()))


class Difference(NamedTuple):
    """pass@k of a method minus that of another, by `paired_difference`."""

    method: str
    minus: str
    k: int
    found: Estimate


def differences(methods: Mapping[str, Sequence[Run]], ks: Sequence[int]) -> list[Difference]:
    """Returns the paired differences of every pair of up to four methods, else from one of them.

    Args:
      methods: runs by method.
      ks: of pass@k.

    Returns:
      Those that have an estimate, k by k.
    """
    names = [name for name in methods if name != reference(methods)]
    names.append(reference(methods))
    if len(names) <= MOST_PAIRED:
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    else:
        pairs = [(name, names[-1]) for name in names[:-1]]
    return [
        Difference(a, b, k, found)
        for k in ks
        for a, b in pairs
        if (found := paired_difference(methods[a], methods[b], k))
    ]


def reference(methods: Mapping[str, Sequence[Run]]) -> str:
    """Returns the method that others are compared with: grpo, else the first."""
    return "grpo" if "grpo" in methods else next(iter(methods))


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
