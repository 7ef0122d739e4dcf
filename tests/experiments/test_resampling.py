"""Dynamic sampling against plain Python, and through whole runs."""

from typing import NamedTuple

import chex
import jax
import numpy as np
import pytest

from experiments.advantages import check_shaped_rewards
from experiments.config import ConfigError
from experiments.experiment import Experiment, build_experiment, initial_params
from experiments.learner import hyperparameters
from experiments.metric_writer import Silent, read_lines
from experiments.resampling import is_flat, overlong_punishment, replace_flat
from experiments.rollout import Rollouts
from experiments.tasks.base import Prompts
from experiments.train import train
from tests.experiments.tiny_config import get_config


def replaced_in_python(batch, rewards, more, more_rewards):
    """The same, group by group."""
    batch, rewards = list(batch), [list(row) for row in rewards]
    spare = [i for i, row in enumerate(more_rewards) if len(set(row)) > 1]
    for place, row in enumerate(rewards):
        if len(set(row)) == 1 and spare:
            source = spare.pop(0)
            batch[place], rewards[place] = more[source], list(more_rewards[source])
    return batch, rewards


REPLACE = jax.jit(replace_flat)


@pytest.mark.parametrize("seed", range(20))
def test_replace_flat_equals_python(seed):
    rng = np.random.default_rng(seed)
    chance = rng.choice([0.1, 0.5, 0.9])
    rewards, more_rewards = (rng.random((2, 8, 3)) < chance).astype(np.float32)
    batch, more = np.arange(8), np.arange(100, 108)
    pair, found = REPLACE(
        (batch, np.stack([batch] * 2, 1)), rewards, (more, np.stack([more] * 2, 1)), more_rewards
    )
    expected, expected_rewards = replaced_in_python(
        batch.tolist(), rewards.tolist(), more.tolist(), more_rewards.tolist()
    )
    assert pair[0].tolist() == expected
    assert pair[1].tolist() == [[i, i] for i in expected]
    assert found.tolist() == expected_rewards


def test_is_flat_leaves_unknown_rewards_out():
    nan = np.nan
    rewards = np.array([[1, 1, nan], [1, nan, 0], [nan, nan, nan], [nan, 1, nan]], np.float32)
    assert is_flat(rewards).tolist() == [True, False, True, True]


def test_overlong_punishment_grows_over_the_buffer():
    lengths = np.array([0, 12, 13, 14, 15, 16])
    found = overlong_punishment(lengths, max_tokens=16, buffer=4)
    assert found.tolist() == [0, 0, 0.25, 0.5, 0.75, 1]


@pytest.fixture(name="resampled")
def resampled_fixture(tiny):
    tiny.learner.resample_rounds = 3
    tiny.group_size = 2  # most groups are flat
    return tiny


@pytest.mark.slow
def test_train_resamples_and_resumes_to_the_same_bits(resampled, warm, tmp_path):
    resampled.warm_start.workdir = warm
    experiment = build_experiment(resampled)
    whole = train(resampled, tmp_path / "whole", progress=Silent(), experiment=experiment)
    lines = [line for line in read_lines(tmp_path / "whole" / "metrics.jsonl") if "loss" in line]
    assert max(line["resampling/rounds"] for line in lines) > 0
    assert all(0 <= line["resampling/rounds"] <= 3 for line in lines)
    assert all(
        line["resampling/rounds"] == 3 or line["resampling/flat_fraction"] == 0 for line in lines
    )
    steps = resampled.steps
    resampled.steps = resampled.checkpoint.every
    train(resampled, tmp_path / "parts", progress=Silent(), experiment=experiment)
    resampled.steps = steps
    parts = train(resampled, tmp_path / "parts", progress=Silent(), experiment=experiment)
    assert parts["params_sha256"] == whole["params_sha256"]


class Step(NamedTuple):
    """A first step of the tiny run, of whose rollouts some are cut off."""

    experiment: Experiment
    params: dict
    prompts: Prompts
    rollouts: Rollouts
    rewards: np.ndarray


@pytest.fixture(scope="module", name="step")
def step_fixture():
    config = get_config()
    experiment = build_experiment(config, [("dr_grpo", {})])
    params = jax.device_get(initial_params(experiment))
    state = experiment.rl.init(hyperparameters(config, experiment.methods), params)
    prompts = experiment.task.train_prompts(0, 0, config.prompts)
    rollouts = jax.device_get(experiment.rl.sample(state, prompts))
    rewards = np.random.default_rng(0).integers(0, 2, rollouts.tokens.shape[:2])
    return Step(experiment, params, prompts, rollouts, rewards.astype(np.float32))


def updated(experiment, config, step, known=None, rewards=None):
    """The parameters and metrics after the step by a config."""
    hyper = hyperparameters(config, experiment.methods)
    state = experiment.rl.init(hyper, step.params)
    rewards = step.rewards if rewards is None else rewards
    state, metrics = experiment.rl.update(state, hyper, step.prompts, step.rollouts, rewards, known)
    return jax.device_get((state.params, metrics))


def test_mask_truncated_leaves_them_out_as_unknown_rewards_are(tiny, step):
    rollouts, task = step.rollouts, step.experiment.task
    ends = (np.asarray(rollouts.tokens) == task.eos_id) & (np.asarray(rollouts.token_mask) > 0)
    ended = ends.any(axis=-1)
    assert 0 < ended.sum() < ended.size
    expected, _ = updated(step.experiment, tiny, step, known=ended)
    tiny.learner.mask_truncated = True
    experiment = build_experiment(tiny, [("dr_grpo", {})])
    chex.assert_trees_all_equal(updated(experiment, tiny, step)[0], expected)


def test_update_with_nothing_known_changes_nothing_and_is_finite(tiny, step):
    after, metrics = updated(step.experiment, tiny, step, np.zeros_like(step.rewards, bool))
    chex.assert_trees_all_equal(after, step.params)
    assert metrics["loss"] == metrics["gradient_norm"] == 0


def test_overlong_buffer_is_no_longer_than_a_completion(tiny):
    tiny.advantage = {"name": "dr_grpo", "kwargs": {}}
    tiny.learner.overlong_buffer = 1000
    with pytest.raises(ConfigError, match=r"overlong_buffer must be at most the \d+ tokens"):
        build_experiment(tiny)


@pytest.mark.parametrize(
    ("name", "kwargs", "fits"),
    [
        ("grpo", {}, True),
        ("fade", {}, True),
        ("max_rl", {}, False),  # defined by counts of successes
    ],
)
def test_overlong_punishment_needs_an_advantage_of_any_rewards(tiny, name, kwargs, fits):
    tiny.advantage.name, tiny.advantage.kwargs = name, kwargs
    tiny.learner.overlong_buffer = 2
    if fits:
        check_shaped_rewards(tiny)
        return
    with pytest.raises(
        ConfigError, match=rf"overlong_buffer must be 0, got 2, with .*'{name}', whose"
    ):
        check_shaped_rewards(tiny)


def test_overlong_punishment_is_taken_off_the_rewards(tiny, step):
    tiny.advantage.name, tiny.advantage.kwargs = "dr_grpo", {}
    known = np.ones_like(step.rewards, bool)
    lengths = step.rollouts.token_mask.sum(-1)
    longest = step.rollouts.tokens.shape[-1]
    shaped = step.rewards - 0.5 * np.clip((lengths - (longest - 2)) / 2, 0, 1)
    expected, _ = updated(step.experiment, tiny, step, known, shaped.astype(np.float32))
    tiny.learner.overlong_buffer, tiny.learner.overlong_penalty = 2, 0.5
    found, metrics = updated(build_experiment(tiny), tiny, step, known)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)
    assert metrics["reward"] == pytest.approx(step.rewards.mean())  # what was verified
