"""Devices that sample beside those that train, against the same run in lock step on 8 fake devices."""

import jax
import numpy as np
import pytest

from experiments import sharding
from experiments.config import ConfigError
from experiments.experiment import build_experiment
from experiments.loop import Stopped
from experiments.metric_writer import Silent, read_lines
from experiments.train import train
from experiments.validation import validate
from tests.experiments import letters_run
from tests.experiments.tiny_config import get_config as tiny_config

ROUNDS = 2


def letters(samplers, lag, rounds=0):
    config = tiny_config()
    config.task.name, config.task.kwargs = "tests.experiments.letters_run.make", {}
    config.steps = 6
    config.steps_per_call, config.evaluation.every, config.checkpoint.every = 1, 6, 2
    config.warm_start.steps = 0
    config.learner.staleness, config.learner.resample_rounds = lag, rounds
    config.learner.head_rank = False
    config.optimizer.learning_rate = 1e-2
    config.mesh.data, config.mesh.samplers = 4, samplers
    return config


def params_and_lines(config, workdir):
    result = train(config, workdir, progress=Silent(), experiment=build_experiment(config))
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if "reward" in line]
    timing = ("tokens_per_second", "step_seconds")
    return result["params_sha256"], [
        {k: v for k, v in line.items() if k not in timing} for line in lines
    ]


@pytest.mark.parametrize(("lag", "rounds"), [(1, 0), (3, ROUNDS)])
def test_samplers_give_the_bits_of_lock_step(tmp_path, lag, rounds):
    together = params_and_lines(letters(4, lag, rounds), tmp_path / "beside")
    in_turn = params_and_lines(letters(0, lag, rounds), tmp_path / "in_turn")
    assert together == in_turn
    assert len({line["reward"] for line in in_turn[1]}) > 1
    if rounds:
        assert any(line["resampling/rounds"] > 0 for line in in_turn[1])


def test_samplers_resume_to_the_same_bits(tmp_path, monkeypatch):
    """A stop and a failure of verification each leave batches under way, which are made again."""
    config = letters(4, 2)
    whole = params_and_lines(config, tmp_path / "whole")
    monkeypatch.setattr(letters_run, "STOPS", [True])
    with pytest.raises(Stopped):
        params_and_lines(config, tmp_path / "stopped")
    assert params_and_lines(config, tmp_path / "stopped") == whole


def test_samplers_score_tasks_of_the_device(tmp_path):
    config = tiny_config()
    config.steps, config.steps_per_call = 4, 1
    config.learner.staleness, config.learner.head_rank = 1, False
    config.warm_start.steps = 20
    config.mesh.data, config.mesh.samplers = 4, 4
    _, beside = params_and_lines(config, tmp_path / "beside")
    config.mesh.samplers = 0
    _, in_turn = params_and_lines(config, tmp_path / "in_turn")
    assert [line["reward"] for line in beside] == [line["reward"] for line in in_turn]
    for a, b in zip(beside, in_turn, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], atol=1e-5)


def test_sampler_mesh_has_the_last_devices():
    sizes = {"data": -1, "fsdp": 1, "tensor": 2, "samplers": 2}
    trainer, sampler = sharding.make_mesh(sizes), sharding.sampler_mesh(sizes)
    assert trainer.shape == {"data": 3, "fsdp": 1, "tensor": 2}
    assert sampler.shape == {"data": 1, "fsdp": 1, "tensor": 2}
    assert [*trainer.devices.flat, *sampler.devices.flat] == jax.devices()


@pytest.mark.parametrize(
    ("samplers", "tensor", "message"),
    [
        (3, 2, "config.mesh.samplers must be a multiple of config.mesh.tensor = 2"),
        (8, 1, "below the number of devices, 8, got 8"),
    ],
)
def test_make_mesh_refuses_samplers_that_do_not_fit(samplers, tensor, message):
    with pytest.raises(ConfigError, match=message):
        sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": tensor, "samplers": samplers})


def test_samplers_need_a_lag():
    with pytest.raises(ConfigError, match=r"config\.learner\.staleness must be at least 1 with"):
        validate(letters(4, 0))


def test_samplers_take_whole_shares_of_the_prompts():
    config = letters(3, 1)
    with pytest.raises(ConfigError, match=r"config\.prompts must be a multiple of"):
        sharding.check_batches(sharding.make_mesh(config.mesh), config)
