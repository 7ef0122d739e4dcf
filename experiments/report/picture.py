"""A picture is a few panels with one legend; it becomes a PNG file, or inline SVG for the page."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from experiments.report.style import FAINT, INK, Line

_DPI = 100
_PANEL_INCHES = (3.6, 2.8)
_LEGEND_ROW_INCHES = 0.2
_TEXT = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # text stays text: small, and in the page's own font and colour
    "svg.hashsalt": "fade_jax",  # the same picture is the same file
}


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its title, the names of its axes and what is drawn on them."""

    title: str
    x: str
    y: str
    draw: Callable[[Axes], None]


@dataclass(frozen=True)
class Picture:
    """Panels under one legend; the caption says what is shown, in which units, of how many runs."""

    name: str  # of the PNG file
    title: str
    caption: str
    panels: tuple[Panel, ...]
    legend: tuple[Line, ...] = field(default=())


def to_png(
    picture: Picture, *, columns: int | None = None, inches: tuple[float, float] | None = None
) -> bytes:
    """The whole picture as the bytes of a PNG with a palette, a third of the size without.

    Args:
      picture: to draw.
      columns: panels side by side; by default three, or two where that fills the rows.
      inches: of the whole picture, 100 pixels each; by default the panels decide.

    Returns:
      The bytes of the file.
    """
    number = len(picture.panels)
    columns = columns or (2 if number == 4 else min(number, 3))
    rows = -(-number // columns)
    width = inches[0] if inches else columns * _PANEL_INCHES[0]
    entries = _legend_columns(picture.legend, width)
    legend = _LEGEND_ROW_INCHES * -(-len(picture.legend) // entries) + 0.06
    height = inches[1] if inches else rows * _PANEL_INCHES[1] + legend
    with matplotlib.rc_context(_TEXT):
        figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, panel in zip(grid, picture.panels):
            _draw(axes, panel)
        for axes in grid[number:]:
            axes.remove()
        _draw_legend(figure, picture.legend, entries)
        figure.tight_layout(rect=(0, 0, 1, 1 - legend / height), w_pad=1.5)
        canvas.draw()
        pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    file = io.BytesIO()
    pixels.quantize(128, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return file.getvalue()


def to_svg(panel: Panel) -> str:
    """One panel as an `<svg>` element that takes the colours of the page around it."""
    with matplotlib.rc_context(_TEXT):
        figure = Figure(figsize=_PANEL_INCHES, facecolor="none")
        canvas = FigureCanvasSVG(figure)
        axes = figure.subplots()
        _draw(axes, panel)
        figure.tight_layout()
        file = io.StringIO()
        canvas.print_svg(file, metadata={"Date": None})
    return _for_the_page(file.getvalue(), panel.title)


def _draw(axes: Axes, panel: Panel) -> None:
    axes.set_facecolor("none")
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    panel.draw(axes)


def _legend_columns(lines: tuple[Line, ...], width: float) -> int:
    """How many entries of the longest label fit side by side."""
    longest = max((len(line.label) for line in lines), default=0)
    return max(1, min(len(lines), int(width / (0.65 + 0.075 * longest))))


def _draw_legend(figure: Figure, lines: tuple[Line, ...], columns: int) -> None:
    """Draws the legend above the panels, where it covers no data."""
    if not lines:
        return
    handles = [
        Line2D([], [], color=line.colour, marker=line.marker, linestyle="none", mfc="none")
        if line.marker
        else Line2D([], [], color=line.colour, dashes=line.dashes or (None, None), linewidth=2)
        for line in lines
    ]
    labels = [line.label for line in lines]
    figure.legend(
        handles, labels, loc="upper left", ncols=columns, frameon=False, borderaxespad=0.2
    )


def _for_the_page(svg: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # ids repeat from panel to panel
    svg = re.sub(r' d="[^"]*"', _round_numbers, svg)
    svg = svg.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
    svg = svg.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")
    label = re.sub(r"[<>&\"$]", "", title)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _round_numbers(path: re.Match[str]) -> str:
    return re.sub(r"\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", path[0])
