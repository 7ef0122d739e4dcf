import json
import math

import pytest

from experiments.report.runs import by_method, furthest, load_runs, pass_ks, series, setting


def _write(directory, lines, config=None):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "metrics.jsonl").write_text(lines)
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))


def test_runs_of_a_sweep_come_in_its_order_and_group_by_name_without_seed(two_seeds):
    runs = load_runs(two_seeds)
    assert [run.name for run in runs][:3] == ["grpo-seed0", "grpo-seed1", "power3-seed0"]
    assert {method: len(group) for method, group in by_method(runs).items()} == {
        "grpo": 2,
        "power3": 2,
        "fade": 2,
    }
    assert pass_ks(runs) == [1, 10, 100]


def test_a_killed_run_keeps_its_whole_lines_and_is_unfinished(two_seeds):
    *whole, killed = load_runs(two_seeds)
    assert all(run.finished and run.last_step == 120 for run in whole)
    assert not killed.finished
    assert 0 < killed.last_step < 120
    assert [run.name for run in furthest([whole[-1], killed])] == ["fade-seed0"]


def test_absent_null_and_non_finite_values_are_left_out(tmp_path):
    lines = '{"step": 1, "a": 1.0}\n{"step": 2, "a": null}\n{"step": 3}\n{"step": 4, "a": NaN}\n'
    _write(tmp_path, lines + '{"step": 5, "a": 2}\n{"step": 6, "a"')
    (run,) = load_runs(tmp_path)
    steps, values = series(run.train, "a")
    assert steps.tolist() == [1, 5]
    assert values.tolist() == [1.0, 2.0]
    assert series(run.train, "b")[0].size == 0


def test_a_step_logged_again_after_a_resume_counts_once_and_last(tmp_path):
    _write(tmp_path, '{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 2, "a": 3}\n')
    (run,) = load_runs(tmp_path)
    assert series(run.train, "a")[1].tolist() == [1, 3]


def test_a_single_run_is_named_after_its_advantage(tmp_path):
    _write(tmp_path, '{"step": 1}\n', {"advantage": {"name": "rloo"}})
    (run,) = load_runs(tmp_path)
    assert (run.name, run.method) == ("rloo", "rloo")


def test_runs_of_a_sweep_that_have_not_started_are_known(two_seeds, tmp_path):
    (tmp_path / "sweep.json").write_text('{"runs": [{"name": "a-seed0"}, {"name": "b-seed0"}]}')
    _write(tmp_path / "runs" / "b-seed0", '{"step": 1}\n')
    first, second = load_runs(tmp_path)
    assert (first.method, first.last_step) == ("a", 0)
    assert (second.method, second.last_step) == ("b", 1)


@pytest.mark.parametrize(
    ("name", "method"),
    [("fade-seed0", "fade"), ("seed=12,power", ",power"), ("graph_seed3_fade", "graph_fade")],
)
def test_method_is_the_name_without_the_seed(tmp_path, name, method):
    _write(tmp_path / "runs" / name, '{"step": 1}\n')
    assert load_runs(tmp_path)[0].method == method


def test_nothing_to_read_is_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no metrics in"):
        load_runs(tmp_path / "missing")
    _write(tmp_path, "", {"steps": 3})  # a run that has not logged its first line
    with pytest.raises(FileNotFoundError, match="no metrics in"):
        load_runs(tmp_path)


def test_a_dotted_setting():
    config = {"a": {"b": 3}, "c": 1}
    assert setting(config, "a.b") == 3
    assert setting(config, "c.d", 7) == 7
    assert math.isnan(setting({}, "x", math.nan))
