"""Solve rates of single prompts in a run: as an advantage, and as a curriculum."""

import shutil
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import curriculum
from experiments.checkpoints import Checkpoints, tree_sha256
from experiments.config import ConfigError, default_config
from experiments.evaluation import restore_params
from experiments.experiment import abstract_checkpoint, build_experiment
from experiments.metric_writer import Silent, read_lines
from experiments.train import train
from experiments.validation import validate
from fade_jax.transforms import PromptState
from tests.experiments.letters_run import make
from tests.experiments.test_resume import checkpoint_steps, finish, metrics, wait_for
from tests.experiments.test_resume import result as result_of
from tests.experiments.tiny_config import get_config as tiny_config

LETTERS = "tests.experiments.letters_run.make"
PER_PROMPT = {"name": "per_prompt_solve_rate", "kwargs": {"num_prompts": 8, "alpha": 2.0}}


def letters_config(**curriculum_fields):
    """Eight prompts, of which each step takes four."""
    config = tiny_config()
    config.task.name, config.task.kwargs = LETTERS, {}
    config.advantage = PER_PROMPT
    config.prompts = 4
    config.steps, config.steps_per_call = 4, 1
    config.evaluation.every, config.checkpoint.every = 4, 1
    config.evaluation.prompts = config.evaluation.prompts_per_call = 4
    config.warm_start.steps = 0
    config.optimizer.learning_rate = 1e-2
    config.curriculum.update(curriculum_fields)
    return config


def tables(config, workdir, experiment):
    """Every PromptState in the newest checkpoint: of the advantage, and of the curriculum."""
    checkpoints = Checkpoints(workdir / "checkpoints", keep=2)
    _, state = checkpoints.restore(abstract_checkpoint(experiment))
    checkpoints.close()
    return state.advantage_state[1], state.solve_rates


@pytest.fixture(scope="module", name="run")
def run_fixture(tmp_path_factory):
    """A run with both, made at once: (config, experiment, workdir, result)."""
    config, workdir = (
        letters_config(low=0.1, high=0.9, explore=0.25),
        tmp_path_factory.mktemp("run"),
    )
    experiment = build_experiment(config)
    result = train(config, workdir, progress=Silent(), experiment=experiment)
    return config, experiment, workdir, result


def test_train_keeps_the_solve_rates_of_the_prompts_it_drew(run):
    config, experiment, workdir, _ = run
    own, shared = tables(config, workdir, experiment)
    for table in (own, shared):
        assert table.samples.shape == (8,)
        assert np.all(table.successes <= table.samples)
    # Both saw the same rollouts with the same decay; a step is four groups of four rollouts.
    np.testing.assert_array_equal(own.samples, shared.samples)
    np.testing.assert_array_equal(own.successes, shared.successes)
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if "loss" in line]
    assert [line["curriculum/unseen"] for line in lines][:2] == [1.0, 0.5]
    assert lines[0]["curriculum/in_band"] == 1
    assert all(0 <= line["curriculum/in_band"] <= 1 for line in lines)
    assert lines[-1]["curriculum/unseen"] <= 0.5


def test_train_resumes_solve_rates_to_the_same_bits(run, tmp_path):
    config, experiment, workdir, whole = run
    part = config.copy_and_resolve_references()
    for steps in (1, 3, 4):
        part.steps = steps
        result = train(part, tmp_path, progress=Silent(), experiment=experiment)
    assert result["params_sha256"] == whole["params_sha256"]
    for one, other in zip(
        tables(config, tmp_path, experiment), tables(config, workdir, experiment)
    ):
        np.testing.assert_array_equal(one, other)
    steps, whole_steps = (
        [line for line in metrics(directory) if "loss" in line] for directory in (tmp_path, workdir)
    )
    assert steps == whole_steps


def test_restore_params_of_a_run_with_solve_rates(run):
    _, experiment, workdir, whole = run
    step, params = restore_params(experiment, workdir)
    assert (step, tree_sha256(params)) == (4, whole["params_sha256"])


def test_train_goes_another_way_without_the_solve_rates(run, tmp_path):
    """The drawn prompts follow from the state: without its table the run ends elsewhere."""
    config, experiment, _, whole = run
    part = config.copy_and_resolve_references()
    part.steps = 2
    train(part, tmp_path, progress=Silent(), experiment=experiment)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    _, state = checkpoints.restore(abstract_checkpoint(experiment))
    checkpoints.close()
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "result.json").unlink()
    zero = PromptState(*(np.zeros(8, np.float32) for _ in range(2)))
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    checkpoints.save(2, state._replace(solve_rates=zero))
    checkpoints.close()
    result = train(config, tmp_path, progress=Silent(), experiment=experiment)
    assert result["params_sha256"] != whole["params_sha256"]


def test_train_with_resampling_observes_every_round(tmp_path):
    """With as many prompts as the task has, every round draws all: each visit is counted once."""
    config = letters_config(low=0.2, high=0.8, explore=0.0, decay=1.0)
    config.prompts, config.steps = 8, 1
    config.learner.resample_rounds = 2
    experiment = build_experiment(config)
    train(config, tmp_path, progress=Silent(), experiment=experiment)
    _, table = tables(config, tmp_path, experiment)
    (line,) = (line for line in read_lines(tmp_path / "metrics.jsonl") if "loss" in line)
    rounds = 1 + int(line["resampling/rounds"])
    np.testing.assert_array_equal(table.samples, np.full(8, 4 * rounds))


@pytest.mark.slow
def test_killed_run_with_solve_rates_resumes_bit_for_bit(command, tmp_path):
    def arguments(workdir):
        return (
            "experiments.run", "--config=tests/experiments/tiny_config.py", f"--workdir={workdir}",
            "--noreport", f"--config.task.name={LETTERS}", "--config.advantage.name=per_prompt_solve_rate",
            "--config.advantage.kwargs={'num_prompts': 8}", "--config.curriculum.low=0.2",
            "--config.curriculum.high=0.8", "--config.warm_start.steps=0", "--config.steps=60",
            "--config.evaluation.every=60", "--config.evaluation.prompts=4",
            "--config.evaluation.prompts_per_call=4", "--config.checkpoint.every=10",
            "--config.steps_per_call=1",
        )  # fmt: skip

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(command(*arguments(straight)))
    process = command(*arguments(killed))
    wait_for(lambda: checkpoint_steps(killed) and max(checkpoint_steps(killed)) >= 10, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "result.json").exists()
    finish(command(*arguments(killed)))
    assert result_of(killed) == result_of(straight)
    assert metrics(killed) == metrics(straight)


def test_build_experiment_refuses_solve_rates_of_prompts_without_an_index():
    config = tiny_config()
    config.advantage = PER_PROMPT
    with pytest.raises(ConfigError, match=r"'per_prompt_solve_rate' needs a task with .* 'graph'"):
        build_experiment(config)
    config = tiny_config()
    config.curriculum.low = 0.1
    with pytest.raises(ConfigError, match=r"config.curriculum.low .*'graph'.*got \(0.1, 1.0\)"):
        build_experiment(config)
    config.curriculum.high = 0.05
    with pytest.raises(ConfigError, match=r"config.curriculum.high must be at least .* = 0.1, got"):
        validate(config)


def test_build_experiment_refuses_a_table_smaller_than_the_task():
    config = letters_config()
    config.advantage.kwargs.num_prompts = 7
    with pytest.raises(ConfigError, match=r"num_prompts must be at least 8, .*, got 7"):
        build_experiment(config)
    config.advantage.name = "grpo"
    config.advantage.kwargs = {}
    with pytest.raises(ConfigError, match=r"num_prompts must be at least 8, .*, got 3"):
        build_experiment(config, [("focal_by_prompt", {"num_prompts": 3})])


def test_prompts_at_gives_the_prompts_of_train_prompts():
    task = make(None)
    drawn = task.train_prompts(5, 3, 6)
    again = task.prompts_at(drawn.index)
    for one, other in zip(drawn, again, strict=True):
        np.testing.assert_array_equal(one, other)
    epoch = [task.train_prompts(5, step, 4).index for step in range(2)]
    assert sorted(np.concatenate(epoch)) == list(range(task.num_prompts))
    assert task.eval_prompts(4).index == ()


def config_of(prompts, seed=0, **fields):
    config = default_config()
    config.prompts, config.seed = prompts, seed
    config.curriculum.update(fields)
    return config


def state_of(rates, samples=10.0):
    rates = np.asarray(rates, np.float32)
    samples = np.where(np.isnan(rates), 0, samples)
    return PromptState(np.nan_to_num(rates) * samples, samples)


def test_distances_from_the_band():
    state = state_of([0.0, 0.2, 0.5, 0.7, 1.0, np.nan])
    config = config_of(1, low=0.2, high=0.6)
    np.testing.assert_allclose(
        curriculum.distances(config, state), [0.2, 0, 0, 0.1, 0.4, 0], atol=1e-6
    )
    assert curriculum.curriculum_metrics(config, state) == {
        "curriculum/in_band": 3 / 6, "curriculum/unseen": 1 / 6,
    }  # fmt: skip


def test_draw_takes_the_band_and_then_the_nearest():
    state = state_of([0.0, 0.3, 0.5, 0.75, 1.0, np.nan])
    band = {"low": 0.25, "high": 0.625, "explore": 0.0}
    for seed in range(20):
        drawn = [curriculum.draw(config_of(count, seed, **band), state, 7) for count in range(1, 7)]
        assert drawn[0][0] in (1, 2, 5)
        assert set(drawn[2]) == {1, 2, 5}
        assert set(drawn[3]) == {1, 2, 5, 3}
        assert set(drawn[4]) == {1, 2, 5, 3, 0}
        assert sorted(drawn[5]) == list(range(6))
    many = curriculum.draw(config_of(13, **band), state, 0)
    assert np.all(np.bincount(many) >= 2)


@settings(max_examples=50, deadline=None)
@given(
    rates=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, np.nan]), min_size=1, max_size=30),
    prompts=st.integers(1, 40),
    explore=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    position=st.integers(0, 10**9),
)
def test_draw_repeats_no_prompt_while_there_are_enough(rates, prompts, explore, position):
    config = config_of(prompts, low=0.25, high=0.75, explore=explore)
    state = state_of(rates)
    drawn = curriculum.draw(config, state, position)
    np.testing.assert_array_equal(drawn, curriculum.draw(config, state, position))
    counts = np.bincount(drawn, minlength=len(rates))
    assert counts.sum() == prompts
    assert counts.size == len(rates)
    assert counts.max() - counts.min() <= 1
    inside = np.isnan(rates) | ((np.array(rates) >= 0.25) & (np.array(rates) <= 0.75))
    if prompts <= len(rates):  # all of the band, or no more than is not explored
        wanted = min(prompts - round(explore * prompts), inside.sum())
        assert counts[inside].sum() >= wanted


def test_draw_is_uniform_over_the_band_and_explores_the_rest():
    state = state_of([0.0] * 5 + [0.5] * 5)
    config = config_of(4, low=0.1, high=0.9, explore=0.25)
    drawn = np.stack([curriculum.draw(config, state, position) for position in range(4000)])
    counts = np.bincount(drawn.ravel(), minlength=10) / 4000
    # Three of the five in the band; the fourth is one of the other seven.
    np.testing.assert_allclose(counts[:5], 1 / 7, atol=0.03)
    np.testing.assert_allclose(counts[5:], 3 / 5 + 2 / 5 / 7, atol=0.03)
