"""Several devices give the tokens, losses and parameters of a single device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import ConfigError
from experiments.evaluation import restore_params
from experiments.experiment import abstract_state, build_experiment
from experiments.learner import hyperparameters
from experiments.metric_writer import Silent
from experiments.sharding import make_mesh
from experiments.step_functions import parameter_shardings
from experiments.train import train
from experiments.warm_start import warm_start
from tests.experiments.tiny_config import get_config as tiny_config


def divisible_config():
    """Vocabulary and heads that two devices can share, and a start that is often right."""
    config = tiny_config()
    config.task.kwargs.nodes = 17
    config.model.num_kv_heads = 2
    config.warm_start.steps = 120
    config.checkpoint.every = 40
    return config


@pytest.fixture(scope="module", name="params")
def params_fixture(tmp_path_factory):
    """A policy that earns rewards, so that there is a gradient to compare."""
    config = divisible_config()
    workdir = tmp_path_factory.mktemp("warm_start")
    return jax.device_get(warm_start(build_experiment(config), workdir, Silent()))


def two_steps(params, **mesh):
    """Two steps of SGD: the parameters move by the sum of the gradients."""
    config = divisible_config()
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.mesh.update(mesh)
    experiment = build_experiment(config)
    rl, task = experiment.rl, experiment.task
    hyper = hyperparameters(config, experiment.methods)
    params = jax.device_put(params, parameter_shardings(experiment.model, experiment.mesh))
    rewards, rollouts = rl.evaluate(params, task, task.eval_prompts(8), jax.random.key(7))
    state = rl.init(hyper, params)
    state, metrics = rl.train_steps(state, task, hyper, 2)
    return jax.device_get((rollouts, rewards, metrics, state.params)), state


@pytest.fixture(scope="module", name="single")
def single_fixture(params):
    outcome = two_steps(params, data=1)[0]
    assert np.all(outcome[2]["gradient_norm"] > 0)
    return outcome


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param({"data": 8}, marks=pytest.mark.slow),
        pytest.param({"data": 4, "fsdp": 2}, marks=pytest.mark.slow),
        {"data": 2, "fsdp": 2, "tensor": 2},
    ],
)
def test_meshes_equal_single_device(params, single, mesh):
    (rollouts, rewards, metrics, after), state = two_steps(params, **mesh)
    np.testing.assert_array_equal(rollouts.tokens, single[0].tokens)
    np.testing.assert_array_equal(rewards, single[1])
    np.testing.assert_allclose(rollouts.log_probs, single[0].log_probs, atol=1e-5)
    for name, values in metrics.items():
        np.testing.assert_allclose(values, single[2][name], rtol=2e-4, atol=1e-5, err_msg=name)
    for before, a, b in zip(*map(jax.tree.leaves, (params, after, single[3])), strict=True):
        np.testing.assert_allclose((a - before) / 0.1, (b - before) / 0.1, atol=2e-5)
    devices = int(np.prod(list(mesh.values())))
    embedding = state.params["embedding"]
    assert len(embedding.sharding.device_set) == devices
    part = (22 // mesh.get("tensor", 1), 16 // mesh.get("fsdp", 1))
    assert embedding.addressable_shards[0].data.shape == part


def test_fsdp_splits_parameters_and_optimizer(params):
    config = divisible_config()
    config.mesh.update({"data": 4, "fsdp": 2})
    experiment = build_experiment(config)
    placed = jax.device_put(params, parameter_shardings(experiment.model, experiment.mesh))
    state = experiment.rl.init(hyperparameters(config, experiment.methods), placed)
    embedding = state.params["embedding"]
    assert embedding.addressable_shards[0].data.shape == (embedding.shape[0], 8)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == embedding.shape]
    assert len(moments) >= 2
    assert all(m.addressable_shards[0].data.shape[1] == 8 for m in moments)


@pytest.mark.slow
def test_checkpoint_of_eight_devices_restores_on_one(warm, tmp_path):
    config = tiny_config()
    config.mesh.data, config.warm_start.workdir = 8, warm
    config.steps = 2
    train(config, tmp_path / "run", progress=Silent())
    one = tiny_config()
    step, params = restore_params(build_experiment(one), tmp_path / "run")
    assert step == 2
    assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(params))


def test_state_is_float32_for_bfloat16_models():
    config = tiny_config()
    config.model.dtype = "bfloat16"
    experiment = build_experiment(config)
    state = abstract_state(experiment, hyperparameters(config, experiment.methods))
    kept = jax.tree.leaves((state.params, state.opt_state, state.initial_head))
    kinds = {leaf.dtype for leaf in kept if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert kinds == {jnp.dtype(jnp.float32)}


def test_make_mesh_raises(monkeypatch):
    with pytest.raises(ConfigError, match="= 3 must divide the number of devices, 8"):
        make_mesh({"data": -1, "fsdp": 3, "tensor": 1})
    config = tiny_config()
    config.mesh.tensor = 2
    with pytest.raises(ConfigError, match=r"mesh.tensor = 2 must divide the \w+ dimension \d"):
        build_experiment(config)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="must use all 8 devices of the 2 processes, got 4"):
        make_mesh({"data": 4, "fsdp": 1, "tensor": 1})
