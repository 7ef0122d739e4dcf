"""Two steps of training on tasks that are verified on the host, with a tiny chat model."""

import dataclasses
import json
import logging

import jax
import numpy as np
import pytest

from experiments import precompile
from experiments.config import ConfigError
from experiments.evaluate import evaluate_suites
from experiments.experiment import build_experiment, initial_params, reference_params
from experiments.learner import hyperparameters
from experiments.metric_writer import Silent, read_lines
from experiments.models import huggingface
from experiments.rollout import completion_log_probs
from experiments.sandbox import Sandbox, UnavailableError
from experiments.sharding import batch_sharding, place
from experiments.tasks.verdict import KINDS
from experiments.train import train
from tests.experiments.models.common import random_params
from tests.experiments.models.test_chat import write_tokenizer
from tests.experiments.test_evaluate_suites import (
    QUESTIONS,
    SIZES,
    lines_of,
    summary_of,
    values,
    write_lines,
)
from tests.experiments.tiny_config import get_config

BRIEF = "tests.experiments.tasks.user_rewards.brief"


@pytest.fixture(scope="module", name="model")
def model_fixture(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    huggingface.save(directory, SIZES, random_params(SIZES, 0))
    return str(write_tokenizer(directory))


def config_of(model, name, **kwargs):
    config = get_config()
    config.task = {"name": name, "kwargs": {"system": "", "max_completion": 6, **kwargs}}
    config.model.path = model
    config.sampling.end_tokens = tuple("abcdefghijklmnopqrstuvwxyz")  # half of the completions end
    config.prompts, config.group_size, config.steps, config.steps_per_call = 4, 3, 2, 1
    config.warm_start.steps = 0
    config.evaluation.every, config.checkpoint.every = 2, 1
    config.evaluation.prompts = config.evaluation.prompts_per_call = 4
    config.evaluation.samples, config.evaluation.ks = 2, (1,)
    config.evaluation.shown_prompts = 2
    config.verification.workers = 1
    return config


def samples_of(workdir, step):
    text = (workdir / "samples" / f"{step}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module", name="run")
def run_fixture(model, tmp_path_factory):
    """A run on problems with two rewards and resampling: (config, experiment, workdir, result)."""
    root = tmp_path_factory.mktemp("problems")
    path = str(write_lines(root / "mine.jsonl", QUESTIONS))
    config = config_of(
        model, "problems", path=path, rewards=(("math", 1), (BRIEF, 1)), held_out=0.5,
        solved_at=0.4, max_prompt=100,
    )  # fmt: skip
    config.learner.resample_rounds = 1
    config.evaluation.prompts = config.evaluation.prompts_per_call = 2
    experiment = build_experiment(config)
    result = train(config, root / "run", progress=Silent(), experiment=experiment)
    return config, experiment, root / "run", result


def test_train_on_problems_logs_each_reward(run):
    _, _, workdir, _ = run
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert line["reward/math"] == 0
        assert 0 < line[f"reward/{BRIEF}"] < 1
        assert 0 <= line["resampling/rounds"] <= 1
        # Of the completions of one or two rounds; those that are right are not counted.
        checked = sum(v for name, v in line.items() if name.startswith("verification/"))
        assert 0 < checked <= 24


def test_train_on_problems_writes_samples(run):
    _, _, workdir, _ = run
    evaluations = [line for line in read_lines(workdir / "metrics.jsonl") if "eval/pass@1" in line]
    for line in evaluations:
        samples = samples_of(workdir, line["step"])
        assert len(samples) == 4
        for sample in samples:
            assert sample["prompt"].startswith("<s><|im_start|>user\nWhat is ")
            assert isinstance(sample["completion"], str)
            assert sample["verdict"] in KINDS
            assert 0 < sample["tokens"] <= 6
            cut_off = sample["verdict"] == "cut off"
            brief = 0 if cut_off else max(0, 1 - len(sample["completion"]) / 10)
            assert sample[f"reward/{BRIEF}"] == pytest.approx(brief)
            assert sample["reward"] == pytest.approx(brief / 2 + sample["reward/math"] / 2)
        solved = np.mean([sample["reward"] >= 0.4 for sample in samples])
        assert line["eval/pass@1"] == pytest.approx(solved)


def test_train_on_problems_resumes_to_the_same_bits(run, tmp_path):
    config, experiment, _, whole = run
    first = config.copy_and_resolve_references()
    first.steps = 1
    train(first, tmp_path / "run", progress=Silent(), experiment=experiment)
    parts = train(config, tmp_path / "run", progress=Silent(), experiment=experiment)
    assert parts["params_sha256"] == whole["params_sha256"]


def test_evaluate_suites_of_a_run(run, tmp_path):
    _, _, workdir, _ = run
    suite = f"questions:{write_lines(tmp_path / 'small.jsonl', QUESTIONS[:3])}"
    table = evaluate_suites(values(suite, workdir=str(workdir), config=None, samples=2))
    directory = workdir / "suites" / "2" / "questions-small"
    assert len(lines_of(directory)) == 6
    assert summary_of(directory)["problems"] == 3
    assert "questions" in table
    settings = json.loads((directory / "settings.json").read_text())
    assert settings["model"] == f"{workdir}, step 2"


def test_train_on_short_programs_warns_that_no_reward_came(model, tmp_path, caplog):
    try:
        Sandbox().close()
    except UnavailableError as error:
        pytest.skip(str(error))
    config = config_of(model, "short_programs", shots=0, max_prompt=200)
    with caplog.at_level(logging.WARNING):
        train(config, tmp_path, progress=Silent())
    (warning,) = [r.getMessage() for r in caplog.records if "all rewards" in r.getMessage()]
    assert f"{tmp_path}: all rewards of the last 2 steps were 0; of the completions " in warning
    assert "were cut off" in warning
    lines = [line for line in read_lines(tmp_path / "metrics.jsonl") if "loss" in line]
    assert [line["reward"] for line in lines] == [0, 0]
    for line in lines:
        assert sum(v for name, v in line.items() if name.startswith("verification/")) == 12
    for step in (0, 2):
        samples = samples_of(tmp_path, step)
        assert len(samples) == 4
        assert all("Write a Python function " in sample["prompt"] for sample in samples)
        assert {sample["verdict"] for sample in samples} <= {
            "cut off",
            "no answer",
            "error",
            "wrong",
        }


def reference_config(model, tmp_path, sizes, **kl):
    """A run that is compared with a model of these sizes, by its path."""
    huggingface.save(tmp_path / "other", sizes, random_params(sizes, 1))
    path = str(write_lines(tmp_path / "mine.jsonl", QUESTIONS))
    config = config_of(model, "problems", path=path, reward=BRIEF, held_out=0.5, max_prompt=100)
    config.evaluation.prompts = config.evaluation.prompts_per_call = 2
    config.learner.kl.update(reference=str(tmp_path / "other"), **kl)
    return config


def test_update_compares_with_a_model_by_path(model, tmp_path):
    """By the log-probabilities of a run of the other model: Σ (log π - log π_ref)."""
    config = reference_config(model, tmp_path, SIZES, measured=True, estimator="k1")
    experiment = build_experiment(config)
    hyper = hyperparameters(config, experiment.methods)
    state = experiment.rl.init(hyper, initial_params(experiment), reference_params(experiment))
    prompts = experiment.task.train_prompts(config.seed, 0, config.prompts)
    placed = place(prompts._replace(verifier_inputs=()), batch_sharding(experiment.mesh))
    rollouts = jax.device_get(experiment.rl.sample(state, placed, 0))
    rewards = np.zeros(rollouts.tokens.shape[:2], np.float32)
    _, metrics = experiment.rl.update(state, hyper, placed, rollouts, rewards)
    _, params = huggingface.load_model(tmp_path / "other")
    reference = jax.jit(completion_log_probs, static_argnums=0)(
        SIZES, params, placed.tokens, placed.length, rollouts.tokens
    )
    mask = rollouts.token_mask
    expected = np.sum((rollouts.log_probs - np.asarray(reference)) * mask) / mask.sum()
    np.testing.assert_allclose(metrics["kl"], expected, rtol=1e-4)
    assert abs(expected) > 1e-3


def test_build_experiment_refuses_a_reference_of_other_sizes(model, tmp_path):
    sizes = dataclasses.replace(SIZES, d_ff=2 * SIZES.d_ff)
    config = reference_config(model, tmp_path, sizes, coefficient=0.1)
    with pytest.raises(ConfigError, match="must be a model of the policy's sizes"):
        build_experiment(config)


def test_train_finds_what_was_compiled_beside_the_weights(model, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(precompile, "usable_cores", lambda: [0, 1])
    path = str(write_lines(tmp_path / "mine.jsonl", QUESTIONS))
    config = config_of(model, "problems", path=path, reward="math", held_out=0.5, max_prompt=100)
    jax.config.update("jax_log_compiles", True)
    try:
        with caplog.at_level(logging.WARNING):
            train(config, tmp_path / "run", progress=Silent())
    finally:
        jax.config.update("jax_log_compiles", False)
    names = ("sample_prompts", "sample_step", "update")
    compiled = [
        (name, record.threadName.startswith("compiler"))
        for record in caplog.records
        for name in names
        if record.getMessage().startswith(f"Compiling jit({name})")
    ]
    assert compiled == [(name, True) for name in names]
