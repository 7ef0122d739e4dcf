"""The figures' style: what is printed can be read, told apart and compared."""

import re

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from experiments import figures


@pytest.fixture(autouse=True)
def style():
    with rc_context(figures.STYLE):
        yield


def look(style):
    return style["color"], style["linestyle"]


def drawn(axes, gid):
    return [line for line in axes.lines if line.get_gid() == gid]


def test_line_styles_of_known_advantages_are_the_same_in_every_figure():
    alone = figures.line_styles({"a": "fade"})["a"]
    names = ["reinforce", "mine", "grpo", "fade", "power", "power"]
    among = figures.line_styles({str(i): name for i, name in enumerate(names)})
    assert among["3"] == alone
    assert len({look(style) for style in among.values()}) == len(names)
    assert among["4"]["color"] == among["5"]["color"] != among["2"]["color"]


def test_line_styles_of_the_main_methods_differ_without_color():
    styles = figures.line_styles({x: x for x in ("fade", "grpo", "power", "asym_grpo")})
    assert len({style["linestyle"] for style in styles.values()}) == 4
    assert len({style["marker"] for style in styles.values()}) == 4


@pytest.mark.parametrize("name", ["", "dr_grpo"])
def test_line_styles_of_many_methods_differ_in_color_first(name):
    styles = list(figures.line_styles({str(i): name for i in range(42)}).values())
    assert len({look(style) for style in styles}) == 42
    assert len({style["color"] for style in styles[:7]}) == 7
    assert len({style["marker"] for style in styles[:8]}) == 8


@pytest.mark.parametrize(
    ("number", "narrow", "width", "rows"),
    [
        (1, False, 3.25, 1),
        (2, False, 5.5, 1),
        (3, False, 5.5, 1),
        (4, False, 5.5, 2),
        (5, False, 5.5, 2),
        (1, True, 3.25, 1),
        (5, True, 3.25, 5),
    ],
)
def test_panels_have_the_width_of_a_page_or_of_a_column(number, narrow, width, rows):
    figure, grid = figures.panels(number, narrow=narrow)
    assert len(grid) == len(figure.axes) == number
    assert figure.get_figwidth() == width
    heights = {round(axes.get_position().y0, 3) for axes in grid}
    assert len(heights) == rows


def test_set_limits_gives_compared_panels_one_range_from_zero():
    _, grid = figures.panels(3)
    for axes, high in zip(grid, (2.0, 8.0, 5.0)):
        axes.plot([0, 1], [1.0, high])
        axes.set_ylabel("reward")
    figures.set_limits(grid[:2])
    assert grid[0].get_ylim() == grid[1].get_ylim()
    low, high = grid[0].get_ylim()
    assert low == 0
    assert 8.0 < high < 9.0
    assert not any(drawn(axes, "break") for axes in grid)
    assert [axes.get_ylabel() for axes in grid] == ["reward", "", "reward"]


def test_set_limits_marks_a_range_that_does_not_begin_at_zero():
    _, (axes,) = figures.panels(1)
    axes.plot([0, 1], [90.0, 95.0])
    figures.set_limits([axes])
    assert 89 < axes.get_ylim()[0] < 90
    assert len(drawn(axes, "break")) == 2
    assert figures.describe_marks(axes.figure) != ""


@pytest.mark.parametrize("values", [[1.0, 1.0], [0.0, 0.0], [-1.0, 3.0], [np.nan, np.nan]])
def test_set_limits_of_constant_signed_and_missing_values_marks_no_break(values):
    _, (axes,) = figures.panels(1)
    axes.plot([0, 1], values)
    figures.set_limits([axes])
    low, high = axes.get_ylim()
    assert low < high
    assert low <= np.nanmin([*values, 0])
    assert not drawn(axes, "break")
    assert figures.describe_marks(axes.figure) == ""


def marks_of(*curves, labels="abcdef"):
    """(labels of the marked lines, x of the marks by color) of curves over [0, 1]."""
    _, (axes,) = figures.panels(1)
    styles = figures.line_styles(dict.fromkeys(labels, ""))
    for label, (x, y) in zip(labels, curves):
        axes.plot(x, y, label=label, **styles[label])
    axes.set(xlim=(0, 1), ylim=(0, 1))
    marked = figures.mark_coincident(axes)
    places = {line.get_color(): line.get_data() for line in drawn(axes, "coincident")}
    colors = {styles[label]["color"]: label for label in labels}
    return marked, {colors[color]: data for color, data in places.items()}


def test_mark_coincident_marks_each_of_equal_lines_at_places_of_its_own():
    x = np.linspace(0, 1, 50)
    marked, marks = marks_of((x, x**2), (x[::7], x[::7]), (x, x**2), (x, x**2 + 0.5))
    assert marked == marks.keys() == {"a", "c"}
    at_a, at_c = marks["a"][0], marks["c"][0]
    assert min(len(at_a), len(at_c)) >= 5
    assert not set(at_a) & set(at_c)
    np.testing.assert_allclose(marks["a"][1], at_a**2, atol=1e-3)


def test_mark_coincident_marks_where_lines_coincide():
    x = np.linspace(0, 1, 101)
    _, marks = marks_of((x, 0 * x + 0.5), (x, np.where(x < 0.5, 0.5, x)))
    assert 0 < max(max(at) for at, _ in marks.values()) < 0.52
    assert len(marks) == 2


def test_mark_coincident_of_a_group_that_only_neighbors_tie_together_has_one_mark_a_place():
    x = np.array([0.0, 1.0])
    marked, marks = marks_of(*((x, x * 0 + 0.5 + shift) for shift in (0, 0.008, 0.016)))
    assert marked == {"a", "b", "c"}
    places = [place for at, _ in marks.values() for place in at]
    assert len(places) == len(set(places)) > 10


def test_mark_coincident_leaves_crossing_and_unlabelled_lines_alone():
    x = np.linspace(0, 1, 50)
    assert marks_of((x, x), (x, 1 - x)) == (set(), {})
    assert marks_of((x, x), (x, x), labels=["_a", "b"])[0] == set()
    assert marks_of((x, x), (1 - x, 1 - x))[0] == set()  # x must increase
    assert marks_of((x, x), (x, x * np.nan))[0] == set()


def test_legend_shows_the_markers_of_marked_methods_alone():
    styles = figures.line_styles({"a": "fade", "b": "grpo"})
    with_marker, without = figures.line_handles(styles, {"a"})
    assert with_marker.get_marker() == styles["a"]["marker"]
    assert without.get_marker() in ("", "None", None)


def test_add_legend_makes_room_for_its_rows():
    styles = figures.line_styles({f"a method with a long name {i}": "" for i in range(6)})
    heights = []
    for count in (1, 6):
        figure, _ = figures.panels(1, narrow=True)
        figures.add_legend(figure, figures.line_handles(styles, set())[:count])
        heights.append(figure.get_figheight())
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert box.width <= figure.get_figwidth() * figure.dpi
        assert box.y1 <= figure.get_figheight() * figure.dpi + 1
    assert heights[1] - heights[0] == pytest.approx(5 * 0.17)


def test_finish_compares_panels_of_one_label_and_names_every_line():
    x, styles = np.linspace(0, 1, 30), figures.line_styles({"a": "grpo", "b": "fade"})
    figure, grid = figures.panels(4)
    for axes, height, label in zip(grid, (1, 5, 9, 2), ("rate, %", "rate, %", "nats", "ratio")):
        axes.set(ylabel=label)
        for name, style in styles.items():
            axes.plot(x, height + x, label=name, **style)
    grid[3].set_yscale("log")
    figures.finish(figure, grid, styles)
    limits = [axes.get_ylim() for axes in grid]
    assert limits[0] == limits[1] != limits[2]
    assert limits[0][0] == 0 < limits[3][0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert all(len(drawn(axes, "coincident")) == 2 for axes in grid)


def test_say_no_signal_writes_in_place_of_ticks():
    figure, (axes,) = figures.panels(1)
    figures.say_no_signal(axes, "no rollout was right")
    assert len(axes.get_xticks()) == len(axes.get_yticks()) == 0
    texts = [text for text in axes.texts if text.get_gid() == "no signal"]
    assert " ".join(texts[0].get_text().split()) == "no rollout was right"
    figures.check_printable(figure)


def test_save_writes_png_of_200_dots_per_inch_and_pdf_at_the_printed_width(tmp_path):
    figure, grid = figures.panels(3)
    for axes in grid:
        axes.set(title="title", xlabel="training step", ylabel="entropy, nats/token")
        axes.plot([0, 1], [0, 1])
    figures.save(figure, tmp_path / "some.name")
    with Image.open(tmp_path / "some.name.png") as image:
        assert image.size[0] == 1100
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    text = (tmp_path / "some.name.pdf").read_bytes()
    assert text.startswith(b"%PDF")
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", text)
    assert float(box[1]) == 5.5 * 72
    assert b"/Type3" not in text  # letters are those of a font, not drawings
    sizes = [t.get_fontsize() for t in figure.findobj(Text) if t.get_text()]
    assert min(sizes) >= 8


def test_save_without_pdf(tmp_path):
    figures.save(figures.panels(1)[0], tmp_path / "a", pdf=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_save_refuses_small_text_and_wide_figures(tmp_path):
    figure, (axes,) = figures.panels(1)
    axes.set_title("tiny", fontsize=7)
    with pytest.raises(ValueError, match="at least 8 points, got 7 for 'tiny'"):
        figures.save(figure, tmp_path / "a")
    with pytest.raises(ValueError, match=r"at most 5.5 inches wide.* got 7"):
        figures.save(Figure(figsize=(7, 2)), tmp_path / "a")
    assert not list(tmp_path.iterdir())
