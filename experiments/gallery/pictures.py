"""The pictures: four panels for each advantage, and one panel of each side by side."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from experiments.gallery.curves import GROUP, Curves, closed, ratio
from experiments.gallery.entries import Entry
from experiments.report.picture import Panel, Picture
from experiments.report.style import BLUE, GREY, INK, VERMILLION, Line

# Close together at both ends, where masses rise like a root and weights diverge.
_SOLVE_RATES = np.sin(np.linspace(0, np.pi / 2, 101)) ** 2
_INSIDE = (_SOLVE_RATES > 0.05) & (_SOLVE_RATES < 0.95)
_RATIO_LIMITS = (1 / 20, 20.0)
_BAND = {"color": GREY, "alpha": 0.35, "linewidth": 5, "solid_capstyle": "butt"}
_PALE = {"alpha": 0.3, "linewidth": 0}
_THIN = {"linewidth": 1.5}


def picture(entry: Entry) -> Picture:
    """Masses, their ratio, the expected weight and the objective of one advantage."""
    panels = (
        Panel("$m_S$ up, $m_F$ down", "p", "", lambda axes: _draw_masses(axes, *_curves(entry))),
        Panel("ratio $m_S / m_F$", "p", "", lambda axes: _draw_ratio(axes, *_curves(entry))),
        Panel("weight $h(p)$", "p", "", lambda axes: _draw_weight(axes, *_curves(entry))),
        Panel("objective $F(p)$", "p", "", lambda axes: _draw_objective(axes, *_curves(entry))),
    )
    source = f" [arXiv {entry.arxiv}](https://arxiv.org/abs/{entry.arxiv})" if entry.arxiv else ""
    caption = f"`{entry.call}`: {entry.formula}. {entry.note}{source}"
    return Picture(entry.name, entry.title, caption, panels)


def overview(entries: Sequence[Entry]) -> Picture:
    """The masses of every advantage, each panel at its own scale."""
    legend = (
        Line("successes, pushed up", BLUE),
        Line("failures, pushed down", VERMILLION),
        Line(f"line: G = {GROUP}", INK),
        Line("filled: large G", "#c4c7cb"),
    )
    caption = (
        "Gradient masses over the solve rate p, from 0 at the left to 1 at the right of each "
        "panel; the dotted line is p = ½. Heights are not to be compared: each panel is scaled to "
        "its own largest mass."
    )
    panels = tuple(_overview_panel(entry) for entry in entries)
    return Picture("overview", "All advantages at a glance", caption, panels, legend)


@cache
def _curves(entry: Entry) -> tuple[Curves, Curves]:
    """At the finite group and at a large one; for the panels, when they are drawn."""
    at_group = entry.exact(entry.advantage(GROUP), GROUP, _SOLVE_RATES)
    return at_group, closed(entry.masses, entry.implied_objective, _SOLVE_RATES)


def _overview_panel(entry: Entry) -> Panel:
    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        _draw_pushes(axes, *_curves(entry))
        axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        axes.set_title(entry.title, loc="left", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[["left", "bottom"]].set_visible(False)

    return Panel(entry.title, "", "", draw)


def _draw_masses(axes: Axes, group: Curves, large: Curves) -> None:
    _draw_pushes(axes, group, large)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda mass, _: f"{abs(mass):g}"))


def _draw_pushes(axes: Axes, group: Curves, large: Curves) -> None:
    """Successes upwards and failures downwards; a negative mass crosses the line."""
    for curve, of_large, sign, colour in (
        (group.success, large.success, 1, BLUE),
        (group.failure, large.failure, -1, VERMILLION),
    ):
        axes.fill_between(_SOLVE_RATES, sign * of_large, color=colour, **_PALE)
        if np.any(curve):
            axes.plot(_SOLVE_RATES, sign * curve, color=colour, **_THIN)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xlim(0, 1)


def _draw_ratio(axes: Axes, group: Curves, large: Curves) -> None:
    axes.set_yscale("log")
    axes.set_ylim(*_RATIO_LIMITS)
    axes.set_xlim(0, 1)
    axes.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.axhline(1, color=INK, linewidth=0.8)
    for curves, style in ((large, _BAND), (group, {"color": INK, **_THIN})):
        values = ratio(curves)
        # What is beyond the panel runs along its edge.
        inside = np.where(values >= 0, np.clip(values, *_RATIO_LIMITS), np.nan)
        axes.plot(_SOLVE_RATES, inside, **style)
    text = _about_ratio(ratio(group)[_INSIDE])
    if text:
        axes.text(0.5, 3 if "∞" in text else 0.3, text, ha="center", va="center")


def _about_ratio(values: np.ndarray) -> str:
    if np.all(np.isposinf(values)):
        return "∞: successes only"
    if np.all(values == 0):
        return "0: failures only"
    return "negative: failures\nare pushed up too" if np.all(values < 0) else ""


def _draw_weight(axes: Axes, group: Curves, large: Curves) -> None:
    _draw_pair(axes, group.weight, large.weight)
    top = [float(np.max(curves.weight[_INSIDE])) for curves in (group, large)]
    axes.set_ylim(0, 1.2 * min(max(top), 1.5 * top[0]))


def _draw_objective(axes: Axes, group: Curves, large: Curves) -> None:
    _draw_pair(axes, group.objective, large.objective)
    axes.set_ylim(0, 1.05 * float(max(group.objective[-1], large.objective[-1])))
    # F never falls, so this corner is free.
    axes.plot([0.62, 0.74], [0.17, 0.17], transform=axes.transAxes, **_BAND)
    axes.plot([0.62, 0.74], [0.06, 0.06], transform=axes.transAxes, color=INK, **_THIN)
    axes.text(0.77, 0.17, "large G", transform=axes.transAxes, va="center", fontsize=8)
    axes.text(0.77, 0.06, f"G = {GROUP}", transform=axes.transAxes, va="center", fontsize=8)


def _draw_pair(axes: Axes, of_group: np.ndarray, of_large: np.ndarray) -> None:
    axes.plot(_SOLVE_RATES, of_large, **_BAND)
    axes.plot(_SOLVE_RATES, of_group, color=INK, **_THIN)
    axes.set_xlim(0, 1)
