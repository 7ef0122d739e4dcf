"""Figures of a report: units, ranges that can be compared, marks, reasons for empty panels."""

import json
import re

import numpy as np
import pytest
from matplotlib import rc_context

from experiments import figures
from experiments.report import method_plots, plots
from experiments.report.runs import load_runs


@pytest.fixture(autouse=True)
def style():
    with rc_context(figures.STYLE):
        yield


EVERY = (
    plots.overview,
    plots.pass_rates,
    plots.pass_rates_over_tokens,
    plots.entropies,
    plots.schedules,
    plots.training,
    plots.lengths,
    method_plots.tradeoff,
    method_plots.masses,
    method_plots.solve_rates,
)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("function", EVERY, ids=lambda function: function.__name__)
def test_every_figure_has_labels_and_one_range_for_what_is_compared(function, narrow, four_seeds):
    figure = function(load_runs(four_seeds)).draw(narrow)
    figure.draw_without_rendering()
    figures.check_printable(figure)
    left = figure.axes[0]
    for axes in figure.axes:
        if not axes.get_visible() or axes.get_label() == "<colorbar>":
            continue
        assert axes.get_xlabel()
        assert axes.get_title(loc="left")
        if not axes.get_ylabel():  # it has the axis of the panel to its left
            assert not narrow
            assert axes.get_ylim() == left.get_ylim()
            continue
        left, label = axes, axes.get_ylabel()
        assert re.search("%|nats|tokens|L2|exponent|ratio|per rollout|0–1|0 to 1", label), label


def test_pass_rates_have_one_range_over_steps_and_tokens(four_seeds):
    runs = load_runs(four_seeds)
    both = [f(runs).draw(False) for f in (plots.pass_rates, plots.pass_rates_over_tokens)]
    limits = {axes.get_ylim() for figure in both for axes in figure.axes}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low <= 0
    assert high >= 90
    assert [axes.get_xlabel() for axes in both[1].axes] == ["sampled tokens, thousands"] * 3
    assert both[1].axes[0].get_xlim()[1] == pytest.approx(128 * (120 * 8 + 60.5) / 1e3, rel=0.06)


def test_curves_have_a_band_and_a_legend_entry_for_each_method(four_seeds):
    figure = plots.pass_rates(load_runs(four_seeds)).draw(False)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["grpo", "power3", "fade"]
    for axes in figure.axes:
        assert len(axes.collections) == 3


def test_bands_end_where_a_share_can_be(tmp_path):
    for seed, value in enumerate((0.0, 0.0, 1.0)):
        run = tmp_path / "runs" / f"grpo-seed{seed}"
        run.mkdir(parents=True)
        lines = [{"step": step, "eval/pass@1": value} for step in (0, 1)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    data = plots.pass_rates(load_runs(tmp_path)).data
    assert data["low"].tolist() == [0, 0]  # 1/3 ± 4.30 · 0.577 / √3 is wider
    assert data["high"].tolist() == [100, 100]


def _run(directory, lines, name="grpo", config=None):
    run = directory / "runs" / f"{name}-seed0"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(config or {}))
    text = "".join(json.dumps({"step": i} | line) + "\n" for i, line in enumerate(lines, 1))
    (run / "metrics.jsonl").write_text(text)
    return load_runs(directory)


def test_a_panel_without_a_value_says_why(tmp_path):
    lines = [{"entropy": 1.0, "entropy_success": None, "entropy_failure": 1.0}] * 3
    figure = plots.entropies(_run(tmp_path, lines)).draw(False)
    said = [[t.get_text() for t in axes.texts if t.get_gid()] for axes in figure.axes]
    assert [bool(texts) for texts in said] == [False, True, False]
    assert " ".join(said[1][0].split()) == "no rollout was right"
    assert figure.axes[0].get_ylim() == figure.axes[2].get_ylim()


def test_lines_that_coincide_are_marked_in_figure_and_legend(tmp_path):
    lines = [{"entropy": 1 / i} for i in range(1, 20)]
    for name in ("a", "b"):
        _run(tmp_path, lines, name)
    runs = _run(tmp_path, [{"entropy": 3.0}] * 19, "c")
    figure = plots.entropies(runs).draw(False)
    marks = [line for line in figure.axes[0].lines if line.get_gid() == "coincident"]
    assert len(marks) == 2
    handles = figure.legends[0].legend_handles
    assert [handle.get_marker() not in ("", "None") for handle in handles] == [True, True, False]


def test_divergence_is_measured_from_the_start_unless_the_config_names_another(tmp_path):
    lines = [{"kl": 0.1 * i} for i in range(3)]
    start = {"learner": {"kl": {"reference": "start", "refresh_every": 0}}}
    plot = plots.divergence(_run(tmp_path / "a", lines, config=start))
    assert [axes.get_title(loc="left") for axes in plot.draw(False).axes] == ["KL to the start"]
    assert plot.data["mean"].tolist() == pytest.approx([0, 0.1, 0.2])
    start["learner"]["kl"]["refresh_every"] = 10
    plot = plots.divergence(_run(tmp_path / "b", lines, config=start))
    assert plot.draw(False).axes[0].get_title(loc="left") != "KL to the start"


def test_paired_differences_have_one_range_around_zero(tmp_path):
    for name, counts in (("fade", [8, 6, 7, 3]), ("grpo", [6, 4, 5, 1]), ("rloo", [6, 4, 5, 1])):
        lines = [{f"eval/pass@{k}{side}": 0.5 for k in (1, 8) for side in ("", "_low")}]
        runs = _run(tmp_path, lines, name, {"seed": 0})
        (tmp_path / "runs" / f"{name}-seed0" / "evaluations").mkdir()
        path = tmp_path / "runs" / f"{name}-seed0" / "evaluations" / "1.npz"
        np.savez(path, num_correct=counts, num_samples=8)
    plot = method_plots.paired(runs)
    figure = plot.draw(False)
    one, eight = figure.axes
    low, high = one.get_xlim()
    assert one.get_xlim() == eight.get_xlim()
    assert low == -high
    names = [label.get_text() for label in one.get_yticklabels()]
    assert names == ["fade − rloo", "fade − grpo", "rloo − grpo"]
    table = plot.data.set_index(["method", "minus", "k"])
    assert table.loc[("fade", "grpo", 1), "difference"] == pytest.approx(25)
    clear = (table["low"] > 0) | (table["high"] < 0)
    points = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "o"]
    filled = [line.get_markerfacecolor() != "white" for line in points]
    assert filled == clear.tolist()
