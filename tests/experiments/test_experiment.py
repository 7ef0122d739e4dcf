"""The compiled update of a wide model, whose products another library computes on some CPUs."""

import platform

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import learner
from experiments.experiment import initial_params
from experiments.learner import hyperparameters
from experiments.rollout import Rollouts
from experiments.train import build_experiment
from tests.experiments.tiny_config import get_config as tiny_config


def compiled(**mesh):
    """A program for a policy of one layer, as wide as models that get XLA's other products."""
    config = tiny_config()
    config.model.d_model, config.model.d_ff = 384, 96
    config.task.kwargs.nodes, config.model.num_kv_heads = 17, 2  # two devices can share both
    config.advantage.name = "reinforce"
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 1.0
    config.mesh.update(mesh)
    return build_experiment(config)


def batch(parts):
    """Prompts, rollouts and rewards that a sampler might leave."""
    config, rng = parts.config, np.random.default_rng(0)
    prompts = parts.task.train_prompts(0, 0, config.prompts)
    shape = config.prompts, config.group_size, parts.task.max_completion
    nats = np.full(shape, np.log(parts.model.vocab_size), np.float32)
    tokens = rng.integers(0, parts.model.vocab_size, shape, np.int32)
    rollouts = Rollouts(*map(jnp.asarray, (tokens, np.ones(shape, np.float32), -nats, nats)))
    return prompts, rollouts, jnp.asarray(rng.integers(0, 2, shape[:2]), jnp.float32)


@pytest.mark.parametrize("mesh", [{"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_an_update_of_a_wide_model_is_that_of_plain_products(mesh):
    parts, members, program, _ = compiled(**mesh)
    hyper, arguments = hyperparameters(parts.config, members), batch(parts)
    start = jax.device_get(initial_params(parts))

    @jax.jit
    def plain(params):
        state = learner.init_state(parts.model, parts.config, members, hyper, params)
        return learner.learn(parts.model, parts.config, members, state, hyper, *arguments)

    expected, expected_metrics = jax.device_get(plain(start))
    state = program.init(hyper, start)
    learn = program.learn.lower(state, hyper, *arguments).compile()
    assert ("onednn" in learn.as_text()) == (platform.machine() in ("x86_64", "AMD64"))
    after, metrics = learn(state, hyper, *arguments)
    assert expected_metrics["gradient_norm"] > 0
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name][0], value, rtol=2e-4, atol=1e-5, err_msg=name)
    leaves = zip(*map(jax.tree.leaves, (start, after.params, expected.params)), strict=True)
    for before, ours, theirs in leaves:
        assert np.max(np.abs(theirs - before)) > 1e-4
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
