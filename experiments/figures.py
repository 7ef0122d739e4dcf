"""One style for the figures of reports, notebooks and papers.

Figures are drawn at the width at which they are printed, so that text of 8 points is printed with 8
points. A notebook sets `plt.rcParams |= figures.STYLE`. Imports matplotlib and numpy alone.
"""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

PAGE_WIDTH = 5.5  # inches: the text of a page with one column
COLUMN_WIDTH = 3.25  # inches: a column of a page with two
MIN_POINTS = 8.0

# Okabe and Ito's palette for color-blind readers, without yellow, with gray for black.
RED, BLUE, GREEN, ORANGE = "#D55E00", "#1A80C4", "#009E73", "#E69F00"
PURPLE, SKY, GRAY, INK = "#CC79A7", "#56B4E9", "#7F7F7F", "#24272b"
COLORS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, GRAY)
LINE_STYLES = (
    "-",
    (0, (5, 1.5)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (1.3, 1.3)),
    (0, (2.6, 1.3)),
    (0, (7, 1.3, 1.3, 1.3, 1.3, 1.3)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_STYLE_OF_ADVANTAGE = {  # color, index of the line style; the marker is that of the same place
    "fade": (RED, 0),
    "grpo": (BLUE, 1),
    "dr_grpo": (BLUE, 4),
    "power": (GREEN, 2),
    "asym_grpo": (ORANGE, 3),
    "power_asym": (PURPLE, 5),
    "rloo": (SKY, 1),
    "reinforce": (GRAY, 2),
}
_MOST_OF_A_COLOR = 3  # more methods of one advantage cannot be told apart by their dashes
_COINCIDE = 0.01  # of the height of a panel: about the width of a line
_GRID = np.linspace(0, 1, 97)  # places along the width of a panel

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": MIN_POINTS,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "figure.constrained_layout.use": True,
    "figure.dpi": 130,
    "figure.figsize": (PAGE_WIDTH, 2.2),
    "font.size": MIN_POINTS,
    "grid.color": "#e1e4e8",
    "grid.linewidth": 0.5,
    "legend.fontsize": MIN_POINTS,
    "legend.frameon": False,
    "legend.handlelength": 4.2,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 200,
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": MIN_POINTS,
    "ytick.color": INK,
    "ytick.labelsize": MIN_POINTS,
}


def line_styles(advantages: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Returns the color, line style and marker of each method, as keywords of `Axes.plot`.

    A known advantage looks the same in every figure; up to three methods of one advantage share its
    color. No two of up to 42 methods look alike.

    Args:
      advantages: by method; the name of an advantage, or "" if it is not known.
    """
    counts = Counter(advantages.values())
    ranks: dict[str, int] = {}
    seen: Counter[str] = Counter()
    for method, name in advantages.items():
        known = name in _STYLE_OF_ADVANTAGE and counts[name] <= _MOST_OF_A_COLOR
        ranks[method] = seen[name] if known else len(LINE_STYLES)
        seen[name] += 1
    pairs = [(color, line) for line in range(len(LINE_STYLES)) for color in COLORS]
    taken: dict[str, tuple[str, int]] = {}
    markers: dict[str, str] = {}
    for method in sorted(ranks, key=lambda method: ranks[method]):
        wanted: list[tuple[str, int]] = []
        if ranks[method] < len(LINE_STYLES):
            color, line = _STYLE_OF_ADVANTAGE[advantages[method]]
            wanted = [(color, (line + i) % 6) for i in range(6)]
        free = [pair for pair in wanted if pair not in taken.values()]
        colors, lines = (Counter(pair[i] for pair in taken.values()) for i in range(2))
        rare = min(
            pairs, key=lambda pair: (pair in taken.values(), colors[pair[0]], lines[pair[1]])
        )
        taken[method] = (*free, rare)[0]
        used = Counter(markers.values())
        own = list(_STYLE_OF_ADVANTAGE).index(advantages[method]) if wanted else 0
        order = MARKERS[own:] + MARKERS[:own]
        markers[method] = min(order, key=lambda marker: used[marker])
    return {
        method: {
            "color": color,
            "linestyle": LINE_STYLES[line],
            "marker": markers[method],
            "markevery": [],  # `mark_coincident` draws them
        }
        for method in advantages
        for color, line in [taken[method]]
    }


def panels(
    number: int, *, narrow: bool = False, columns: int = 3, height: float = 1.65
) -> tuple[Figure, list[Axes]]:
    """Returns a figure of the printed width with panels row by row.

    Args:
      number: of panels, at least 1.
      narrow: for one column of a page, or a phone: one panel above the other.
      columns: at most so many panels beside each other.
      height: of a panel, inches.
    """
    columns = 1 if narrow else min(number, 2 if number == 4 else columns)
    rows = -(-number // columns)
    width = COLUMN_WIDTH if columns == 1 else PAGE_WIDTH
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[number:]:
        axes.remove()
    return figure, grid[:number]


def set_limits(grid: Sequence[Axes]) -> None:
    """Gives panels that are compared one y-range, from 0 where the data are not far from it.

    A range that begins above 0 gets `mark_break`. Panels beside each other show the ticks and the
    label of the leftmost alone.

    Args:
      grid: panels with data; their y-axes have one quantity and one unit.
    """
    ends = [axes.dataLim.intervaly for axes in grid if np.isfinite(axes.dataLim.intervaly).all()]
    if not ends:
        return
    low, high = min(min(end) for end in ends), max(max(end) for end in ends)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    if low >= 0 and (low <= high / 2 or low == high):
        low, high = 0.0, high + 0.05 * high or 1.0
    else:
        low, high = max(low - margin, 0.0) if low >= 0 else low - margin, high + margin
    for axes in grid:
        axes.set_ylim(low, high)
        if low > 0:
            mark_break(axes)
    hide_inner(grid)


def hide_inner(grid: Sequence[Axes]) -> None:
    """Leaves the ticks and labels of one y-axis to the leftmost of panels beside each other."""
    spots = {axes: spot for axes in grid if (spot := axes.get_subplotspec())}
    places = {(spot.rowspan.start, spot.colspan.start) for spot in spots.values()}
    for axes, spot in spots.items():
        if (spot.rowspan.start, spot.colspan.start - 1) in places:
            axes.tick_params(labelleft=False)
            axes.set_ylabel("")


def mark_break(axes: Axes) -> None:
    """Marks a y-axis that begins above 0 by two strokes across its foot."""
    for height in (0.035, 0.075):
        axes.plot(
            *([0], [height]),
            transform=axes.transAxes,
            marker=[(-1, -0.5), (1, 0.5)],
            markersize=7,
            markeredgewidth=0.8,
            color=INK,
            linestyle="none",
            clip_on=False,
            gid="break",
        )


def mark_coincident(axes: Axes) -> set[str]:
    """Marks lines that lie on each other, by markers of each in turns.

    Lines coincide where they are less than about the width of a line apart along a sixth of the
    panel or more; where they cross they do not. Lines count that have a label and whose x
    increases; the limits of the axes must be set.

    Returns:
      The labels of the lines that were marked.
    """
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    heights = {line: found for line in lines if (found := _heights(axes, line)) is not None}
    drawn = list(heights)
    if len(drawn) < 2:
        return set()
    values = np.stack([heights[line] for line in drawn])
    close = np.abs(values[:, None] - values[None]) < _COINCIDE  # [line, line, place]
    close &= ~np.eye(len(drawn), dtype=bool)[..., None]
    close = _long_stretches(close)
    marks = _turns(close)
    for line, height, at in zip(drawn, values, marks):
        if at.any():
            axes.plot(
                *(_GRID[at], height[at]),
                transform=axes.transAxes,
                marker=line.get_marker(),
                markerfacecolor="white",
                color=line.get_color(),
                linestyle="none",
                zorder=3,
                gid="coincident",
            )
    return {str(line.get_label()) for line, at in zip(drawn, marks) if at.any()}


def _turns(close: np.ndarray) -> np.ndarray:
    """Gives each place of a mark to one of the lines that lie on each other there.

    Args:
      close: bool [line, line, place], which pairs lie on each other.

    Returns:
      bool [line, place], where each line has a mark.
    """
    marks = np.zeros(close.shape[1:], bool)
    for turn, place in enumerate(range(3, len(_GRID), 6)):
        reached = close[..., place] | np.eye(len(close), dtype=bool)
        for _ in range(len(close).bit_length()):
            reached = reached @ reached  # by one more line in between
        for group in {tuple(np.flatnonzero(row)) for row in reached}:
            if len(group) > 1:
                marks[group[turn % len(group)], place] = True
    return marks


def _heights(axes: Axes, line: Line2D) -> np.ndarray | None:
    """Returns the heights of a line at `_GRID`, as fractions of the panel; NaN where it is not."""
    points = np.column_stack(line.get_data(orig=False)).astype(float)
    points = points[np.isfinite(points).all(1)]
    if len(points) < 2 or (np.diff(points[:, 0]) <= 0).any():
        return None
    x, y = axes.transAxes.inverted().transform(axes.transData.transform(points)).T
    return np.interp(_GRID, x, y, left=np.nan, right=np.nan)


def _long_stretches(close: np.ndarray) -> np.ndarray:
    """Keeps the rows of True of at least a sixth of the last axis."""
    least = len(_GRID) // 6
    windows = np.lib.stride_tricks.sliding_window_view(close, least, axis=-1).all(-1)
    kept = np.zeros_like(close)
    for shift in range(least):
        kept[..., shift : shift + len(_GRID) - least + 1] |= windows
    return kept


def describe_marks(figure: Figure) -> str:
    """Returns what a caption must say of the marks in a figure; "" without any."""
    drawn = {artist.get_gid() for artist in figure.findobj(Line2D)}
    said = {
        "coincident": " Lines that lie on each other have their markers in turns.",
        "break": " Two strokes at the foot of an axis: it does not begin at 0.",
    }
    return "".join(text for gid, text in said.items() if gid in drawn)


def say_no_signal(axes: Axes, text: str) -> None:
    """Writes in a panel why it has no data, in place of its ticks."""
    axes.set(xticks=[], yticks=[])
    words = "\n".join(textwrap.wrap(text, 24))
    middle = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, words, color="#5b6169", gid="no signal", **middle)


def line_handles(styles: Mapping[str, Mapping[str, Any]], marked: set[str]) -> list[Artist]:
    """Returns the legend's entries of methods, with the markers of those that `marked` names."""
    return [
        Line2D(
            *([], []),
            **{**style, "marker": style["marker"] if method in marked else "", "markevery": None},
            label=method,
            markerfacecolor="white",
        )
        for method, style in styles.items()
    ]


def add_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Puts a legend above the panels, in rows that fit the width, and makes room for it."""
    handle = 4.2 if isinstance(handles[0], Line2D) else 1.4  # of 8 points
    widest = max(len(str(entry.get_label())) for entry in handles)
    width = (handle + 2.8) * MIN_POINTS / 72 + 0.066 * widest  # inches of an entry
    columns = max(1, min(len(handles), int(figure.get_figwidth() / width)))
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.05 + 0.17 * rows)
    look = {"ncols": columns, "handlelength": handle, "borderpad": 0}
    figure.legend(handles=handles, loc="outside upper left", **look)


def finish(figure: Figure, grid: Sequence[Axes], styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Gives panels of one y-label one range, marks lines that coincide, and adds the legend.

    A panel with a logarithmic axis keeps its range.

    Args:
      figure: with its panels drawn.
      grid: the panels.
      styles: of the lines by their labels, from `line_styles`.
    """
    drawn = [axes for axes in grid if axes.has_data()]
    linear = [axes for axes in drawn if axes.get_yscale() == "linear"]
    for label in dict.fromkeys(axes.get_ylabel() for axes in linear):
        set_limits([axes for axes in linear if axes.get_ylabel() == label])
    for axes in linear:
        axes.locator_params(axis="x", nbins=4)
        axes.locator_params(axis="y", nbins=5)
    marked = {label for axes in drawn for label in mark_coincident(axes)}
    add_legend(figure, line_handles(styles, marked))


def save(figure: Figure, path: Path | str, *, pdf: bool = True) -> None:
    """Writes PATH.png with 200 dots per inch, and PATH.pdf.

    Args:
      figure: at its printed width.
      path: without a suffix.
      pdf: whether to write the PDF too.

    Raises:
      ValueError: if the figure is wider than a page, or some text smaller than 8 points.
    """
    check_printable(figure)
    with rc_context(STYLE):
        figure.savefig(f"{path}.png")
        if pdf:
            figure.set_layout_engine("none")  # as it was laid out for the PNG
            figure.savefig(f"{path}.pdf", metadata={"CreationDate": None})


def check_printable(figure: Figure) -> None:
    """Raises ValueError if a figure is wider than a page, or some text smaller than 8 points."""
    if (width := figure.get_figwidth()) > PAGE_WIDTH:
        raise ValueError(
            f"a figure must be at most {PAGE_WIDTH} inches wide, so that it is not printed smaller,"
            f" got {width:g}"
        )
    texts: list[Any] = figure.findobj(Text)
    for text in texts:
        shown = text.get_visible() and text.get_text().strip()
        if shown and text.get_fontsize() < MIN_POINTS:
            raise ValueError(
                f"text must have at least {MIN_POINTS:g} points, got {text.get_fontsize():g}"
                f" for {text.get_text()!r}"
            )
