"""pass@1 against pass@k of all methods at the end, with the front that no method is beyond."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from experiments.claims import measures
from experiments.claims.sweep_data import SweepData
from experiments.report.picture import Panel, Picture
from experiments.report.pictures.names import name_points
from experiments.report.style import GREY, method_lines

_WITH_METHODS = ("core", "methods", "countdown", "arithmetic")


def trade_offs(sweeps: dict[str, SweepData]) -> Picture | None:
    """A panel for each sweep that compares methods; None where there is none."""
    panels = tuple(_panel(data) for name, data in sweeps.items() if name in _WITH_METHODS)
    if not panels:
        return None
    caption = (
        "Each method at its last evaluation, mean over the seeds, with 95% bootstrap intervals "
        "over seeds and held-out prompts. Grey steps: the front, beyond which no method is in both "
        "at once. Up and to the right is better."
    )
    return Picture("front", "pass@1 against pass@k of all methods", caption, panels)


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other is at least as good as in both and better in one, by the first."""
    best, found = -np.inf, []
    for x, y in sorted(set(points), reverse=True):
        if y > best:
            found.append((x, y))
            best = y
    return found[::-1]


def _panel(data: SweepData) -> Panel:
    k = data.ks[-1]
    methods = [method for method, runs in data.methods.items() if runs]
    values = {
        m: tuple(measures.value((data, m), measures.final_pass(n)) for n in (1, k)) for m in methods
    }
    lines = method_lines(data.finished)

    def draw(axes: Axes) -> None:
        steps = front([(100 * x.value, 100 * y.value) for x, y in values.values()])
        axes.step(*zip(*steps), where="pre", color=GREY, linewidth=1, zorder=1)
        for method, (x, y) in values.items():
            colour = lines[method].colour
            across, up = 100 * x.value, 100 * y.value
            axes.plot([100 * x.low, 100 * x.high], [up, up], color=colour, linewidth=0.8, alpha=0.5)
            axes.plot(
                [across] * 2, [100 * y.low, 100 * y.high], color=colour, linewidth=0.8, alpha=0.5
            )
            fill = "white" if lines[method].dashes else colour
            axes.plot([across], [up], "o", color=colour, mfc=fill, markersize=6)
        named = {m: (100 * x.value, 100 * y.value) for m, (x, y) in values.items()}
        name_points(axes, named, {m: line.colour for m, line in lines.items()})

    return Panel(f"{data.name}: pass@{k} against pass@1", "pass@1, %", f"pass@{k}, %", draw)
