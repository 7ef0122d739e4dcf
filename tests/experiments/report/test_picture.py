import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.report.aggregate import Curve
from experiments.report.picture import Panel, Picture, to_png, to_svg
from experiments.report.pictures.lines import draw_curve
from experiments.report.style import Line

PANEL = Panel("a title", "x", "y", lambda axes: axes.plot([0, 1], [0, 1]))


def _pixels(picture, **size):
    return np.asarray(Image.open(io.BytesIO(to_png(picture, **size))).convert("L"))


@pytest.mark.parametrize("count", [1, 3, 17])
@pytest.mark.parametrize("label", ["fade", "a method with a name as long as this"])
def test_a_legend_stays_inside_and_above_the_panels(count, label):
    legend = tuple(Line(f"{label} {i}", "#D55E00") for i in range(count))
    alone = _pixels(Picture("p", "", "", (PANEL, PANEL)))
    pixels = _pixels(Picture("p", "", "", (PANEL, PANEL), legend))
    added = pixels.shape[0] - alone.shape[0]
    assert added > 0
    assert pixels[:, -3:].min() == 255
    assert pixels[:added].min() < 200


@pytest.mark.parametrize(("panels", "shape"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3))])
def test_panels_fill_their_rows(panels, shape):
    height, width = _pixels(Picture("p", "", "", (PANEL,) * panels)).shape
    assert (height // 280, width // 360) == shape


def test_a_given_size_is_kept_whatever_the_legend():
    legend = tuple(Line(f"method {i}", "#D55E00") for i in range(17))
    picture = Picture("p", "", "", (PANEL,) * 5, legend)
    assert _pixels(picture, columns=5, inches=(12.0, 3.5)).shape == (350, 1200)


def test_svg_numbers_are_short_and_the_title_is_its_label():
    svg = to_svg(PANEL)
    assert 'aria-label="a title"' in svg
    assert len(svg) < 20_000


@pytest.mark.parametrize("count", [1, 2, 200, 5000])
def test_a_drawn_curve_has_few_points_its_ends_among_them(count):
    steps = np.arange(1, count + 1)
    axes = Figure().subplots()
    draw_curve(axes, Curve(steps, steps**2.0, None, None, ()), Line("m", "#D55E00"), scale=2.0)
    x, y = axes.lines[0].get_data()
    assert (x[0], x[-1]) == (1, count)
    assert len(x) == min(count, 200)
    np.testing.assert_array_equal(y, 2 * x.astype(float) ** 2)
