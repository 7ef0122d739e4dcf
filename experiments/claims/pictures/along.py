"""Final figures along an axis of a sweep: δ, α, and FADE's target entropy."""

import re
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from experiments.claims import measures
from experiments.claims.sweep_data import SweepData
from experiments.report.picture import Panel, Picture
from experiments.report.runs import Run, setting
from experiments.report.style import BLUE, GREY, VERMILLION, Line

Place = Callable[[str, Run], tuple[str, float] | None]  # the line of a method, and its x

_BAND = "bars: 95% bootstrap intervals over seeds and held-out prompts (entropy, rank: over seeds)"


def delta(data: SweepData) -> Picture | None:
    """Final figures over δ, at each α."""

    def place(method: str, run: Run):
        found = re.fullmatch(r"alpha([\d.]+)-delta([\d.]+)", method)
        return (f"α = {found[1]}", float(found[2])) if found else None

    caption = (
        "Final pass@1, pass@k, entropy and rank-one fraction of the head's update over δ = m_S/m_F "
        f"(left of 1: failures weigh more). Lines: mean over seeds; {_BAND}."
    )
    return _picture(data, "delta", "The sign axis", caption, place, "δ", log=True)


def alpha(data: SweepData) -> Picture | None:
    """Final figures over α, from each warm start."""

    def place(method: str, run: Run):
        found = re.fullmatch(r"start(\d+)-power([\d.]+)", method)
        return (f"from {found[1]} supervised steps", float(found[2])) if found else None

    caption = (
        "Final pass@1, pass@k, entropy and rank-one fraction of the head's update over the focus α "
        f"(1: GRPO without std). Lines: mean over seeds; {_BAND}."
    )
    return _picture(data, "alpha", "The difficulty axis", caption, place, "α")


def target(data: SweepData) -> Picture | None:
    """Final figures of FADE over its target entropy."""

    def place(method: str, run: Run):
        kwargs = setting(run.config, "advantage.kwargs", {}) or {}
        if "target_entropy" in kwargs:
            return "H* given in nats", float(kwargs["target_entropy"])
        if "target_fraction" in kwargs:
            start = run.evaluations[0]["eval/entropy"]
            return "H* as a fraction of the initial entropy", kwargs["target_fraction"] * start
        return None

    caption = (
        "Final pass@1, pass@k, entropy and rank-one fraction of the head's update of FADE over its "
        f"target entropy (right: an earlier bias to failures). Lines: mean over seeds; {_BAND}."
    )
    return _picture(data, "target", "FADE's target entropy", caption, place, "H*, nats")


def _picture(
    data: SweepData, name: str, title: str, caption: str, place: Place, x: str, log: bool = False
) -> Picture | None:
    places = {m: place(m, next(iter(runs.values()))) for m, runs in data.methods.items() if runs}
    groups: dict[str, list[tuple[float, str]]] = {}
    for method, found in places.items():
        if found:
            groups.setdefault(found[0], []).append((found[1], method))
    if not groups:
        return None
    colours = dict(zip(groups, (BLUE, VERMILLION, GREY)))
    k = data.ks[-1]
    columns = (
        ("final pass@1", "%", 100, measures.final_pass(1)),
        (f"final pass@{k}", "%", 100, measures.final_pass(k)),
        ("final entropy", "nats", 1, measures.final_entropy),
        ("rank-one fraction of the head", "share", 1, measures.final_rank_one),
    )

    def panel(label: str, unit: str, scale: float, measure: measures.Measure) -> Panel:
        def draw(axes: Axes) -> None:
            for group, members in groups.items():
                members = sorted(members)
                values = [measures.value((data, method), measure) for _, method in members]
                at = [position for position, _ in members]
                for position, value in zip(at, values, strict=True):
                    ends = [scale * value.low, scale * value.high]
                    axes.plot([position] * 2, ends, color=colours[group], linewidth=1, alpha=0.6)
                centre = [scale * value.value for value in values]
                axes.plot(at, centre, color=colours[group], marker="o", markersize=4, linewidth=1.6)
            if log:
                axes.set_xscale("log")
                ticks = sorted({position for members in groups.values() for position, _ in members})
                axes.xaxis.set_major_locator(FixedLocator(ticks))
                axes.xaxis.set_minor_locator(NullLocator())
                axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])

        return Panel(label, x, unit, draw)

    panels = tuple(panel(*column) for column in columns)
    legend = tuple(Line(group, colour) for group, colour in colours.items())
    return Picture(name, title, caption, panels, legend)
