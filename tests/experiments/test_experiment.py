"""The compiled update of a wide model, whose matmuls oneDNN computes on x86 CPUs."""

import platform

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import learner
from experiments.experiment import build_experiment, initial_params, with_config
from experiments.learner import hyperparameters
from experiments.models import huggingface, weights
from experiments.rollout import Rollouts
from tests.experiments.models.common import random_params
from tests.experiments.models.test_chat import write_tokenizer
from tests.experiments.test_export import SIZES, chat_config
from tests.experiments.tiny_config import get_config as tiny_config


def wide_experiment(**mesh):
    """A policy of one layer, as wide as models that get XLA's other products."""
    config = tiny_config()
    config.model.d_model, config.model.d_ff = 384, 96
    config.task.kwargs.nodes, config.model.num_kv_heads = 17, 2  # two devices can share both
    config.advantage.name = "reinforce"
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 1.0
    config.mesh.update(mesh)
    return build_experiment(config)


def batch(experiment):
    """Prompts, rollouts and rewards that a sampler might leave."""
    config, rng = experiment.config, np.random.default_rng(0)
    prompts = experiment.task.train_prompts(0, 0, config.prompts)
    shape = config.prompts, config.group_size, experiment.task.max_completion
    nats = np.full(shape, np.log(experiment.model.vocab_size), np.float32)
    tokens = rng.integers(0, experiment.model.vocab_size, shape, np.int32)
    rollouts = Rollouts(*map(jnp.asarray, (tokens, np.ones(shape, np.float32), -nats, nats)))
    return prompts, rollouts, jnp.asarray(rng.integers(0, 2, shape[:2]), jnp.float32)


@pytest.fixture(scope="module", name="plain")
def plain_fixture():
    """(hyper, batch, params before, (state after, metrics)) of one device and plain matmuls."""
    experiment = wide_experiment(data=1)
    config, model, methods = experiment.config, experiment.model, experiment.methods
    hyper, arguments = hyperparameters(config, methods), batch(experiment)
    start = jax.device_get(initial_params(experiment))

    @jax.jit
    def update(params):
        state = learner.init_state(model, config, methods, hyper, params)
        return learner.policy_update(model, config, methods, state, hyper, *arguments)

    return hyper, arguments, start, jax.device_get(update(start))


@pytest.mark.parametrize("mesh", [{"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_update_of_a_wide_model_equals_plain_matmuls(plain, mesh):
    hyper, arguments, start, (expected, expected_metrics) = plain
    experiment = wide_experiment(**mesh)
    state = experiment.rl.init(hyper, start)
    update = experiment.rl.update.lower(state, hyper, *arguments).compile()
    assert ("onednn" in update.as_text()) == (platform.machine() in ("x86_64", "AMD64"))
    after, metrics = update(state, hyper, *arguments)
    assert expected_metrics["gradient_norm"] > 0
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name][0], value, rtol=2e-4, atol=1e-5, err_msg=name)
    leaves = zip(*map(jax.tree.leaves, (start, after.params, expected.params)), strict=True)
    for before, ours, theirs in leaves:
        assert np.max(np.abs(theirs - before)) > 1e-4
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_runs_that_share_an_experiment_start_from_the_same_weights(tmp_path, monkeypatch):
    """No numbers are read before they are asked for, and what one run donates another has anew."""
    params = random_params(SIZES)
    huggingface.save(tmp_path, SIZES, params, dtype="float16")
    expected = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), params)
    write_tokenizer(tmp_path)
    config = chat_config(tmp_path)
    config.mesh.data, config.mesh.fsdp = 1, 4
    loads, load = [], weights.load
    monkeypatch.setattr(weights, "load", lambda *a: loads.append(a) or load(*a))
    experiment = build_experiment(config)
    assert not loads
    hyper = hyperparameters(config, experiment.methods)
    for seed in (0, 1):
        config.seed = seed
        shared = with_config(experiment, config)
        found = initial_params(shared)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), expected)
        state = shared.rl.init(hyper, found)
        assert jax.tree.map(lambda x: x.sharding, found) == shared.rl.state_shardings.params
        prompts = shared.task.train_prompts(0, 0, config.prompts)._replace(verifier_inputs=())
        rollouts = shared.rl.sample(state, prompts, 0)
        rewards = np.ones(rollouts.tokens.shape[:2], np.float32)
        shared.rl.update(state, hyper, prompts, rollouts, rewards)
    assert len(loads) == 2
