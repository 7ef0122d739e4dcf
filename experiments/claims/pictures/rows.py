"""Pictures of rows: an interval for each figure of a finding, or for each method of a sweep."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from experiments.claims import measures
from experiments.claims.claim import Claim
from experiments.claims.finding import Figure, Finding, side
from experiments.claims.sweep_data import SweepData
from experiments.report.intervals import Estimate
from experiments.report.picture import Panel, Picture
from experiments.report.style import BLUE, GREY, INK, VERMILLION, method_lines

_SCALES = {"points": 100, "nats": 1, "share": 1}
_NAMES = {"points": "pass@k, points", "nats": "entropy, nats", "share": "rank-one fraction"}
_COLOURS = {1: BLUE, -1: VERMILLION, 0: GREY}


def differences(
    name: str, title: str, findings: Sequence[tuple[Claim, Finding]]
) -> tuple[Picture, int] | None:
    """The figures of some findings around 0, a panel for each unit.

    Args:
      name: of the file.
      title: of the picture.
      findings: whose figures to draw.

    Returns:
      The picture, to be drawn in one column, and how many rows it has; None without figures.
    """
    by_unit: dict[str, list[tuple[str, Figure]]] = {}
    for claim, finding in findings:
        for figure in finding.figures:
            if figure.unit in _SCALES and not math.isnan(figure.estimate.low):
                by_unit.setdefault(figure.unit, []).append((claim.sweep, figure))
    if not by_unit:
        return None
    panels = tuple(_panel(unit, rows) for unit, rows in by_unit.items())
    caption = (
        "Each row is a difference between two methods, paired by seed and held-out prompt, with "
        "its 95% bootstrap interval. Blue: the interval is above 0; red: below 0; grey: it "
        "includes 0."
    )
    return Picture(name, title, caption, panels), sum(map(len, by_unit.values()))


def finals(data: SweepData, name: str) -> Picture:
    """pass@1, the last pass@k and the entropy of every method at the end, a row for each."""
    k = data.ks[-1]
    methods = [method for method, runs in data.methods.items() if runs]
    ones = {m: measures.value((data, m), measures.final_pass(1)) for m in methods}
    order = sorted(methods, key=lambda m: ones[m].value)
    lines = method_lines(data.finished)
    columns = (
        ("final pass@1", "%", 100, ones),
        (f"final pass@{k}", "%", 100, _values(data, methods, measures.final_pass(k))),
        ("final entropy", "nats", 1, _values(data, methods, measures.final_entropy)),
    )

    def panel(title: str, unit: str, scale: float, values: dict[str, Estimate], first: bool):
        def draw(axes: Axes) -> None:
            for y, method in enumerate(order):
                _interval(axes, values[method], y, scale, lines[method].colour)
            _label(axes, order if first else [""] * len(order))

        return Panel(title, unit, "", draw)

    panels = tuple(panel(*column, first=not i) for i, column in enumerate(columns))
    caption = (
        f"Methods of sweep {data.name}, by final pass@1: mean over the seeds, with 95% bootstrap "
        "intervals over seeds and held-out prompts (entropy: over seeds). All methods share their "
        "prompts, so intervals that overlap may still differ."
    )
    return Picture(name, f"All methods of {data.name}", caption, panels)


def _values(data: SweepData, methods: Sequence[str], measure) -> dict[str, Estimate]:
    return {method: measures.value((data, method), measure) for method in methods}


def _panel(unit: str, rows: Sequence[tuple[str, Figure]]) -> Panel:
    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=0.8)
        for y, (_, figure) in enumerate(reversed(rows)):
            _interval(axes, figure.estimate, y, _SCALES[unit], _COLOURS[side(figure.estimate)])
        sweeps = len({sweep for sweep, _ in rows}) > 1
        _label(axes, [f"{s}: {f.label}" if sweeps else f.label for s, f in reversed(rows)])

    return Panel("", f"difference in {_NAMES[unit]}", "", draw)


def _interval(axes: Axes, estimate: Estimate, y: float, scale: float, colour: str) -> None:
    value, low, high = (scale * x for x in estimate[:3])
    axes.plot([low, high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot([value], [y], "o", color=colour, markersize=5)


def _label(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.grid(visible=False, axis="y")
