import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.report import main_table, write_report
from experiments.report.plots import method_styles
from experiments.report.runs import Run, load_runs, to_frame
from experiments.report.write import methods_table, results_caption, results_table

REPOSITORY = Path(__file__).parents[3]
FIGURES = {
    "alpha_delta.png",
    "entropy.png",
    "masses.png",
    "overview.png",
    "pass_at_k.png",
    "solve_rates.png",
    "tradeoff.png",
    "training.png",
}


def test_results_table_equals_values_by_hand(two_seeds):
    runs = load_runs(two_seeds)
    start, grpo, _, fade = results_table(runs).to_dict("records")
    assert start["method"] == "before training"
    assert start["pass@1, %"] == "10.0 [2.5, 17.5]"  # 0.1 ± 2 √(0.1·0.9/64)
    a, b = (100 * run.evaluations.loc[120, "eval/pass@10"] for run in runs[:2])
    over_seeds = 12.7062 * abs(a - b) / 2  # t of 1 degree; s/√2 is half the difference
    over_prompts = sum(2 * (x * (100 - x) / 64) ** 0.5 for x in (a, b)) / 2
    half, mean = math.hypot(over_seeds, over_prompts), (a + b) / 2
    assert grpo["pass@10, %"] == f"{mean:.1f} [{mean - half:.1f}, {mean + half:.1f}]"
    assert (grpo["seeds"], grpo["steps"]) == ("2", "120")
    assert grpo["training min"] == "0.6"  # 120 steps of 0.3 s
    entropy = runs[4].evaluations.loc[120, "eval/entropy"]
    assert (fade["seeds"], fade["entropy, nats"]) == ("1 of 2", f"{entropy:.2f}")
    assert "fade-seed1 (step" in results_caption(runs, results_table(runs))


def test_results_table_has_differences_from_grpo(tmp_path):
    for name, correct in (("fade", [8, 6, 7, 3]), ("grpo", [6, 4, 5, 1])):
        run = tmp_path / "runs" / f"{name}-seed0"
        (run / "evaluations").mkdir(parents=True)
        (run / "config.json").write_text('{"seed": 0}')
        line = {"step": 1} | {f"eval/pass@{k}{side}": 0.5 for k in (1, 8) for side in ("", "_low")}
        (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        np.savez(run / "evaluations" / "1.npz", num_correct=correct, num_samples=8)
    fade, grpo = results_table(load_runs(tmp_path)).to_dict("records")
    assert fade["Δ pass@1 to grpo"].startswith("+25.0 [")
    assert "]" in fade["Δ pass@8 to grpo"]
    assert (grpo["Δ pass@1 to grpo"], grpo["Δ pass@8 to grpo"]) == ("–", "–")


def _evaluated(directory, name, last, first=None):
    run = directory / "runs" / f"{name}-seed0"
    run.mkdir(parents=True)
    lines = [{"step": 0} | first] if first else []
    lines.append({"step": 4, "eval/pass@1": 0.5} | last)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_results_table_tells_what_was_cut_off_and_unknown(tmp_path):
    failures = {"eval/truncated_fraction": 0.125, "eval/unknown": 3}
    _evaluated(tmp_path, "fade", failures, {"eval/pass@1": 0.1, "eval/truncated_fraction": 1.0})
    _evaluated(tmp_path, "grpo", {"eval/truncated_fraction": 0.0, "eval/unknown": 0})
    _evaluated(tmp_path, "old", {})
    runs = load_runs(tmp_path)
    table = results_table(runs)
    assert table["cut off, %"].tolist() == ["100.0", "12.5", "0.0", "–"]
    assert table["unknown"].tolist() == ["–", "3.0", "0.0", "–"]
    assert "cut off: completions of that evaluation without an end token." in results_caption(
        runs, results_table(runs)
    )
    assert "could not be checked" in results_caption(runs, results_table(runs))


def test_results_table_leaves_out_what_is_zero(tmp_path):
    _evaluated(tmp_path, "grpo", {"eval/truncated_fraction": 0.0, "eval/unknown": 0})
    runs = load_runs(tmp_path)
    assert not {"cut off, %", "unknown"} & {*results_table(runs)}
    assert "cut off" not in results_caption(runs, results_table(runs))


def test_write_report_shows_what_became_of_the_completions(tmp_path):
    names = ("cut_off", "no_answer", "wrong", "errors", "deaths", "timeouts", "unknown")
    counts = {f"verification/{name}": i for i, name in enumerate(names)}
    for name in ("fade", "grpo"):
        run = tmp_path / "runs" / f"{name}-seed0"
        run.mkdir(parents=True)
        (run / "config.json").write_text('{"prompts": 4, "group_size": 8}')
        lines = [{"step": i, "reward": 0.1, "length": 9.0} | counts for i in (1, 2)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_report(tmp_path, tmp_path / "out")
    assert (tmp_path / "out" / "outcomes.png").stat().st_size > 1000
    assert "What became of the completions" in page.read_text()


def test_results_table_of_unfinished_and_unstarted_runs(tmp_path):
    run = tmp_path / "runs" / "grpo-seed0"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"steps": 50}')
    (run / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    names = ("grpo-seed0", "fade-seed0")
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": [{"name": name} for name in names]}))
    (row,) = results_table(load_runs(tmp_path)).to_dict("records")
    assert (row["steps"], row["entropy, nats"]) == ("1 of 50", "–")
    runs = load_runs(tmp_path)
    assert "Not started: fade-seed0" in results_caption(runs, results_table(runs))


def test_methods_table_lists_differing_settings(two_seeds, tmp_path):
    rows = methods_table(load_runs(two_seeds)).set_index("method")
    assert rows.loc["power3"].tolist() == ["power(alpha=3.0)", "0, 1", "–"]
    for name, rate in (("a", 0.1), ("b", 0.2)):
        run = tmp_path / "runs" / f"{name}-seed0"
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text('{"step": 1}\n')
        config = {"optimizer": {"learning_rate": rate, "name": "sgd"}, "seed": len(name)}
        (run / "config.json").write_text(json.dumps(config))
    assert methods_table(load_runs(tmp_path))["other settings"].tolist() == [
        "optimizer.learning_rate=0.1",
        "optimizer.learning_rate=0.2",
    ]


def test_write_report_writes_tables_and_figures(two_seeds, tmp_path):
    page = write_report(two_seeds, tmp_path)
    assert page == tmp_path / "index.html"
    written = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert written.keys() == {"report.md", "index.html", *FIGURES}
    assert min(written.values()) > 1000
    markdown, html = (tmp_path / "report.md").read_text(), page.read_text()
    assert set(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", markdown)) == FIGURES
    assert set(re.findall(r'<img src="([^"]+)"', html)) == FIGURES
    assert main_table(two_seeds) in markdown
    table = results_table(load_runs(two_seeds))
    for cell in table.to_numpy().flat:
        assert f"<td>{cell}</td>" in html
        assert not cell or f" {cell} " in markdown


@pytest.mark.parametrize(
    "lines",
    [
        ['{"step": 0, "eval/pass@1": 0.5}'],
        ['{"step": 1}'],
        ['{"step": 1, "reward": null, "solve_rate_histogram": null}'],
        ['{"step": 1, "mass_success": 0.1, "alpha": 1.0, "gradient_norm": 0.0}', '{"step": 2, "al'],
        ['{"step": 1, "solve_rate_histogram": [0, 0, 0]}', '{"step": 2, "gradient_norm": 1.0}'],
    ],
)
def test_write_report_of_the_first_lines_of_a_run(tmp_path, lines):
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    page = write_report(tmp_path)
    assert page == tmp_path / "report" / "index.html"
    assert "Results" in page.read_text()


def test_write_report_escapes_names(tmp_path):
    run = tmp_path / "runs" / "a<b>&-seed0"
    run.mkdir(parents=True)
    line = {"step": 1, "entropy": 1.0, "solve_rate_histogram": [1, 2]}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    text = write_report(tmp_path).read_text()
    assert "a&lt;b&gt;&amp;" in text
    assert "a<b>" not in text


def _styles(*pairs):
    nothing = to_frame(())
    return method_styles(
        [Run(x, x, {"advantage": {"name": name}}, nothing, nothing, None) for x, name in pairs]
    )


def test_method_styles_are_distinct_and_keep_the_color_of_an_advantage():
    pairs = [(f"power{i}", "power") for i in range(20)] + [("fade", "fade"), ("new", "new")]
    styles = _styles(*pairs)
    assert list(styles) == [method for method, _ in pairs]
    assert len({tuple(style.values()) for style in styles.values()}) == len(pairs)
    assert styles["fade"] == _styles(("fade", "fade"))["fade"]


def test_command_prints_the_table_and_the_path(two_seeds, tmp_path):
    command = [sys.executable, "-m", "experiments.report", f"--workdir={two_seeds}"]
    command += [f"--out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == f"{main_table(two_seeds)}\n\nreport: {tmp_path / 'index.html'}\n"
