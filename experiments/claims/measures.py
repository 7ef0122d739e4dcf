"""Statistics of a method's runs, and differences between two methods, paired by seed.

A measure takes a sweep and a method's runs, and gives the statistic that
`experiments.claims.bootstrap` describes: `[resamples + 1, seeds]`, or `[1, seeds]` where it does
not depend on the prompts.
"""

from collections.abc import Callable, Sequence

import numpy as np

from experiments.claims import bootstrap
from experiments.claims.bootstrap import Draw
from experiments.claims.sweep_data import SweepData
from experiments.report.intervals import Estimate
from experiments.report.runs import Run, series

Measure = Callable[[SweepData, Sequence[Run], Draw], np.ndarray]
Arm = tuple[SweepData, str]  # a method of a sweep


def final_pass(k: int) -> Measure:
    """pass@k at the last evaluation."""
    return lambda sweep, runs, drawn: np.stack(
        [_rates(sweep, run, k, drawn)[:, -1] for run in runs], -1
    )


def gain(k: int) -> Measure:
    """pass@k at the last evaluation minus that before training."""

    def measure(sweep: SweepData, runs: Sequence[Run], drawn: Draw) -> np.ndarray:
        rates = [_rates(sweep, run, k, drawn) for run in runs]
        return np.stack([at[:, -1] - at[:, 0] for at in rates], -1)

    return measure


def pass_at_step(k: int, step: int) -> Measure:
    """pass@k at the evaluation of a step, or at the nearest where that step has none."""

    def measure(sweep: SweepData, runs: Sequence[Run], drawn: Draw) -> np.ndarray:
        columns = []
        for run in runs:
            at = int(np.argmin(np.abs(_steps(sweep, run) - step)))
            columns.append(_rates(sweep, run, k, drawn)[:, at])
        return np.stack(columns, -1)

    return measure


def pass_after_start(k: int) -> Measure:
    """pass@k at the first evaluation after that before training."""
    return lambda sweep, runs, drawn: np.stack(
        [_rates(sweep, run, k, drawn)[:, 1] for run in runs], -1
    )


def matched_pass(k: int, level: float) -> Measure:
    """pass@k where pass@1 first reaches a level, interpolated between evaluations."""

    def measure(sweep: SweepData, runs: Sequence[Run], drawn: Draw) -> np.ndarray:
        return np.stack(
            [
                bootstrap.at_crossing(
                    _steps(sweep, run),
                    _rates(sweep, run, 1, drawn),
                    level,
                    _rates(sweep, run, k, drawn),
                )
                for run in runs
            ],
            -1,
        )

    return measure


def steps_to(levels: Sequence[float]) -> Measure:
    """The step at which pass@1 first reaches a level, interpolated; a level for each run."""

    def measure(sweep: SweepData, runs: Sequence[Run], drawn: Draw) -> np.ndarray:
        return np.stack(
            [
                bootstrap.crossing(_steps(sweep, run), _rates(sweep, run, 1, drawn), level)
                for run, level in zip(runs, levels, strict=True)
            ],
            -1,
        )

    return measure


def final_entropy(sweep: SweepData, runs: Sequence[Run], drawn: Draw) -> np.ndarray:
    """Mean token entropy of the last held-out evaluation, nats; over seeds alone."""
    return np.array([[series(run.evaluations, "eval/entropy")[1][-1] for run in runs]])


def final_rank_one(sweep: SweepData, runs: Sequence[Run], drawn: Draw) -> np.ndarray:
    """Rank-one fraction of the head's update at the end; over seeds alone, NaN where not logged."""
    return np.array([[(run.result or {}).get("rank_one_fraction", np.nan) for run in runs]])


def samples(arm: Arm, measure: Measure, seeds: Sequence[int]) -> np.ndarray:
    """The mean over seeds of a measure in every resample, `[resamples + 1]`."""
    statistic, drawn = per_seed(arm, measure, seeds)
    return bootstrap.over_seeds(statistic, drawn.seeds)


def per_seed(arm: Arm, measure: Measure, seeds: Sequence[int]) -> tuple[np.ndarray, Draw]:
    """The statistic of a measure `[resamples + 1 or 1, seeds]`, and the draw it was made with.

    Raises:
      ValueError: if the method has not finished one of the seeds.
    """
    sweep, method = arm
    runs = sweep.methods.get(method, {})
    missing = [seed for seed in seeds if seed not in runs]
    if missing or not seeds:
        raise ValueError(f"{method} of {sweep.name} has finished seeds {sorted(runs)}: {missing}?")
    prompts = len(next(iter(sweep.counts[runs[seeds[0]].name].values())))
    drawn = bootstrap.draw(len(seeds), prompts)
    return measure(sweep, [runs[seed] for seed in seeds], drawn), drawn


def value(arm: Arm, measure: Measure, seeds: Sequence[int] | None = None) -> Estimate:
    """The mean over seeds of a measure, with its interval."""
    seeds = arm[0].seeds([arm[1]]) if seeds is None else seeds
    return bootstrap.estimate(samples(arm, measure, seeds), len(seeds))


def difference(a: Arm, b: Arm, measure: Measure, seeds: Sequence[int]) -> Estimate:
    """The mean over seeds of a's measure minus b's, paired by seed, with its interval.

    Args:
      a: a method of a sweep.
      b: another; both sweeps must have the same held-out prompts where they are two.
      measure: of both.
      seeds: of both.

    Returns:
      The estimate; a seed in which one of them has no value is left out of the mean, and of the
      count.
    """
    return bootstrap.estimate(*difference_samples(a, b, measure, seeds))


def difference_samples(
    a: Arm, b: Arm, measure: Measure, seeds: Sequence[int]
) -> tuple[np.ndarray, int]:
    """The difference in every resample `[resamples + 1]`, and of how many seeds it is the mean."""
    (first, drawn), (second, _) = (per_seed(arm, measure, seeds) for arm in (a, b))
    paired = first - second
    return bootstrap.over_seeds(paired, drawn.seeds), int(np.isfinite(paired[0]).sum())


def observed(arm: Arm, measure: Measure, seeds: Sequence[int]) -> np.ndarray:
    """Each seed's own value, `[seeds]`."""
    return per_seed(arm, measure, seeds)[0][0]


def _steps(sweep: SweepData, run: Run) -> np.ndarray:
    return np.array(sorted(sweep.counts[run.name]))


def _rates(sweep: SweepData, run: Run, k: int, drawn: Draw) -> np.ndarray:
    """pass@k at each evaluation of a run in every resample, `[resamples + 1, evaluations]`."""
    counts = sweep.counts[run.name]
    table = np.stack([counts[step] for step in sorted(counts)])
    return bootstrap.resampled(bootstrap.pass_rates(table, sweep.num_samples, k), drawn.prompts)
