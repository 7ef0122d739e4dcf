import json
import logging
import math

import pytest

from experiments.report.runs import by_method, furthest, load_runs, pass_ks, series, setting


def _write(directory, lines, config=None):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "metrics.jsonl").write_text(lines)
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))


def test_load_runs_follows_the_sweep_and_groups_seeds(two_seeds):
    runs = load_runs(two_seeds)
    assert [run.name for run in runs][:3] == ["grpo-seed0", "grpo-seed1", "power3-seed0"]
    counts = {method: len(members) for method, members in by_method(runs).items()}
    assert counts == {"grpo": 2, "power3": 2, "fade": 2}
    assert pass_ks(runs) == [1, 10, 100]


def test_load_runs_keeps_complete_lines_of_a_killed_run(two_seeds):
    *complete, killed = load_runs(two_seeds)
    assert all(run.finished and run.last_step == 120 for run in complete)
    assert not killed.finished
    assert 0 < killed.last_step < 120
    assert [run.name for run in furthest([complete[-1], killed])] == ["fade-seed0"]


def test_load_runs_names_damaged_files(tmp_path, caplog):
    _write(tmp_path, '{"step": 1}\n{"st\n{"step": 3}\n')
    (tmp_path / "config.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        (run,) = load_runs(tmp_path)
    assert run.train.index.tolist() == [1, 3]
    assert "metrics.jsonl: line 2 is damaged" in caplog.text
    assert "config.json is damaged" in caplog.text


def test_series_skips_absent_null_and_non_finite_values(tmp_path):
    lines = '{"step": 1, "a": 1.0}\n{"step": 2, "a": null}\n{"step": 3}\n{"step": 4, "a": NaN}\n'
    _write(tmp_path, lines + '{"step": 5, "a": 2}\n{"step": 6, "a": Infinity}\n{"step": 7, "a"')
    (run,) = load_runs(tmp_path)
    assert series(run.train, "a").to_dict() == {1: 1.0, 5: 2.0}
    assert series(run.train, "b").empty


def test_load_runs_keeps_the_last_line_of_a_repeated_step(tmp_path):
    _write(tmp_path, '{"step": 2, "a": 2}\n{"step": 1, "a": 1}\n{"step": 2, "a": 3}\n')
    (run,) = load_runs(tmp_path)
    assert series(run.train, "a").to_dict() == {1: 1, 2: 3}


def test_load_runs_names_a_single_run_after_its_advantage(tmp_path):
    _write(tmp_path, '{"step": 1}\n', {"advantage": {"name": "rloo"}})
    (run,) = load_runs(tmp_path)
    assert (run.name, run.method) == ("rloo", "rloo")


def test_load_runs_includes_runs_that_have_not_started(tmp_path):
    (tmp_path / "sweep.json").write_text('{"runs": [{"name": "a-seed0"}, {"name": "b-seed0"}]}')
    _write(tmp_path / "runs" / "b-seed0", '{"step": 1}\n')
    first, second = load_runs(tmp_path)
    assert (first.method, first.last_step, first.started) == ("a", 0, False)
    assert (second.method, second.last_step, second.started) == ("b", 1, True)


@pytest.mark.parametrize(
    ("name", "method"),
    [("fade-seed0", "fade"), ("seed=12,power", ",power"), ("graph_seed3_fade", "graph_fade")],
)
def test_load_runs_removes_the_seed_from_the_method(tmp_path, name, method):
    _write(tmp_path / "runs" / name, '{"step": 1}\n')
    assert load_runs(tmp_path)[0].method == method


def test_load_runs_rejects_a_workdir_without_metrics(tmp_path):
    with pytest.raises(FileNotFoundError, match="no metrics in"):
        load_runs(tmp_path / "missing")
    _write(tmp_path, "", {"steps": 3})  # a run that has not logged its first line
    with pytest.raises(FileNotFoundError, match="no metrics in"):
        load_runs(tmp_path)


def test_setting_reads_dotted_fields():
    config = {"a": {"b": 3}, "c": 1}
    assert setting(config, "a.b") == 3
    assert setting(config, "c.d", 7) == 7
    assert math.isnan(setting({}, "x", math.nan))
