"""Drawing the curves of all methods on one pair of axes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from experiments.report.aggregate import SEEDS_FOR_A_BAND, Curve, method_curve
from experiments.report.picture import Panel
from experiments.report.runs import Run, by_method, furthest
from experiments.report.style import Line, method_lines


def curves(runs: Sequence[Run], key: str, window: int = 1) -> dict[str, Curve]:
    """The curve of a key for each method that has it."""
    found = {
        method: method_curve(members, key, window) for method, members in by_method(runs).items()
    }
    return {method: curve for method, curve in found.items() if curve is not None}


def draw_curve(axes: Axes, curve: Curve, line: Line, scale: float = 1.0) -> None:
    """Draws the mean, its band, and thinly the runs that stand on their own."""
    for steps, values in curve.single:
        at = _points(len(steps))
        axes.plot(steps[at], scale * values[at], color=line.colour, linewidth=0.7, alpha=0.6)
    at = _points(len(curve.steps))
    if curve.low is not None and curve.high is not None:
        low, high = scale * curve.low[at], scale * curve.high[at]
        axes.fill_between(curve.steps[at], low, high, color=line.colour, alpha=0.15, linewidth=0)
    axes.plot(
        curve.steps[at],
        scale * curve.mean[at],
        color=line.colour,
        dashes=line.dashes or (None, None),
        linewidth=1.8,
    )


def _points(count: int) -> np.ndarray:
    """Evenly spaced points of a curve, first and last among them: a panel is 250 dots wide."""
    return np.unique(np.linspace(0, count - 1, min(count, 200)).round().astype(int))


def curve_panel(
    runs: Sequence[Run],
    key: str,
    title: str,
    y: str,
    *,
    scale: float = 1.0,
    window: int = 1,
    limits: tuple[float | None, float | None] = (None, None),
) -> Panel | None:
    """A panel of one key over steps, a curve for each method; None where no run has the key."""
    found = curves(runs, key, window)
    lines = method_lines(runs)
    if not found:
        return None
    last = max(run.last_step for run in runs) or None

    def draw(axes: Axes) -> None:
        for method, curve in found.items():
            draw_curve(axes, curve, lines[method], scale)
        axes.set_xlim(0, last)
        axes.set_ylim(*limits)
        if limits == (0, None):  # the margin above, which the data's own range made too small
            axes.set_ylim(top=1.04 * axes.get_ylim()[1])

    return Panel(title, "step", y, draw)


def smoothing_window(runs: Sequence[Run]) -> int:
    """An odd number of logged lines, about a thirtieth of the longest run."""
    longest = max((len(run.train) for run in runs), default=0)
    return 2 * (longest // 60) + 1


def what_lines_are(runs: Sequence[Run], over_problems: bool = False) -> str:
    """The sentence of a caption that says what lines and bands are, and of how many runs."""
    members = by_method([run for run in runs if run.train or run.evaluations])
    counts = sorted({len(furthest(group)) for group in members.values()})
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    if counts == [1]:
        text = "One run per method" + (
            ", bands: 95% interval over problems." if over_problems else "."
        )
    elif counts[-1] < SEEDS_FOR_A_BAND:
        text = f"Thick: mean over the seeds of a method (n = {number}); thin: each seed."
    else:
        text = f"Lines: mean over the seeds of a method (n = {number}), bands: 95% t-interval."
    if over_problems and counts[0] == 1 < counts[-1]:
        text += " The band of a method with one run: 95% interval over problems."
    if any(len(furthest(group)) < len(group) for group in members.values()):
        text += " Thin lines that end early: runs that stopped, left out of the mean."
    return text


def legend(runs: Sequence[Run], methods: Sequence[str] | None = None) -> tuple[Line, ...]:
    """The legend of some methods, by default of all."""
    lines = method_lines(runs)
    return tuple(lines[method] for method in (lines if methods is None else methods))


def panels(*found: Panel | None) -> tuple[Panel, ...]:
    """Those panels that have data."""
    return tuple(panel for panel in found if panel is not None)
