"""The trade-off between pass@1 and pass@k: the path of each method over training."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from experiments.report.aggregate import final_estimate, start_estimate
from experiments.report.picture import Panel, Picture
from experiments.report.pictures.lines import curves, legend
from experiments.report.runs import Run, by_method, pass_ks
from experiments.report.style import INK, Line, method_lines


def tradeoff(runs: Sequence[Run]) -> Picture | None:
    """Paths of (pass@1, pass@k) from before training, marked at the start, to the end."""
    found = tuple(_panel(runs, k) for k in pass_ks(runs) if k > 1)
    if not found or not curves(runs, "eval/pass@1"):
        return None
    caption = (
        "Each path leads from before training (square) to the last evaluation (dot, with its 95% "
        "intervals as in the table); a small point is an evaluation, the mean over seeds. "
        "Up and to the right is better: exploitation against diversity."
    )
    marks = (Line("before training", INK, marker="s"),)
    return Picture("tradeoff", "pass@1 against pass@k", caption, found, legend(runs) + marks)


def _panel(runs: Sequence[Run], k: int) -> Panel:
    ones, others = curves(runs, "eval/pass@1"), curves(runs, f"eval/pass@{k}")
    lines = method_lines(runs)

    def draw(axes: Axes) -> None:
        for method, members in by_method(runs).items():
            if method not in ones or method not in others:
                continue
            line = lines[method]
            axes.plot(
                100 * ones[method].mean,
                100 * others[method].mean,
                color=line.colour,
                dashes=line.dashes or (None, None),
                linewidth=1.2,
                marker=".",
                markersize=4,
            )
            _draw_end(axes, members, k, line)
        start = [start_estimate(runs, f"eval/pass@{which}") for which in (1, k)]
        if all(start):
            x, y = (100 * estimate.value for estimate in start)
            axes.plot(x, y, marker="s", color=INK, mfc="none", markersize=8)

    return Panel(f"pass@{k} against pass@1", "pass@1, %", f"pass@{k}, %", draw)


def _draw_end(axes: Axes, members: Sequence[Run], k: int, line: Line) -> None:
    x, y = (final_estimate(members, f"eval/pass@{which}") for which in (1, k))
    if x is None or y is None:
        return
    for estimate, horizontal in ((x, True), (y, False)):
        if math.isnan(estimate.low):
            continue
        along = [100 * max(estimate.low, 0), 100 * min(estimate.high, 1)]
        across = [100 * (y if horizontal else x).value] * 2
        ends = (along, across) if horizontal else (across, along)
        axes.plot(*ends, color=line.colour, linewidth=1, alpha=0.5)
    axes.plot(100 * x.value, 100 * y.value, marker="o", color=line.colour, markersize=8)
