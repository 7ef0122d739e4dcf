"""Names beside points, none on another."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes


def name_points(
    axes: Axes, points: Mapping[str, tuple[float, float]], colours: Mapping[str, str]
) -> None:
    """Names in a column at the right, by height, each with a thin line to its point.

    Args:
      axes: that the points are drawn on, in full: the limits are widened for the column.
      points: (x, y) by name.
      colours: of the names.
    """
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    width = right - left
    axes.set_xlim(left, right + 0.5 * width)
    axes.set_ylim(low, high)
    order = sorted(points, key=lambda name: points[name][1])
    for place, name in zip(np.linspace(0.04, 0.96, max(len(order), 2)), order):
        x, y = points[name]
        at = low + place * (high - low)
        axes.plot(
            [x, right + 0.05 * width],
            [y, at],
            color=colours[name],
            linewidth=0.5,
            alpha=0.6,
            zorder=0,
        )
        axes.text(right + 0.06 * width, at, name, fontsize=6.5, color=colours[name], va="center")
