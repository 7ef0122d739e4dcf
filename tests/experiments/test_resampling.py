"""Dynamic sampling against plain Python, and through whole runs."""

import chex
import jax
import numpy as np
import pytest

from experiments.advantages import check_shaped_rewards
from experiments.config import ConfigError
from experiments.experiment import build_experiment, initial_params
from experiments.learner import hyperparameters
from experiments.metric_writer import Silent, read_lines
from experiments.resampling import is_flat, overlong_punishment, replace_flat
from experiments.train import train


def replaced_in_python(batch, rewards, more, more_rewards):
    """The same, group by group."""
    batch, rewards = list(batch), [list(row) for row in rewards]
    spare = [i for i, row in enumerate(more_rewards) if len(set(row)) > 1]
    for place, row in enumerate(rewards):
        if len(set(row)) == 1 and spare:
            source = spare.pop(0)
            batch[place], rewards[place] = more[source], list(more_rewards[source])
    return batch, rewards


@pytest.mark.parametrize("seed", range(20))
def test_replace_flat_equals_python(seed):
    rng = np.random.default_rng(seed)
    chance = rng.choice([0.1, 0.5, 0.9])
    rewards, more_rewards = (rng.random((2, 8, 3)) < chance).astype(np.float32)
    batch, more = np.arange(8), np.arange(100, 108)
    pair, found = jax.jit(replace_flat)(
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
def test_train_resamples_and_resumes_to_the_same_bits(resampled, tmp_path):
    whole = train(resampled, tmp_path / "whole", progress=Silent())
    lines = [line for line in read_lines(tmp_path / "whole" / "metrics.jsonl") if "loss" in line]
    assert max(line["resampling/rounds"] for line in lines) > 0
    assert all(0 <= line["resampling/rounds"] <= 3 for line in lines)
    assert all(
        line["resampling/rounds"] == 3 or line["resampling/flat_fraction"] == 0 for line in lines
    )
    steps = resampled.steps
    resampled.steps = resampled.checkpoint.every
    train(resampled, tmp_path / "parts", progress=Silent())
    resampled.steps = steps
    parts = train(resampled, tmp_path / "parts", progress=Silent())
    assert parts["params_sha256"] == whole["params_sha256"]


@pytest.fixture(name="step")
def step_fixture(tiny):
    """(experiment, params, prompts, rollouts, rewards) of a first step; some are cut off."""
    experiment = build_experiment(tiny)
    hyper = hyperparameters(tiny, experiment.methods)
    state = experiment.rl.init(hyper, initial_params(experiment))
    prompts = experiment.task.train_prompts(0, 0, tiny.prompts)
    rollouts = experiment.rl.sample(state, prompts)
    rewards = jax.random.bernoulli(jax.random.key(0), 0.5, rollouts.tokens.shape[:2])
    return hyper, prompts, rollouts, np.asarray(rewards, np.float32)


def updated(config, step, known=None, rewards=None):
    """The parameters after the step by a config."""
    hyper, prompts, rollouts, own = step
    experiment = build_experiment(config)
    state = experiment.rl.init(hyper, initial_params(experiment))
    rewards = own if rewards is None else rewards
    state, metrics = experiment.rl.update(state, hyper, prompts, rollouts, rewards, known)
    return jax.device_get(state.params), jax.device_get(metrics)


def test_mask_truncated_leaves_them_out_as_unknown_rewards_are(tiny, step):
    rollouts, task = step[2], build_experiment(tiny).task
    ends = (np.asarray(rollouts.tokens) == task.eos_id) & (np.asarray(rollouts.token_mask) > 0)
    ended = ends.any(axis=-1)
    assert 0 < ended.sum() < ended.size
    expected, _ = updated(tiny, step, known=ended)
    tiny.learner.mask_truncated = True
    chex.assert_trees_all_equal(updated(tiny, step)[0], expected)


def test_update_with_nothing_known_changes_nothing_and_is_finite(tiny, step):
    before = jax.device_get(initial_params(build_experiment(tiny)))
    after, metrics = updated(tiny, step, known=np.zeros_like(step[3], bool))
    chex.assert_trees_all_equal(after, before)
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
    hyper = hyperparameters(tiny, build_experiment(tiny).methods)
    step = (hyper, *step[1:])
    lengths = np.asarray(step[2].token_mask).sum(-1)
    longest = step[2].tokens.shape[-1]
    shaped = step[3] - 0.5 * np.clip((lengths - (longest - 2)) / 2, 0, 1)
    expected, _ = updated(tiny, step, rewards=shaped.astype(np.float32))
    tiny.learner.overlong_buffer, tiny.learner.overlong_penalty = 2, 0.5
    found, metrics = updated(tiny, step)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)
    assert metrics["reward"] == pytest.approx(step[3].mean())  # what was verified
