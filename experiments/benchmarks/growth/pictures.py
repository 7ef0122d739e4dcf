"""One picture for each axis: seconds of both steps beside their work, and memory."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from experiments.benchmarks.growth.axes import Axis
from experiments.benchmarks.growth.series import STEPS, Series, series
from experiments.report.picture import Panel, Picture
from experiments.report.style import BLUE, GREY, INK, VERMILLION, Line

_COLOURS = {"sample": BLUE, "learn": VERMILLION}
_WORK = (2.0, 1.5)
_PROGRAM = (5.0, 2.0)


def picture(axis: Axis, records: Sequence[dict]) -> Picture:
    """Two panels of seconds and one of bytes, all logarithmic."""
    both = {step: series(axis, records, step) for step in STEPS}
    panels = [
        Panel(f"{STEPS[step]}, CPU seconds", axis.title, "", _seconds(one, _COLOURS[step]))
        for step, one in both.items()
    ]
    panels.append(Panel("memory, MB", axis.title, "", _memory(both)))
    legend = (
        *(Line(f"{STEPS[step]}, measured", _COLOURS[step]) for step in STEPS),
        Line("work at the best rate", GREY, _WORK),
        Line("faster than its work", INK, marker="^"),
        Line("planned memory", GREY, _PROGRAM),
    )
    caption = (
        "Solid: measured. Dotted: the work of each point at the rate of the one that does most FLOP"
        " in a second. Triangles: marked in the table. Dashed: memory as the compiler plans it."
    )
    return Picture(axis.name, f"Growth with {axis.title}", caption, tuple(panels), legend)


def _seconds(one: Series, colour: str):
    def draw(axes: Axes) -> None:
        best = max(work / seconds for work, seconds in zip(one.work, one.cpu_seconds))
        axes.plot(one.values, [work / best for work in one.work], color=GREY, dashes=_WORK)
        axes.plot(one.values, one.cpu_seconds, color=colour, marker=".")
        marked = [(x, y) for x, y, slow in zip(one.values, one.cpu_seconds, one.slow) if slow]
        if marked:
            axes.plot(*zip(*marked), color=INK, marker="^", mfc="none", ms=9, ls="none")
        _logarithmic(axes, one.values)

    return draw


def _memory(both: dict[str, Series]):
    def draw(axes: Axes) -> None:
        for step, one in both.items():
            axes.plot(one.values, [x / 1e6 for x in one.peak], color=_COLOURS[step], marker=".")
            planned = [x / 1e6 for x in one.program]
            axes.plot(one.values, planned, color=_COLOURS[step], dashes=_PROGRAM, linewidth=1)
        _logarithmic(axes, one.values)

    return draw


def _logarithmic(axes: Axes, values: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.margins(y=0.15)
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(plain)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(NullFormatter())
