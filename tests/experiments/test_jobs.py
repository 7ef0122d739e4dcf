"""Jobs of a sweep, before anything is compiled: configs, program keys, warm starts, shards."""

import importlib
from pathlib import Path

import pytest

from experiments.config import ConfigError, default_config
from experiments.grid import axis, product
from experiments.jobs import (
    Job,
    make_jobs,
    methods_by_program,
    next_job,
    parse_shard,
    program_key,
    run_configs,
    steps_in_turn,
)
from tests.experiments.conftest import REPOSITORY
from tests.experiments.tiny_config import get_config as tiny_config

RUNS = {
    "fade": {"advantage": {"name": "fade", "kwargs": {}}, "seed": 1},
    "power": {"advantage": {"name": "power", "kwargs": {"alpha": 2.0}}},
    "slow": {"optimizer.learning_rate": 1e-4},
}
SWEEPS = sorted(f"sweeps.{p.stem}" for p in (REPOSITORY / "configs/sweeps").glob("[!_]*.py"))
SWEEPS += ["benchmark.all", "benchmark.tuning"]


def test_run_configs_share_the_warm_start(tmp_path):
    configs = run_configs(tiny_config(), RUNS, tmp_path)
    assert {c.warm_start.workdir for c in configs.values()} == {str(tmp_path / "warm_start")}
    assert configs["fade"].seed == 1
    assert configs["power"].advantage.to_dict() == {"name": "power", "kwargs": {"alpha": 2.0}}
    assert configs["slow"].optimizer.learning_rate == 1e-4
    assert configs["slow"].advantage.name == tiny_config().advantage.name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"advantage.nam": "f"}, "run x overrides advantage.nam, which is no field"),
        ({"seed.x": 1}, "run x overrides seed.x, which is no field"),
        ({"advantage.kwargs.alfa": 1.0}, "run x: config.advantage.kwargs has no field 'alfa'"),
        ({"advantage": {"name": "power", "kwargs": {"alpha": -1.0}}}, "run x: .* alpha must be"),
        ({"group_size": 1}, "run x: config.group_size"),
        ({"prompts": 0}, "run x: config.prompts must be a whole number >= 1, got 0"),
    ],
)
def test_run_configs_name_a_run_that_cannot_run(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        run_configs(tiny_config(), {"fine": {}, "x": override}, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ({"seed": 5}, True),
        ({"advantage": {"name": "power", "kwargs": {"alpha": 2.0}}}, True),
        ({"optimizer.learning_rate": 1.0}, True),
        ({"warm_start.steps": 3}, True),
        ({"warm_start.seed": 3}, True),
        ({"evaluation.seed": 3}, True),
        ({"checkpoint.every": 4}, True),
        ({"steps": 8}, True),
        ({"group_size": 8}, False),
        ({"learner.epochs": 2}, False),
        ({"learner.staleness": 2}, False),
        ({"optimizer.name": "sgd"}, False),
        ({"task.kwargs.nodes": 24}, False),
        ({"evaluation.samples": 16}, False),
        ({"sampling.temperature": 0.5}, False),
    ],
)
def test_program_key_is_what_programs_are_compiled_for(tmp_path, override, same):
    configs = run_configs(tiny_config(), {"a": {}, "b": override}, tmp_path)
    assert (program_key(configs["a"]) == program_key(configs["b"])) is same


def test_make_jobs_puts_warm_starts_first(tmp_path):
    runs = product(axis("warm_start.steps", (2, 4), "start"), axis("optimizer.name", ("adamw", "sgd")), axis("seed", (0, 1)))  # fmt: skip
    jobs = make_jobs(tiny_config(), runs, tmp_path)
    assert [job.name for job in jobs[:2]] == ["warm start/steps2", "warm start/steps4"]
    assert [job.directory for job in jobs[:2]] == [
        tmp_path / "warm_start/steps2",
        tmp_path / "warm_start/steps4",
    ]
    assert all(job.is_run for job in jobs[2:])
    assert all(job.config.warm_start.workdir == str(tmp_path / job.depends_on.replace(" ", "_")) for job in jobs[2:])  # fmt: skip
    keys = [job.program_key for job in jobs[2:]]
    assert len(set(keys)) == 2
    assert keys == sorted(keys, key=keys.index)  # one shape after the other
    assert {job.name for job in jobs[2:]} == set(runs)


def test_make_jobs_skips_the_warm_start_of_finished_runs(tmp_path):
    config = tiny_config()
    for name in RUNS:
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "result.json").write_text(f'{{"step": {config.steps}}}')
    assert all(job.is_run and job.depends_on is None for job in make_jobs(config, RUNS, tmp_path))
    (tmp_path / "runs" / "slow" / "result.json").unlink()
    jobs = make_jobs(config, RUNS, tmp_path)
    assert [job.name for job in jobs if not job.is_run] == ["warm start"]


def test_make_jobs_of_a_shard(tmp_path):
    config, runs = tiny_config(), axis("seed", range(7))
    parts = [make_jobs(config, runs, tmp_path, (i, 3)) for i in range(3)]
    names = [[job.name for job in part if job.is_run] for part in parts]
    assert names == [["seed0", "seed3", "seed6"], ["seed1", "seed4"], ["seed2", "seed5"]]
    starts = [[job.directory.name for job in part if not job.is_run] for part in parts]
    assert starts == [[f"warm_start-part{i}of3"] for i in range(3)]


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "0/0", "1/2/3", "1.0/2"])
def test_parse_shard_refuses(text):
    with pytest.raises(ConfigError, match="--shard must be i/n with 0 <= i < n"):
        parse_shard(text)


def test_parse_shard_reads_index_and_count():
    assert parse_shard("0/1") == (0, 1)
    assert parse_shard("3/12") == (3, 12)


def job(name, key, is_run=True):
    return Job(name, default_config(), Path(name), key, None, is_run)


@pytest.mark.parametrize(
    ("runs", "workers", "turn"),
    [(3, 2, 300), (5, 3, 200), (2, 2, None), (4, 2, None), (1, 2, None), (9, 1, None), (7, 4, 150)],
)
def test_steps_in_turn_cuts_runs_that_would_leave_workers_idle(runs, workers, turn):
    jobs = [job("w", "a", is_run=False), *(job(str(i), "a") for i in range(runs))]
    assert steps_in_turn(jobs, workers) == turn


def test_next_job_keeps_a_worker_to_its_program():
    ready = [job("a0", "a"), job("b0", "b"), job("b1", "b"), job("c0", "c")]
    assert next_job(ready, "c", []).name == "c0"  # what it has compiled
    assert next_job(ready, None, []).name == "b0"  # the most runs
    assert next_job(ready, None, ["b"]).name == "a0"  # nobody is at it
    assert next_job(ready, None, ["b", "a", "c", "c"]).name == "b0"
    assert next_job([job("w", "z", is_run=False), *ready], "c", []).name == "w"
    assert next_job([], "a", []) is None


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_file_can_run(name, tmp_path):
    module = importlib.import_module(f"configs.{name}")
    for mode in ("", "smoke"):
        config = module.get_config(mode)
        config.sweep.seeds = min(config.sweep.seeds, 2)  # further ones are as these
        if config.model.path:
            config.model.path = str(tmp_path)  # the weights need not be here
        jobs = make_jobs(config, module.sweep(config), tmp_path)
        seeds = {job.config.seed for job in jobs}
        tuning_seed = getattr(module, "SEED", None)  # no result may come from it
        assert tuning_seed not in range(100)
        assert seeds == ({tuning_seed} if tuning_seed else set(range(config.sweep.seeds)))
        for methods in methods_by_program(jobs).values():
            assert len(methods) == len({repr(m) for m in methods})


def test_benchmark_takes_a_method_of_ones_own():
    module = importlib.import_module("configs.benchmark.all")
    config = module.get_config()
    plain = module.sweep(config)
    config.advantage.name = "shrinkage"
    config.advantage.kwargs = {"a": 2.0}
    config.optimizer.learning_rate = 7e-4
    added = {name: run for name, run in module.sweep(config).items() if name not in plain}
    assert len(added) == 4 * 10
    assert all(
        run["advantage"] == {"name": "shrinkage", "kwargs": {"a": 2.0}} for run in added.values()
    )
    assert {run["optimizer.learning_rate"] for run in added.values()} == {7e-4}
    assert {run["task.name"] for run in added.values()} == {
        run["task.name"] for run in plain.values()
    }


def test_countdown_from_the_shorter_start_is_the_countdown_sweep():
    def configs(name):
        module = importlib.import_module(f"configs.sweeps.{name}")
        config = module.get_config()
        found = {}
        for run, overrides in module.sweep(config).items():
            own = config.copy_and_resolve_references()
            own.update_from_flattened_dict(overrides)
            found[run] = own.to_json_best_effort(sort_keys=True)
        return found

    plain, starts = configs("countdown"), configs("countdown_starts")
    shorter = {name.split("-", 1)[1]: text for name, text in starts.items() if "start280" in name}
    assert len(shorter) == 25
    assert all(plain[name] == text for name, text in shorter.items())
