"""The two readings of each arm of isolate_delta: D at matched pass@1, and E of the gain."""

import math
from collections.abc import Mapping

from matplotlib.axes import Axes

from experiments.claims.criteria.isolate_delta import ARMS, LEVEL, gap
from experiments.claims.study import NotRun, Study
from experiments.report.intervals import Estimate
from experiments.report.picture import Panel, Picture
from experiments.report.runs import Run
from experiments.report.style import INK, method_lines

_METHODS = {"reinforce": "reinforce", "nsr": "nsr", "asym0.5": "asym_grpo", "asym2": "asym_grpo"}


_SCALE = {"D": 100, "E": 1}


def gaps(study: Study) -> Picture | None:
    """A group of intervals for each arm, one for each method; None where no arm was run."""
    runs = [Run(m, m, {"advantage": {"name": name}}, (), (), None) for m, name in _METHODS.items()]
    lines = method_lines(runs)
    panels, methods = [], set()
    for reading, label in (("D", "D, points"), ("E", "E, share of RLOO's gain")):
        shown = _found(study, reading)
        methods |= {method for _, method in shown}
        if shown:
            panels.append(Panel(reading, "arm", label, _drawer(shown, lines, _SCALE[reading])))
    if not panels:
        return None
    caption = (
        f"D: pass@100 of a method minus that of RLOO, in points, both where pass@1 first "
        f"reaches {100 * LEVEL:g}%. E: a method's gain in pass@1 over the arm by RLOO's, minus 1. "
        "95% bootstrap intervals over seeds and prompts. REINFORCE, NSR and RLOO have the same h: "
        "without noise, finite steps, reuse and Adam they would lie on 0. A method or RLOO that "
        "misses the level in a seed has no D in that arm."
    )
    legend = tuple(line for method, line in lines.items() if method in methods)
    return Picture("isolate_arms", "D and E in each arm", caption, tuple(panels), legend)


def _found(study: Study, reading: str) -> dict[tuple[str, str], Estimate]:
    """The estimates that there are, by arm and method."""
    found: dict[tuple[str, str], Estimate] = {}
    for arm in ARMS:
        for method in _METHODS:
            try:
                found[arm, method] = gap(study, arm, method, reading).estimate
            except NotRun:
                continue
    return {key: estimate for key, estimate in found.items() if not math.isnan(estimate.low)}


def _drawer(shown: Mapping[tuple[str, str], Estimate], lines, scale: float):
    def draw(axes: Axes) -> None:
        axes.axhline(0, color=INK, linewidth=0.8)
        for (arm, method), estimate in shown.items():
            x = ARMS.index(arm) + 0.16 * (list(_METHODS).index(method) - 1.5)
            ends = [scale * estimate.low, scale * estimate.high]
            axes.plot([x, x], ends, color=lines[method].colour, linewidth=1.6)
            fill = "white" if lines[method].dashes else lines[method].colour
            axes.plot(
                [x],
                [scale * estimate.value],
                "o",
                color=lines[method].colour,
                mfc=fill,
                markersize=5,
            )
        axes.set_xticks(range(len(ARMS)), ARMS)
        axes.set_xlim(-0.5, len(ARMS) - 0.5)
        axes.grid(visible=False, axis="x")

    return draw
