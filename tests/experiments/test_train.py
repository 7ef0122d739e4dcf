"""Whole runs of a few steps: what they write, that they compile once, and where they run."""

import json
import shutil
from contextlib import contextmanager

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import train as training
from experiments.experiment import build_experiment, from_checkpoint
from experiments.learner import hyperparameters, to_checkpoint
from experiments.loop import NonFiniteError
from experiments.metric_writer import Silent, read_lines
from experiments.train import train
from experiments.warm_start import warm_start
from tests.experiments.tiny_config import get_config as tiny_config

METRICS = {
    "step", "reward", "solve_rate", "entropy", "entropy_success", "entropy_failure",
    "mass_success", "mass_failure", "sign_ratio", "alpha", "delta", "zero_variance_fraction",
    "clip_fraction", "truncated_fraction", "gradient_norm", "loss", "length", "length_max", "solve_rate_histogram",
    "tokens_per_second", "step_seconds", "mismatch/mean_log_ratio", "mismatch/max_log_ratio",
    "mismatch/effective_sample_size",
}  # fmt: skip


@pytest.fixture(scope="module", name="alone")
def alone_fixture(tmp_path_factory):
    """(workdir, result) of the tiny run, with programs of its own method alone."""
    workdir = tmp_path_factory.mktemp("alone")
    return workdir, train(tiny_config(), workdir, progress=Silent())


def test_train_writes_logs_and_result(alone, tiny):
    workdir, result = alone
    lines = read_lines(workdir / "metrics.jsonl")
    training_lines = [line for line in lines if "reward" in line]
    assert [line["step"] for line in training_lines] == [1, 2, 3, 4]
    assert set(training_lines[0]) == METRICS
    assert set(training_lines[1]) == METRICS | {"rank_one_fraction"}
    evaluations = [line for line in lines if "eval/pass@1" in line]
    assert [line["step"] for line in evaluations] == [0, 2, 4]
    assert json.loads((workdir / "config.json").read_text())["group_size"] == tiny.group_size
    assert result == json.loads((workdir / "result.json").read_text())
    assert len(result["params_sha256"]) == 64
    assert list((workdir / "tensorboard").iterdir())
    assert (workdir / "warm_start" / "result.json").exists()


@pytest.fixture(scope="module", name="shared")
def shared_fixture(alone):
    """(config, experiment of two kinds of methods, params of the warm start of `alone`)."""
    config = tiny_config()
    config.warm_start.workdir = str(alone[0] / "warm_start")
    experiment = build_experiment(config, [("grpo", {}), ("power", {"alpha": 3.0})])
    params = jax.device_get(warm_start(experiment, config.warm_start.workdir, Silent()))
    return config, experiment, params


@contextmanager
def compilations():
    """Collects the seconds of each compilation."""
    heard = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            heard.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield heard
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def start(config, experiment, params):
    hyper = jax.device_put(hyperparameters(config, experiment.methods))
    return hyper, experiment.rl.init(hyper, params)


def test_train_with_a_shared_experiment_compiles_nothing(shared, tmp_path):
    """From its fresh parameters to its result, with another seed, method and rate."""
    config, experiment, _ = shared
    config = config.copy_and_resolve_references()
    config.warm_start.steps, config.steps = 0, 2
    config.evaluation.every = config.checkpoint.every = 2
    ends = [train(config, tmp_path / "first", progress=Silent(), experiment=experiment)]
    with compilations() as heard:
        for name, kwargs, seed, rate in (
            ("grpo", {}, 1, 1e-3),
            ("power", {"alpha": 3.0}, 2, 1e-4),
        ):
            with config.advantage.unlocked():
                config.advantage.name, config.advantage.kwargs = name, kwargs
            config.seed, config.warm_start.seed, config.optimizer.learning_rate = seed, seed, rate
            ends.append(
                train(config, tmp_path / str(len(ends)), progress=Silent(), experiment=experiment)
            )
        assert not heard
        jax.jit(lambda x: x + 12345)(0.0)
        assert heard  # the listener hears them
    assert len({end["params_sha256"] for end in ends}) == 3


def test_train_steps_take_the_number_of_a_method(shared):
    config, experiment, params = shared
    config = config.copy_and_resolve_references()
    ends = []
    for alpha in (3.0, 1.5):
        with config.advantage.unlocked():
            config.advantage.name, config.advantage.kwargs = "power", {"alpha": alpha}
        hyper, state = start(config, experiment, params)
        for _ in range(2):
            state, metrics = experiment.rl.train_steps(state, experiment.task, hyper, 2)
        assert np.isfinite(metrics["loss"]).all()
        ends.append(np.asarray(state.params["final_norm"]))
    assert np.any(ends[0] != ends[1])


@pytest.fixture(scope="module", name="among")
def among_fixture(shared, tmp_path_factory):
    """(workdir, result) of the tiny run in the programs of `shared`."""
    config, experiment, _ = shared
    workdir = tmp_path_factory.mktemp("among")
    return workdir, train(config, workdir, progress=Silent(), experiment=experiment)


def test_train_is_the_same_alone_and_among_methods(alone, among):
    """lax.switch between methods changes nothing of the one that is chosen."""
    assert alone[1]["params_sha256"] == among[1]["params_sha256"]


def test_rank_one_fraction_counts_sampled_tokens(shared):
    config, experiment, params = shared
    hyper, state = start(config, experiment, params)
    prompts = experiment.task.train_prompts(hyper.seed, 0, config.prompts)
    rollouts = jax.device_get(experiment.rl.sample(state, prompts))
    state, metrics = experiment.rl.train_steps(state, experiment.task, hyper, 1)
    task = experiment.task
    full = np.sum(rollouts.token_mask, axis=-1) == task.max_completion
    unfinished = full & (rollouts.tokens[..., -1] != task.eos_id)
    assert 0 < np.mean(unfinished) < 1
    np.testing.assert_allclose(metrics["truncated_fraction"][0], np.mean(unfinished))
    moved = np.asarray(state.params["head"], np.float64) - params["head"]
    used = np.unique(rollouts.tokens[rollouts.token_mask > 0])
    assert 0 < len(used) < len(moved)
    share = [s[0] ** 2 / np.sum(s**2) for s in (np.linalg.svd(m)[1] for m in (moved[used], moved))]
    assert abs(share[0] - share[1]) > 1e-3
    np.testing.assert_allclose(metrics["rank_one_fraction"], share[0], rtol=1e-4)


def test_train_without_head_rank_is_the_same_run(shared, alone, tmp_path):
    (config, _, params), (_, measured) = shared, alone
    config = config.copy_and_resolve_references()
    config.learner.head_rank = False
    experiment = build_experiment(config, [("grpo", {})])
    result = train(config, tmp_path / "plain", progress=Silent(), experiment=experiment)
    assert result["params_sha256"] == measured["params_sha256"]
    assert set(measured) - set(result) <= {"rank_one_fraction"}
    assert not any("rank_one_fraction" in x for x in read_lines(tmp_path / "plain/metrics.jsonl"))
    _, state = start(config, experiment, params)
    assert not jax.tree.leaves(state.initial_head)


def test_from_checkpoint_inverts_to_checkpoint(shared):
    """The states of the methods that the run does not use are left out and made again."""
    config, experiment, params = shared
    hyper, state = start(config, experiment, params)
    held = to_checkpoint(state, hyper)
    assert len(jax.tree.leaves(held)) < len(jax.tree.leaves(state))
    again = from_checkpoint(experiment, hyper, jax.tree.map(jnp.copy, held))
    chex.assert_trees_all_equal(again, state)
    ended = [
        experiment.rl.train_steps(s, experiment.task, hyper, 2)[0].params["final_norm"]
        for s in (again, state)
    ]
    np.testing.assert_array_equal(*ended)


def test_train_steps_transfer_nothing_and_donate(shared):
    config, experiment, params = shared
    hyper, state = start(config, experiment, params)
    task = jax.device_put(experiment.task)
    state, _ = experiment.rl.train_steps(state, task, hyper, 2)
    before = state
    with jax.transfer_guard("disallow"):
        state, metrics = experiment.rl.train_steps(state, task, hyper, 2)
        jax.block_until_ready(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert int(state.step) == 4


def test_train_stops_at_a_non_finite_loss(shared, among, tmp_path, monkeypatch):
    config, experiment, _ = shared
    shutil.copytree(among[0], tmp_path, dirs_exist_ok=True)
    longer = config.copy_and_resolve_references()
    longer.steps = 8
    original = training.per_step

    def poisoned(metrics):
        lines = original(metrics)
        lines[-1]["loss"] = float("nan")
        return lines

    monkeypatch.setattr(training, "per_step", poisoned)
    with pytest.raises(NonFiniteError, match=r"loss is nan at step 6; checkpoint 4 is kept"):
        train(longer, tmp_path, progress=Silent(), experiment=experiment)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "4"]
