"""A sweep: which runs it makes, what it refuses, and that processes give what one process gives."""

import json

import pytest

from experiments.config import ConfigError
from experiments.sweep import run_configs, run_sweep
from tests.experiments.tiny_config import get_config as tiny_config

RUNS = {
    "fade": {"advantage": {"name": "fade", "kwargs": {}}, "seed": 1},
    "power": {"advantage": {"name": "power", "kwargs": {"alpha": 2.0}}},
    "slow": {"optimizer.learning_rate": 1e-4},
}


def test_runs_share_the_warm_start_and_differ_in_their_overrides(tmp_path):
    configs = run_configs(tiny_config(), RUNS, tmp_path)
    assert {c.warm_start.workdir for c in configs.values()} == {str(tmp_path / "warm_start")}
    assert configs["fade"].seed == 1
    assert configs["power"].advantage.to_dict() == {"name": "power", "kwargs": {"alpha": 2.0}}
    assert configs["slow"].optimizer.learning_rate == 1e-4
    assert configs["slow"].advantage.name == tiny_config().advantage.name


@pytest.mark.parametrize(
    ("override", "message"),
    [({"group_size": 8}, "run x overrides group_size"), ({"advantage.nam": "f"}, "no field")],
)
def test_overrides_of_what_is_compiled_in_are_refused(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        run_configs(tiny_config(), {"x": override}, tmp_path)


def test_processes_and_one_process_give_the_same_runs(tmp_path):
    hashes = {}
    for mode in ("serial", "processes"):
        config = tiny_config()
        config.steps = 2
        config.sweep.mode = mode
        config.sweep.workers = 2
        run_sweep(config, RUNS, tmp_path / mode)
        hashes[mode] = {
            name: json.loads((tmp_path / mode / "runs" / name / "result.json").read_text())[
                "params_sha256"
            ]
            for name in RUNS
        }
    assert hashes["serial"] == hashes["processes"]
    assert len(set(hashes["serial"].values())) == 3
    assert json.loads((tmp_path / "serial" / "sweep.json").read_text())["runs"][0]["name"] == "fade"


def test_a_run_that_cannot_run_ends_the_sweep_before_any_work(tmp_path):
    runs = RUNS | {"bad": {"advantage": {"name": "power", "kwargs": {"alpha": -1.0}}}}
    with pytest.raises(ConfigError, match="alpha"):
        run_sweep(tiny_config(), runs, tmp_path)
    assert not (tmp_path / "warm_start").exists()
