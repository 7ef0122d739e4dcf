"""Runs of the sweeps whose losses and terms no other test takes through a whole run."""

import importlib

import numpy as np
import pytest

from experiments.jobs import run_configs
from experiments.metric_writer import Silent, read_lines
from experiments.train import train

RUNS = [
    ("losses", "sequence-fade-seed0", "clip_fraction"),
    ("losses", "cispo-fade-seed0", "clip_fraction"),
    ("losses", "importance2-fade-seed0", "mismatch/capped_fraction"),
    ("kl", "k3-c0.01-seed0", "kl_coefficient"),
    ("kl", "k1_reward-c0.01-seed0", "kl"),
    ("entropy_bonus", "held0.5-seed0", "entropy_coefficient"),
]


@pytest.fixture(scope="module", name="warm_start")
def warm_start_fixture(tmp_path_factory):
    return tmp_path_factory.mktemp("warm_start")


@pytest.mark.slow
@pytest.mark.parametrize(("sweep", "run", "metric"), RUNS)
def test_smoke_run_of_a_sweep(sweep, run, metric, warm_start, tmp_path):
    module = importlib.import_module(f"configs.sweeps.{sweep}")
    base = module.get_config("smoke")
    base.mesh.data = 1
    base.evaluation.every = base.checkpoint.every = base.steps
    config = run_configs(base, module.sweep(base), tmp_path)[run]
    config.warm_start.workdir = str(warm_start)
    train(config, tmp_path / "run", progress=Silent())
    lines = [line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "reward" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(np.isfinite(line[metric]) for line in lines)
