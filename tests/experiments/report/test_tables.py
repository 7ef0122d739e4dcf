import json
import math

import numpy as np
import pytest

from experiments.report.runs import load_runs
from experiments.report.tables import (
    differences_table,
    environment_table,
    key_figures,
    methods_table,
    notices,
    results_caption,
    results_numbers,
    results_table,
    signal_table,
)


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


def test_methods_table_has_a_column_for_each_setting_that_differs(two_seeds, tmp_path):
    rows = methods_table(load_runs(two_seeds)).set_index("method")
    assert rows.loc["power3"].tolist() == ["power(alpha=3.0)", "0, 1"]
    for name, rate in (("a", 0.1), ("b", 0.2)):
        run = tmp_path / "runs" / f"{name}-seed0"
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text('{"step": 1}\n')
        config = {"optimizer": {"learning_rate": rate, "name": "sgd"}, "seed": len(name)}
        (run / "config.json").write_text(json.dumps(config))
    table = methods_table(load_runs(tmp_path))
    assert [*table] == ["method", "advantage", "seeds", "optimizer.learning_rate"]
    assert table["optimizer.learning_rate"].tolist() == ["0.1", "0.2"]


def _counted(directory, **correct):
    """Runs of one seed that were evaluated at step 1, 8 samples a prompt."""
    for name, counts in correct.items():
        run = directory / "runs" / f"{name}-seed0"
        (run / "evaluations").mkdir(parents=True)
        (run / "config.json").write_text('{"seed": 0}')
        line = {"step": 1} | {f"eval/pass@{k}{side}": 0.5 for k in (1, 8) for side in ("", "_low")}
        (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        np.savez(run / "evaluations" / "1.npz", num_correct=counts, num_samples=8)
    return load_runs(directory)


def test_differences_table_pairs_every_two_of_few_methods(tmp_path):
    runs = _counted(tmp_path, a=[8, 6, 7, 3], grpo=[6, 4, 5, 1], z=[6, 4, 5, 1])
    table = differences_table(runs).set_index("method")
    assert table.index.tolist() == ["a − z", "a − grpo", "z − grpo"]
    values = [float(cell.split()[0]) for cell in table["pass@1, points"]]
    assert values == [25, 25, 0]  # (24 - 16) / 32
    assert set(table["seeds"]) == {"1"}
    cleared = [x for x in key_figures(runs) if x.name == "clear differences"]
    low = [cell.split("[")[1].split(",")[0] for cell in table["pass@1, points"]]
    assert cleared[0].value == f"{sum(float(x) > 0 for x in low)} of 6"  # none differs in pass@8


def test_differences_table_of_many_methods_has_those_from_grpo(tmp_path):
    methods = {name: [8, 6, 7, 3] for name in ("b", "c", "d", "e")}
    runs = _counted(tmp_path, **methods, grpo=[6, 4, 5, 1])
    assert differences_table(runs)["method"].tolist() == [f"{x} − grpo" for x in methods]
    assert differences_table(runs[:1]).empty


def _trained(directory, lines, sessions=(), name="grpo", config=None):
    run = directory / "runs" / f"{name}-seed0"
    run.mkdir(parents=True)
    text = "".join(json.dumps({"step": i} | line) + "\n" for i, line in enumerate(lines, 1))
    (run / "metrics.jsonl").write_text(text)
    (run / "config.json").write_text(json.dumps(config or {}))
    if sessions:
        (run / "environment.json").write_text(json.dumps({"sessions": sessions}))


def step(rate, equal):
    return {"solve_rate": rate, "zero_variance_fraction": equal}


def test_signal_table_counts_steps_without_a_difference(tmp_path):
    _trained(tmp_path, [step(0, 1), step(0.25, 0.5), step(1, 1), step(0.5, 0.25), step(0, 1)])
    runs = load_runs(tmp_path)
    (row,) = signal_table(runs).to_dict("records")
    assert list(row.values()) == ["grpo", "3 of 5", "2", "1", "75.0", "0.0", "0.0"]
    (notice,) = notices(runs)
    assert "grpo-seed0 (3 of 5)" in notice


def test_notices_say_that_a_run_had_no_signal(tmp_path):
    _trained(tmp_path, [step(0, 1)] * 3)
    _trained(tmp_path, [step(1, 1)] * 2, name="fade")
    _trained(tmp_path, [step(0.5, 0)] * 2, name="power")
    wrong, right = sorted(notices(load_runs(tmp_path)), key=lambda text: "fade" in text)
    assert "3 steps of grpo-seed0" in wrong
    assert "no rollout was right" in wrong
    assert "2 steps of fade-seed0" in right
    assert "no rollout was right" not in right


SESSION = {
    "started": "2026-11-28T22:00:00+00:00",
    "commit": "0123456789abcdef",
    "changed": False,
    "fade_jax": "0.4.0",
    "jax": "0.10.2",
    "jaxlib": "0.10.2",
    "python": "3.13.1",
    "device": "NVIDIA H200",
    "devices": 8,
    "processes": 2,
}


def test_environment_table_has_a_row_for_each_environment(tmp_path):
    later = SESSION | {"started": "2026-11-29T01:00:00+00:00"}
    _trained(tmp_path, [step(0.5, 0)], [later, SESSION])
    _trained(tmp_path, [step(0.5, 0)], [later], name="fade")
    table = environment_table(load_runs(tmp_path))
    (row,) = table.to_dict("records")
    assert row["commit"] == "0123456789ab"
    assert (row["devices"], row["processes"]) == ("8 × NVIDIA H200", "2")
    assert (row["jax"], row["python"], row["fade_jax"]) == ("0.10.2", "3.13.1", "0.4.0")
    assert (row["runs"], row["sessions"], row["first, UTC"]) == ("2", "3", SESSION["started"])
    assert notices(load_runs(tmp_path)) == []


def test_notices_say_that_environments_differ(tmp_path):
    _trained(tmp_path, [step(0.5, 0)], [SESSION | {"changed": True, "device": "cpu"}])
    _trained(tmp_path, [step(0.5, 0)], [SESSION | {"commit": None}], name="fade")
    table = environment_table(load_runs(tmp_path))
    assert set(table["commit"]) == {"0123456789ab and changes", "–"}
    commits, devices = notices(load_runs(tmp_path))
    assert "0123456789ab and changes" in commits
    assert "8 × cpu" in devices


def test_environment_table_of_runs_that_recorded_none_is_empty(two_seeds):
    assert environment_table(load_runs(two_seeds)).empty


def test_key_figures_by_hand(four_seeds):
    runs = load_runs(four_seeds)
    found = {figure.name: figure for figure in key_figures(runs)}
    ends = {
        100 * np.mean([run.evaluations.loc[120, "eval/pass@100"] for run in runs[i : i + 4]]): name
        for i, name in ((0, "grpo"), (4, "power3"), (8, "fade"))
    }
    assert found["highest pass@100"].value == f"{max(ends):.1f} %"
    assert found["highest pass@100"].note.startswith(f"{ends[max(ends)]} [")
    assert found["runs finished"].value == "12 of 12"
    # 16 prompts x 8 rollouts x 120 steps of 8.5 tokens on average, and half a step of 1/120 more
    assert found["tokens of a run"].value == f"{16 * 8 * (120 * 8.5 + 0.5) / 1e3:.3g} thousand"
    assert found["time"].value == "0.6 min"


@pytest.mark.parametrize("lines", [[{}], [{"solve_rate": None}], [{"eval/pass@1": None}]])
def test_key_figures_of_the_first_lines_of_a_run(tmp_path, lines):
    _trained(tmp_path, lines)
    runs = load_runs(tmp_path)
    assert [x.name for x in key_figures(runs)] == ["runs finished"]
    assert signal_table(runs).empty
    assert notices(runs) == []


def test_results_numbers_are_those_of_the_table(four_seeds):
    runs = load_runs(four_seeds)
    numbers = results_numbers(runs).set_index(["method", "metric"])
    shown = results_table(runs).set_index("method")
    for method in ("before training", "grpo", "fade"):
        value, low, high, *_ = 100 * numbers.loc[(method, "eval/pass@10")]
        cell = f"{value:.1f} [{max(low, 0):.1f}, {min(high, 100):.1f}]"
        assert shown.loc[method, "pass@10, %"] == cell
