"""The tables: every point of an axis, and the exponents of all axes."""

import math
from collections.abc import Sequence

from experiments.benchmarks.growth.axes import Axis
from experiments.benchmarks.growth.fit import LIMIT
from experiments.benchmarks.growth.series import STEPS, series
from experiments.report.table import Table

MARK = " ▲"


def points_table(axis: Axis, records: Sequence[dict]) -> Table:
    """A row for each point: work, seconds and memory of both steps."""
    head = [axis.title]
    for name in STEPS.values():
        head += [f"{name}, GFLOP", "s", "GFLOP/s", "peak, MB", "program, MB", "compile, s"]
    both = [series(axis, records, step) for step in STEPS]
    rows = []
    for i, value in enumerate(both[0].values):
        row = [str(value)]
        for one in both:
            row += [
                _figure(one.work[i] / 1e9),
                _figure(one.seconds[i]) + MARK * one.slow[i],
                _figure(one.work[i] / one.seconds[i] / 1e9),
                _figure(one.peak[i] / 1e6),
                _figure(one.program[i] / 1e6) + MARK * one.large[i],
                _figure(one.compile_seconds[i]),
            ]
        rows.append(tuple(row))
    caption = (
        f"{MARK.strip()}: since the row above, time or memory has grown more than {LIMIT} times as"
        " fast as the counted work. Seconds: medians. Peak: what the process held beyond one that"
        " has compiled and run, without arrays. Program: arguments, outputs and temporaries as the"
        " compiler plans them, of all devices."
    )
    return Table(tuple(head), tuple(rows), caption)


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
        " Memory: as the compiler plans it. – where the work does not vary."
    )
    return Table(head, tuple(rows), caption)


def _figure(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _exponent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
