"""One code path for one device and for eight: same tokens, same losses, same parameters."""

import jax
import numpy as np
import pytest

from experiments.progress import Silent
from experiments.setup import parameter_shardings
from experiments.train import compile_for, hyperparameters, restore_params, train, warm_start
from tests.experiments.tiny_config import get_config as tiny_config


@pytest.fixture(scope="module", name="params")
def params_fixture(tmp_path_factory):
    """A policy that earns rewards, so that there is a gradient to compare."""
    config = tiny_config()
    workdir = tmp_path_factory.mktemp("warm_start")
    return jax.device_get(warm_start(config, compile_for(config), Silent(), workdir))


def two_steps(params, **mesh):
    config = tiny_config()
    config.mesh.update(mesh)
    compiled = compile_for(config)
    parts, members, program, _ = compiled
    hyper = hyperparameters(config, members)
    params = jax.device_put(params, parameter_shardings(parts))
    rewards, rollouts = program.judge(
        params, parts.task, parts.task.eval_prompts(8), jax.random.key(7)
    )
    state = program.init(hyper, params)
    state, metrics = program.advance(state, parts.task, hyper, 2)
    return jax.device_get((rollouts, rewards, metrics, state.params)), state


@pytest.fixture(scope="module", name="single")
def single_fixture(params):
    outcome = two_steps(params, data=1)[0]
    assert np.all(outcome[2]["gradient_norm"] > 0)
    return outcome


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 4, "fsdp": 2}])
def test_eight_devices_equal_one(params, single, mesh):
    (rollouts, rewards, metrics, after), state = two_steps(params, **mesh)
    np.testing.assert_array_equal(rollouts.tokens, single[0].tokens)
    np.testing.assert_array_equal(rewards, single[1])
    np.testing.assert_allclose(rollouts.log_probs, single[0].log_probs, atol=1e-5)
    for name, values in metrics.items():
        np.testing.assert_allclose(values, single[2][name], rtol=2e-4, atol=1e-5, err_msg=name)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(single[3]), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert len(state.params["embedding"].sharding.device_set) == 8


def test_parameters_and_optimizer_are_split_over_fsdp(params):
    _, state = two_steps(params, data=4, fsdp=2)
    embedding = state.params["embedding"]
    assert embedding.addressable_shards[0].data.shape == (embedding.shape[0], 8)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == embedding.shape]
    assert len(moments) >= 2
    assert all(m.addressable_shards[0].data.shape[1] == 8 for m in moments)


def test_checkpoint_of_eight_devices_resumes_on_one(tmp_path):
    """What a pod wrote, a laptop reads."""
    config = tiny_config()
    config.mesh.data = 8
    config.steps = 2
    train(config, tmp_path / "run", progress=Silent())
    one = tiny_config()
    compiled = compile_for(one)
    hyper = hyperparameters(one, compiled.members)
    step, params = restore_params(compiled.parts, compiled.members, hyper, tmp_path / "run", None)
    assert step == 2
    assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(params))
