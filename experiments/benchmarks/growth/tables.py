"""The tables: every point of an axis, and the exponents of all axes."""

import math
from collections.abc import Sequence

from experiments.benchmarks.growth.axes import Axis
from experiments.benchmarks.growth.series import STEPS, series
from experiments.report.table import Table

MARK = " ▲"


def points_table(axis: Axis, records: Sequence[dict], step: str) -> Table:
    """A row for each point: work, seconds and memory of one step."""
    one = series(axis, records, step)
    head = (
        axis.title,
        "GFLOP",
        "CPU s",
        "s",
        "GFLOP / CPU s",
        "peak, MB",
        "program, MB",
        "compile, s",
    )
    rows = []
    for i, value in enumerate(one.values):
        rate = one.work[i] / one.cpu_seconds[i] / 1e9
        rows.append(
            (
                str(value),
                _figure(one.work[i] / 1e9),
                _figure(one.cpu_seconds[i]) + MARK * one.slow[i],
                _figure(one.seconds[i]),
                _figure(rate),
                _figure(one.peak[i] / 1e6),
                _figure(one.program[i] / 1e6) + MARK * one.large[i],
                _figure(one.compile_seconds[i]),
            )
        )
    return Table(head, tuple(rows), f"The {STEPS[step]}.")


def exponents_table(axes: Sequence[Axis], records: dict[str, list[dict]]) -> Table:
    """A row for each axis and step."""
    rows, head = [], ("axis", "step")
    for axis in axes:
        for step, name in STEPS.items():
            found = series(axis, records[axis.name], step).exponents()
            head = ("axis", "step", *found)
            rows.append((axis.title, name, *(_exponent(value) for value in found.values())))
    caption = (
        "Slopes of least-squares lines through the logarithms: 1 is in proportion, 2 is the square."
        " Time: of the processor. Memory: as the compiler plans it. – where the work does not vary."
    )
    return Table(head, tuple(rows), caption)


def _figure(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _exponent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
