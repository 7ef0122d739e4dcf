"""Runs of one method brought together: curves over steps, and estimates at the end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.report.intervals import Estimate, mean_interval
from experiments.report.runs import Run, furthest, series

SEEDS_FOR_A_BAND = 3  # with two seeds a t-interval is 12.7 standard errors: draw the seeds instead


@dataclass(frozen=True)
class Curve:
    """One method's curve: the mean of the runs that got furthest, and what surrounds it.

    `low` and `high` are None where there is no interval to draw; `single` holds the runs to draw
    on their own: each seed where there are only two, and every run that stopped early.
    """

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    single: tuple[tuple[np.ndarray, np.ndarray], ...]


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The centred mean of `window` values; at the ends, of those that are there."""
    if window <= 1 or len(values) == 0:
        return values
    kernel = np.ones(min(window, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def method_curve(runs: Sequence[Run], key: str, window: int = 1) -> Curve | None:
    """The curve of a key over the runs of one method.

    Args:
      runs: of one method; only those that have the key at all count.
      key: of a line of metrics.jsonl; keys of evaluations start with "eval/".
      window: of the running mean taken of each run first, in logged lines.

    Returns:
      The curve, or None where no run has the key.
    """
    evaluation = key.startswith("eval/")
    found = {}
    for run in runs:
        steps, values = series(run.evaluations if evaluation else run.train, key)
        if len(steps):
            found[run.name] = (run, steps, running_mean(values, window))
    if not found:
        return None
    averaged = furthest([run for run, _, _ in found.values()])
    lines = [found[run.name] for run in averaged]
    common = _common_steps([steps for _, steps, _ in lines])
    table = np.stack([values[np.isin(steps, common)] for _, steps, values in lines])
    stopped = [(s, v) for run, s, v in found.values() if run not in averaged]
    low = high = None
    if len(lines) >= SEEDS_FOR_A_BAND:
        estimates = [mean_interval(column) for column in table.T]
        low = np.array([estimate.low for estimate in estimates])
        high = np.array([estimate.high for estimate in estimates])
    elif len(lines) == 1 and evaluation:
        low, high = _problem_interval(lines[0][0], key, common)
    elif len(lines) > 1:
        stopped += [(steps, values) for _, steps, values in lines]
    return Curve(common, table.mean(0), low, high, tuple(stopped))


def _common_steps(all_steps: Sequence[np.ndarray]) -> np.ndarray:
    common = all_steps[0]
    for steps in all_steps[1:]:
        common = np.intersect1d(common, steps)
    return common


def _problem_interval(run: Run, key: str, steps: np.ndarray):
    low_steps, low = series(run.evaluations, f"{key}_low")
    high_steps, high = series(run.evaluations, f"{key}_high")
    if not (np.array_equal(low_steps, steps) and np.array_equal(high_steps, steps)):
        return None, None
    return low, high


def final_estimate(runs: Sequence[Run], key: str) -> Estimate | None:
    """The value of an evaluation key at the end of the runs of one method that got furthest.

    Args:
      runs: of one method.
      key: of an evaluation line.

    Returns:
      Several seeds: their mean with a t-interval over seeds. One: its value, with the interval over
      problems that the evaluation logged. None where no run has the key.
    """
    return _estimate([run.evaluations[-1:] for run in furthest(runs)], key)


def start_estimate(runs: Sequence[Run], key: str) -> Estimate | None:
    """As `final_estimate`, before training: the evaluations at step 0 that differ."""
    lines = [line for run in runs for line in run.evaluations[:1] if line["step"] == 0]
    different = {line.get(key): (line,) for line in lines}
    return _estimate(list(different.values()), key)


def _estimate(lines_of_runs, key: str) -> Estimate | None:
    values = [float(value) for lines in lines_of_runs for value in series(lines, key)[1]]
    if not values:
        return None
    if len(values) > 1:
        return mean_interval(values)
    (line,) = next(lines for lines in lines_of_runs if len(series(lines, key)[1]))
    low, high = (line.get(f"{key}_{side}") for side in ("low", "high"))
    return Estimate(values[0], *(math.nan if x is None else float(x) for x in (low, high)), 1)
