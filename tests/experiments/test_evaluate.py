"""The evaluation against the log of the run, and against pass@k counted by hand."""

import json
from math import comb

import jax
import numpy as np
import pytest

from experiments.config import ConfigError, saved_config
from experiments.evaluation import (
    count_distinct,
    evaluate,
    evaluation_metrics,
    restore_params,
)
from experiments.experiment import build_experiment, initial_params
from experiments.metric_writer import Silent, read_lines
from experiments.rollout import Rollouts
from experiments.train import train
from experiments.workdir import claim
from tests.experiments.models.common import random_params
from tests.experiments.test_export import write_run


@pytest.mark.slow
def test_command_evaluates_a_checkpoint_as_the_run_did(command, tiny, warm, tmp_path):
    tiny.warm_start.workdir = warm
    train(tiny, tmp_path, progress=Silent())
    logged = {
        line["step"]: line
        for line in read_lines(tmp_path / "metrics.jsonl")
        if "eval/entropy" in line
    }
    before = sorted(path for path in tmp_path.rglob("*"))
    for extra, step in (
        (("--config=tests/experiments/tiny_config.py",), 4),
        (("--step=2",), 2),
        # Another model and advantage: only the fields of the evaluation are taken from it.
        (("--config=configs/grpo.py:smoke", "--config.mesh.data=1", "--step=4"), 4),
    ):
        evaluation = command("experiments.evaluate", f"--workdir={tmp_path}", *extra)
        out, err = evaluation.communicate(timeout=280)
        assert evaluation.returncode == 0, err
        line = json.loads(out.strip().splitlines()[-1])
        assert line["step"] == step
        for name in ("eval/pass@1", "eval/pass@4", "eval/entropy", "eval/length"):
            assert line[name] == logged[step][name]
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_saved_config_is_the_config_of_the_run(tiny, tmp_path):
    claim(tiny, tmp_path)
    assert saved_config(tmp_path).to_dict() == tiny.to_dict()
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"config\.json is damaged: it must be a JSON object"):
        saved_config(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        saved_config(tmp_path / "nothing")


def test_restore_params_names_a_step_that_is_not_there(tiny, tmp_path):
    experiment = build_experiment(tiny)
    write_run(tmp_path, tiny, random_params(experiment.model), step=2)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 3"):
        restore_params(experiment, tmp_path, 3)


def test_evaluation_metrics_count_subsets(tiny):
    """pass@k of a prompt is the fraction of k-subsets of its samples that hold a success."""
    experiment = build_experiment(tiny)
    params = initial_params(experiment)
    held_out = evaluate(experiment, params, None, 0)
    line = evaluation_metrics(experiment, params, None, 0)
    n = tiny.evaluation.samples
    for k in tiny.evaluation.ks:
        expected = np.mean([1 - comb(n - c, k) / comb(n, k) for c in held_out.num_correct])
        np.testing.assert_allclose(line[f"eval/pass@{k}"], expected, atol=1e-6)
        assert line[f"eval/pass@{k}_low"] <= expected <= line[f"eval/pass@{k}_high"]
    assert held_out.num_correct.shape == (tiny.evaluation.prompts,)


def test_evaluation_and_training_draw_from_separate_streams(tiny):
    """With equal seeds no evaluation uses a key of a training step."""
    experiment = build_experiment(tiny)
    assert tiny.seed == tiny.evaluation.seed
    keys = []

    def keep(params, task, prompts, key):
        keys.append(jax.random.key_data(key).tolist())
        count, shape = tiny.evaluation.prompts_per_call, (tiny.evaluation.samples,)
        ones = np.ones((count, *shape, 1), np.float32)
        return ones[..., 0], Rollouts(ones, ones, ones, ones)

    stub = experiment._replace(rl=experiment.rl._replace(evaluate=keep))
    for step in range(9):
        evaluate(stub, None, None, step)
    base, fold = jax.random.key(tiny.seed), jax.random.fold_in
    trained = [
        jax.random.key_data(fold(fold(base, step), use)).tolist()
        for step in range(9)
        for use in range(2)  # sampling, and the order of minibatches
    ]
    assert len({tuple(key) for key in keys + trained}) == len(keys) + len(trained)


def test_eval_prompts_do_not_depend_on_the_seed(tiny):
    other = tiny.copy_and_resolve_references()
    other.seed = 5
    a, b = (build_experiment(c).task.eval_prompts(8).tokens for c in (tiny, other))
    np.testing.assert_array_equal(a, b)


def test_count_distinct_is_the_size_of_the_sets_of_right_completions():
    rng = np.random.default_rng(0)
    tokens, right = rng.integers(0, 3, (20, 16, 2)), rng.integers(0, 2, (20, 16)) > 0
    right[0] = False  # a prompt that nothing solves
    sets = [
        {tuple(row) for row, solved in zip(group.tolist(), flags) if solved}
        for group, flags in zip(tokens, right)
    ]
    assert count_distinct(tokens, right) == sum(map(len, sets))
    assert count_distinct(tokens[:1], right[:1]) == 0
