import json

import numpy as np

from experiments.report import main_table
from experiments.report.describe import methods_table, what_was_run
from experiments.report.runs import load_runs
from experiments.report.table import Table, as_markdown, results_table


def _rows(workdir):
    table = results_table(load_runs(workdir))
    return [dict(zip(table.head, row)) for row in table.rows], table.caption


def test_rows_hold_the_figures_of_the_evaluations(two_seeds):
    rows, caption = _rows(two_seeds)
    start, grpo, _, fade = rows
    assert start["method"] == "before training"
    assert start["pass@1, %"] == "10.0 [2.5, 17.5]"  # 0.1 ± 2 √(0.1·0.9/64)
    lines = [run.evaluations[-1] for run in load_runs(two_seeds)[:2]]
    values = [100 * line["eval/pass@10"] for line in lines]
    half = 12.7062 * abs(values[0] - values[1]) / 2
    low, mean, high = np.mean(values) - half, np.mean(values), np.mean(values) + half
    assert grpo["pass@10, %"] == f"{mean:.1f} [{low:.1f}, {high:.1f}]"
    assert grpo["seeds"] == "2"
    assert grpo["steps"] == "120"
    assert grpo["min"] == "0.6"  # 120 steps of 0.3 s
    assert fade["seeds"] == "1 of 2"
    assert "fade-seed1 (step" in caption
    assert "over seeds" in caption
    assert "over the held-out problems" in caption


def test_caption_says_which_interval(single_run, four_seeds):
    (_, row), caption = _rows(single_run)
    assert row["method"] == "fade"
    assert "t-interval" not in caption
    assert "stopped early" not in caption
    _, caption = _rows(four_seeds)
    assert "t-interval" in caption


def test_unfinished_and_unstarted_runs_say_so(tmp_path):
    run = tmp_path / "runs" / "grpo-seed0"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"steps": 50}')
    (run / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    (tmp_path / "sweep.json").write_text(
        json.dumps({"runs": [{"name": "grpo-seed0"}, {"name": "fade-seed0"}]})
    )
    (row,), caption = _rows(tmp_path)
    assert row["steps"] == "1 of 50"
    assert row["entropy, nats"] == "–"
    assert "Not started: fade-seed0" in caption


def test_markdown_is_aligned():
    text = as_markdown(Table(("a", "long"), (("name", "1"), ("x", "22")), ""))
    assert text == "| a    | long |\n|------|-----:|\n| name |    1 |\n| x    |   22 |"


def test_main_table_is_the_table_and_its_caption(two_seeds):
    text = main_table(two_seeds)
    assert text.splitlines()[0].startswith("| method ")
    assert len(text.splitlines()) == 2 + 4 + 2
    assert text.endswith(".")


def test_the_paragraph_names_what_the_configs_hold(two_seeds):
    text = what_was_run(load_runs(two_seeds))
    for words in (
        "6 runs: 3 methods, 2 seeds",
        "graph",
        "2 layers, width 64",
        "after 300 supervised steps",
        "120 steps: 16 prompts × 8 rollouts",
        "learning rate 0.0003",
        "64 held-out prompts × 128 samples",
    ):
        assert words in text


def test_methods_differ_only_where_their_configs_do(two_seeds, tmp_path):
    rows = {row[0]: row for row in methods_table(load_runs(two_seeds)).rows}
    assert rows["power3"][1:] == ("power(alpha=3.0)", "0, 1", "–")
    for name, rate in (("a", 0.1), ("b", 0.2)):
        run = tmp_path / "runs" / f"{name}-seed0"
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text('{"step": 1}\n')
        config = {"optimizer": {"learning_rate": rate, "name": "sgd"}, "seed": len(name)}
        (run / "config.json").write_text(json.dumps(config))
    assert [row[3] for row in methods_table(load_runs(tmp_path)).rows] == [
        "optimizer.learning_rate=0.1",
        "optimizer.learning_rate=0.2",
    ]
