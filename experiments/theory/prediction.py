"""The prediction as a table: when each method reaches a pass@1, and with which pass@100."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath

import numpy as np

from experiments.factories import factory_of
from experiments.logs import replacing
from experiments.theory.dynamics import Path, simulate
from experiments.theory.start import Start

Advantages = Mapping[str, tuple[str, Mapping]]

# The pass@1 of GRPO at step 600 in docs/quickstart, one seed at a learning rate of 3e-4.
ANCHOR = ("grpo", 600, 0.546)
HIGHEST_LEVEL = 0.6
QUANTITIES = ("steps_to_level", "pass_at_100", "solved_share")
# Rank 1: the fewest steps, the highest pass@100, the smallest share on solved prompts.
_BEST_IS_LARGE = {"steps_to_level": False, "pass_at_100": True, "solved_share": False}
_DIGITS = {"steps_to_level": 1, "pass_at_100": 4, "solved_share": 4}


def step_size(start: Start, group_size: int, anchor: tuple[str, int, float] = ANCHOR) -> float:
    """The model's step that lets one method reach a known pass@1 at a known step.

    Args:
      start: of the sweep.
      group_size: G.
      anchor: factory, step and pass@1 of a run that is not one of those to be predicted.

    Returns:
      root mean square change of the logits in a step.

    Raises:
      ValueError: if the pass@1 is below that of the start, or is not reached.
    """
    name, steps, reached = anchor
    fine = 0.01
    path = simulate(
        factory_of(name)(),
        start.solve_rate,
        start.weight,
        group_size=group_size,
        step_size=fine,
        steps=2000,
    )
    time = crossing(np.arange(2001), np.asarray(path.pass_at_1), reached)
    if not time > 0:
        raise ValueError(f"anchor {anchor}: the model's pass@1 never crosses {reached}")
    return float(time * fine / steps)


def predict(
    methods: Advantages, start: Start, group_size: int, *, size: float, steps: int
) -> dict[str, Path]:
    """The path of every method, all at one step size."""
    return {
        method: simulate(
            factory_of(name)(**kwargs),
            start.solve_rate,
            start.weight,
            group_size=group_size,
            step_size=size,
            steps=steps,
        )
        for method, (name, kwargs) in methods.items()
    }


def crossing(steps, values, level: float) -> float:
    """The step at which values first reach a level, interpolated; NaN if they never do."""
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    above = np.flatnonzero(values >= level)
    if not len(above):
        return np.nan
    i = above[0]
    if i == 0:
        return float(steps[0])
    part = (level - values[i - 1]) / (values[i] - values[i - 1])
    return float(steps[i - 1] + part * (steps[i] - steps[i - 1]))


def levels_of(paths: Mapping[str, Path]) -> tuple[float, ...]:
    """The pass@1 at which methods are compared: halfway from the start to 0.6, and 0.5."""
    begin = float(next(iter(paths.values())).pass_at_1[0])
    return (round((begin + HIGHEST_LEVEL) / 2, 3), 0.5)


def prediction_table(paths: Mapping[str, Path], levels: Sequence[float]) -> list[dict]:
    """A row for each level and method: the three quantities and their ranks.

    Args:
      paths: by method.
      levels: of pass@1.

    Returns:
      the rows; a method that does not reach a level has NaN there. Ties share their mean rank.
    """
    rows = []
    for level in levels:
        at_level = []
        for method, path in paths.items():
            steps = np.arange(len(path.pass_at_1))
            time = crossing(steps, path.pass_at_1, level)
            at_level.append(
                {
                    "level": level,
                    "method": method,
                    "steps_to_level": time,
                    "pass_at_100": np.interp(time, steps, path.pass_at_100),
                    "solved_share": np.interp(time, steps, path.solved_share),
                }
            )
        for quantity in QUANTITIES:
            values = [round(float(row[quantity]), _DIGITS[quantity]) for row in at_level]
            ranks = mean_ranks(values, largest_first=_BEST_IS_LARGE[quantity])
            for row, value, rank in zip(at_level, values, ranks, strict=True):
                row |= {quantity: value, f"rank_{quantity}": rank}
        rows += at_level
    return rows


def mean_ranks(values: Sequence[float], *, largest_first: bool) -> list[float]:
    """Ranks from 1; equal values share the mean of theirs, NaN comes last."""
    keys = np.asarray(values, float) * (-1 if largest_first else 1)
    keys = np.where(np.isnan(keys), np.inf, keys)
    return [float(np.sum(keys < k) + (np.sum(keys == k) + 1) / 2) for k in keys]


def write_rows(rows: Sequence[Mapping], path: FilePath) -> None:
    """Writes rows of the same columns as CSV, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def curve_rows(paths: Mapping[str, Path], every: int = 20) -> list[dict]:
    """The paths themselves, every so many steps."""
    return [
        {"method": method, "step": step}
        | {f: round(float(getattr(path, f)[step]), 5) for f in Path._fields}
        for method, path in paths.items()
        for step in range(0, len(path.pass_at_1), every)
    ]
