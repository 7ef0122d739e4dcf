"""Optimizers by name against optax and NumPy, and through a run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.config import ConfigError, default_config
from experiments.experiment import build_experiment, initial_params
from experiments.learner import hyperparameters
from experiments.metric_writer import Silent, read_lines
from experiments.optimizers import check_optimizer, decays, make_optimizer, make_schedule
from experiments.train import train


def settings(**changes):
    config = default_config().optimizer
    for name, value in changes.items():
        config[name] = value
    return config


def rates(optimizer, count):
    """The rates that plain SGD applies: minus its updates for a gradient of 1."""
    params = {"kernel": jnp.zeros(())}
    state, found = optimizer.init(params), []
    for _ in range(count):
        updates, state = optimizer.update({"kernel": jnp.ones(())}, state, params)
        found.append(-float(updates["kernel"]))
    return found


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("constant", {}, [1] * 8),
        ("linear", {"decay_updates": 4}, [1, 0.75, 0.5, 0.25, 0, 0, 0, 0]),
        ("linear", {"decay_updates": 2, "end": 0.5}, [1, 0.75, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]),
        ("cosine", {"decay_updates": 4},
         [(1 + np.cos(np.pi * min(n, 4) / 4)) / 2 for n in range(8)]),
        ("warmup_stable_decay", {"stable_updates": 3, "decay_updates": 2, "end": 0.2},
         [1, 1, 1, 1, 0.6, 0.2, 0.2, 0.2]),
        ("optax.constant_schedule", {"value": 0.5}, [0.5] * 8),
    ],
)  # fmt: skip
def test_schedule_follows_its_formula_after_the_warmup(name, kwargs, expected):
    schedule = {"name": name, "kwargs": kwargs}
    optimizer = make_optimizer(settings(name="sgd", schedule=schedule, warmup_updates=4), 2.0)
    found = rates(optimizer, 12)
    np.testing.assert_allclose(found[:3], [0.5 * expected[0], expected[0], 1.5 * expected[0]])
    np.testing.assert_allclose(found[4:], 2 * np.array(expected), atol=1e-6)


DECAYING = ("adamw", "lion", "lamb")  # by default, unlike ours


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "lamb", "rmsprop", "adam"])
def test_make_optimizer_equals_optax(name):
    params = {"final_norm": jnp.ones(4), "kernel": jnp.ones((8, 4))}
    gradient = jax.tree.map(lambda p: 0.1 + jnp.arange(p.size).reshape(p.shape) / p.size, params)
    module = optax if hasattr(optax, name) else optax.contrib
    ours = make_optimizer(settings(name=name), 0.1)
    plain = getattr(module, name)(0.1, **({"weight_decay": 0.0} if name in DECAYING else {}))
    states = plain.init(params), ours.init(params)
    for n in range(3):
        scaled = jax.tree.map(lambda g: g / (n + 1), gradient)  # noqa: B023  # used at once
        expected, first = plain.update(scaled, states[0], params)
        found, second = ours.update(scaled, states[1], params)
        states = first, second
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_muon_orthogonalizes_the_matrices_of_each_layer():
    gradient = jax.random.normal(jax.random.key(0), (3, 8, 4))
    params = {"layers": {"query": jnp.zeros((3, 8, 4))}, "embedding": jnp.zeros((8, 4))}
    optimizer = make_optimizer(settings(name="muon"), 1.0)
    updates, _ = optimizer.update(
        {"layers": {"query": gradient}, "embedding": gradient[0]}, optimizer.init(params), params
    )
    for layer, update in zip(gradient, updates["layers"]["query"], strict=True):
        singular = np.linalg.svd(update, compute_uv=False)
        assert singular.max() / singular.min() < 2.5  # Newton-Schulz gets near 1, not to it
        left, _, right = np.linalg.svd(layer, full_matrices=False)
        cosine = np.sum(-update * (left @ right)) / np.linalg.norm(update) / 2  # of norm 2
        assert cosine > 0.95
    ratio = -updates["embedding"] / np.sign(gradient[0])  # Adam: one size for all
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd"])
def test_weight_decay_leaves_norms_and_biases_alone(name):
    params = {"layers": {"query": jnp.ones((2, 4, 4)), "query_bias": jnp.ones((2, 4)),
                         "attention_norm": jnp.ones((2, 4))},
              "embedding": jnp.ones((8, 4)), "final_norm": jnp.ones(4)}  # fmt: skip
    optimizer = make_optimizer(settings(name=name, weight_decay=0.5), 0.1)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    moved = jax.tree.map(lambda u: bool(jnp.any(u != 0)), updates)
    expected = {"layers": {"query": True, "query_bias": False, "attention_norm": False},
                "embedding": True, "final_norm": False}  # fmt: skip
    assert moved == decays(params) == expected
    np.testing.assert_allclose(updates["embedding"], -0.05)


def test_moments_take_the_dtype_that_is_asked_for():
    optimizer = make_optimizer(settings(moments_dtype="bfloat16"), 0.1)
    state = optimizer.init({"kernel": jnp.ones((2, 2))})
    assert optax.tree_utils.tree_get(state, "mu")["kernel"].dtype == jnp.bfloat16
    assert optax.tree_utils.tree_get(state, "nu")["kernel"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adamm"}, "config.optimizer.name must be an optimizer of optax .* got 'adamm'"),
        ({"name": "clip_by_global_norm"}, "must be an optimizer of optax"),
        ({"name": "adam", "weight_decay": 0.1}, "weight_decay must be 0 for adam, .* got 0.1"),
        ({"kwargs": {"beta": 1}}, "config.optimizer.kwargs do not fit adamw: .*beta"),
        ({"name": "sgd", "moments_dtype": "bfloat16"}, "moments_dtype must be 'float32' for sgd"),
        ({"schedule": {"name": "step", "kwargs": {}}}, "schedule.name must be one of constant"),
        ({"schedule": {"name": "cosine", "kwargs": {}}}, "schedule.kwargs do not fit cosine"),
        ({"schedule": {"name": "linear", "kwargs": {"decay_updates": "x"}}}, "do not fit linear"),
    ],
)
def test_check_optimizer_names_what_does_not_fit(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_optimizer(settings(**changes))


@pytest.mark.parametrize("name", ["adafactor", "lion", "muon"])
def test_train_state_of_every_optimizer_is_laid_out_over_a_mesh(tiny, name):
    tiny.optimizer.name = name
    tiny.mesh.data, tiny.mesh.fsdp = 2, 4
    experiment = build_experiment(tiny)
    state = experiment.rl.init(
        hyperparameters(tiny, experiment.methods), initial_params(experiment)
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(state.opt_state)))


@pytest.mark.slow
def test_schedule_goes_on_after_a_resume(tiny, tmp_path):
    tiny.optimizer.schedule = {"name": "cosine", "kwargs": {"decay_updates": 4}}
    tiny.optimizer.learning_rate = 1e-2
    whole = train(tiny, tmp_path / "whole", progress=Silent())
    steps, tiny.steps = tiny.steps, tiny.checkpoint.every
    train(tiny, tmp_path / "parts", progress=Silent())
    tiny.steps = steps
    parts = train(tiny, tmp_path / "parts", progress=Silent())
    assert parts["params_sha256"] == whole["params_sha256"]
    tiny.optimizer.schedule = {"name": "constant", "kwargs": {}}
    other = train(tiny, tmp_path / "other", progress=Silent())
    assert other["params_sha256"] != whole["params_sha256"]
    assert len(read_lines(tmp_path / "parts" / "metrics.jsonl")) > 0


def test_make_schedule_refuses_negative_factors():
    with pytest.raises(ConfigError, match="must be >= 0"):
        make_schedule("optax.constant_schedule", {"value": -1.0})
