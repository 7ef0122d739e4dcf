"""Training as a function of (config, workdir): a warm start, then RL, then a result.

One run and many vmapped runs share the loop. Below: warm_start, evaluate, loop, experiment,
workdir. Above: sweep, run.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import curriculum, policy
from experiments import workdir as workdirs
from experiments.checkpoints import tree_sha256
from experiments.collect import Source, collect
from experiments.config import Config, ConfigError
from experiments.environment import record_session
from experiments.evaluation import evaluation_metrics
from experiments.experiment import (
    Experiment,
    abstract_checkpoint,
    build_experiment,
    from_checkpoint,
    host_rewards,
    initial_params,
    reference_params,
    with_config,
)
from experiments.learner import Hyperparameters, TrainState, hyperparameters, to_checkpoint
from experiments.loop import NonFiniteError, RunWriter, Stage, per_step, run_loop
from experiments.metric_writer import Bar, Progress, Silent, Tracker
from experiments.multihost import everywhere, is_first
from experiments.precompile import compiled_beside, first_programs
from experiments.samplers import Devices, Processes, Samplers
from experiments.sharding import batch_sharding, place, stacked
from experiments.tracking import tracked
from experiments.warm_start import start_params, warm_start


class Run(NamedTuple):
    """A run on its way.

    Attributes:
      experiment: with the config of this run.
      hyper: its traced hyperparameters.
      writer: of its checkpoints and logs.
      step: steps done.
      state: after them.
    """

    experiment: Experiment
    hyper: Hyperparameters
    writer: RunWriter
    step: int
    state: TrainState


def train(
    config: Config,
    workdir: str | Path,
    *,
    progress: Progress | None = None,
    experiment: Experiment | None = None,
    samplers: Sequence[str] = (),
    most_steps: int | None = None,
) -> dict[str, Any]:
    """Trains to `config.steps`, resuming from the latest checkpoint.

    Args:
      config: see experiments.config.default_config.
      workdir: gets config.json, environment.json, metrics.jsonl, tensorboard/, evaluations/,
        samples/ (of a task on text), checkpoints/ and result.json; tracking.json with
        config.tracking.
      progress: where to show progress; a bar on the terminal if None.
      experiment: of a run whose compiled functions this run can share; built here if None.
      samplers: HOST:PORT of processes that sample (experiments.sampler).
      most_steps: RL steps to make in this call; None for all that are left.

    Returns:
      The contents of result.json: the final metrics and `params_sha256`.

    Raises:
      ConfigError: before anything is written, if the config cannot run, or the workdir holds
        another run or is in use.
      Stopped: after SIGTERM or Ctrl-C, with a checkpoint written.
      Paused: after `most_steps`, with a checkpoint written.
      NonFiniteError: when loss or gradient stop being finite.
      SamplerError, VerificationError: when no further batch can be made on these machines.
    """
    workdir = workdirs.directory(workdir)
    progress = progress or (Bar() if is_first() else Silent())
    workdirs.check(config, workdir)
    if (result := workdirs.finished_result(config, workdir)) is not None:
        return result
    experiment = with_config(experiment or _build(config, progress), config)
    with (
        host_rewards(experiment) as rewards_of,
        sampling_beside(experiment, rewards_of, samplers) as beside,
        workdirs.locked(workdir),
    ):
        workdirs.claim(config, workdir)
        record_session(workdir)
        with tracked(config, workdir) as trackers:
            with closing(_writer(config, workdir, progress, trackers)) as writer:
                run = start_run(experiment, writer, progress, beside)
                stage = rl_stage(run, rewards_of, beside)
                pause_at = None if most_steps is None else run.step + most_steps
                state = run_loop(stage, [writer], run.step, run.state, pause_at)
            return workdirs.write_result(config, workdir, tree_sha256(state.params))


def _writer(
    config: Config, workdir: Path, progress: Progress, trackers: Sequence[Tracker]
) -> RunWriter:
    tensorboard = "tensorboard" in config.tracking
    return RunWriter(workdir, config.checkpoint.keep, progress, tensorboard, trackers)


def sampling_beside(
    experiment: Experiment, rewards_of: Any, addresses: Sequence[str]
) -> AbstractContextManager[Samplers | None]:
    """Returns the samplers of a run that has devices or processes for them.

    Raises:
      ConfigError: if the run cannot have them.
      SamplerError: if a process cannot be reached.
    """
    config = experiment.config
    if not addresses and not config.mesh.samplers:
        return nullcontext()
    if addresses:
        if config.mesh.samplers or config.learner.staleness < 1 or curriculum.is_on(config):
            raise ConfigError(
                "--samplers needs config.mesh.samplers = 0, config.learner.staleness >= 1 and no"
                f" curriculum, got {config.mesh.samplers}, {config.learner.staleness},"
                f" {config.curriculum.low} to {config.curriculum.high}"
            )
        return Samplers(experiment, rewards_of, Processes(experiment, addresses))
    return Samplers(experiment, rewards_of, Devices(experiment))


def _build(config: Config, progress: Progress) -> Experiment:
    """Builds the experiment, and says so: data take a while to read."""
    progress.say("reading the task and the model")
    experiment: Experiment = everywhere(lambda: build_experiment(config))
    describe: Any = getattr(experiment.task, "describe", None)
    if describe is not None:
        progress.say(describe())
    return experiment


def start_run(
    experiment: Experiment, writer: RunWriter, progress: Progress, samplers: Samplers | None = None
) -> Run:
    """Restores a run's newest checkpoint, or starts it from its warm start.

    Meanwhile its first programs are compiled, unless `samplers` have programs of their own.
    """
    config = experiment.config
    hyper = hyperparameters(config, experiment.methods)
    restored = writer.restore(abstract_checkpoint(experiment))
    if restored is not None:
        step, saved = restored
        workdirs.check_steps(config, writer.directory, step)
        base: Any = ()
        if config.lora.rank:
            base = experiment.rl.freeze(start_params(experiment, writer.directory))
        return Run(experiment, hyper, writer, step, from_checkpoint(experiment, hyper, saved, base))
    with compiled_beside([] if samplers else first_programs(experiment, hyper)):
        if config.warm_start.steps:
            directory = config.warm_start.workdir or writer.directory / "warm_start"
            params = warm_start(experiment, directory, progress)
        else:
            if experiment.weights:
                progress.say("reading the weights")
            params = initial_params(experiment)
    state = experiment.rl.init(hyper, params, reference_params(experiment))
    return Run(experiment, hyper, writer, 0, state)


def rl_stage(run: Run, rewards_of: Any, samplers: Samplers | None = None) -> Stage:
    """Returns the RL stage of one run.

    Args:
      run: where it starts.
      rewards_of: verification on the host for a host task, otherwise None.
      samplers: devices of their own that sample; None where the same devices take turns.
    """
    experiment, hyper, directory = run.experiment, run.hyper, run.writer.directory
    config, task, rl = experiment.config, experiment.task, experiment.rl
    by_prompt = batch_sharding(experiment.mesh)
    scanned = task.on_device and samplers is None

    def on_device(state, step, count):
        state, metrics = rl.train_steps(state, task, hyper, count)
        return state, [_lines(metrics, config)]

    def read_prompts(state, position):
        if curriculum.is_on(config):
            finite: Any = task  # see curriculum.check_curriculum
            prompts = finite.prompts_at(curriculum.draw(config, state.solve_rates, position))
        else:
            prompts = task.train_prompts(config.seed, position, config.prompts)
        placed = place(prompts._replace(verifier_inputs=()), by_prompt)
        return placed, prompts.verifier_inputs

    def in_turn(state, step):
        """The batch of a step, by the devices that train."""
        prompts, sample = partial(read_prompts, state), partial(rl.sample, state)
        return collect(config, step, Source(prompts, sample, rewards_of, rl.replace_flat))

    def on_host(state, step, count):
        lines = []
        for index in range(step, step + count):
            batch = (samplers.take if samplers else in_turn)(state, index)
            extra = batch.metrics
            if curriculum.is_on(config):
                extra = extra | curriculum.curriculum_metrics(config, state.solve_rates)
                for visit in batch.visits:
                    state = state._replace(solve_rates=rl.observe(state.solve_rates, *visit))
            # Of two compiled programs, the one without a mask is the usual one.
            known = ~np.isnan(batch.rewards)
            masks = () if known.all() else (place(known, by_prompt),)
            rewards = place(np.nan_to_num(batch.rewards), by_prompt)
            state, metrics = rl.update(state, hyper, batch.prompts, batch.rollouts, rewards, *masks)
            lines += _lines(metrics, config)
            lines[-1] |= extra
        return state, [lines]

    def evaluate(state, step):
        keep_counts = directory if is_first() else None
        params = policy.join(config, state.params, state.base)
        return [evaluation_metrics(experiment, params, rewards_of, step, keep_counts)]

    return _stage(
        config,
        directory.name,
        config.steps_per_call if scanned else 1,
        on_device if scanned else on_host,
        evaluate,
        lambda state: [to_checkpoint(state, hyper)],
    )


def vmapped_rl_stage(runs: Sequence[Run]) -> Stage:
    """Returns the RL stage of runs of a device task that share compiled functions and a step.

    Evaluation goes run by run, with the function that a run alone uses: its batches fill a device
    as they are, and its memory does not grow with the number of runs.
    """
    task, rl = runs[0].experiment.task, runs[0].experiment.rl
    hypers = jax.tree.map(lambda *x: np.stack(x), *(run.hyper for run in runs))
    config = runs[0].experiment.config

    def train_steps(states, step, count):
        states, metrics = rl.train_steps_vmapped(states, task, hypers, count)
        metrics = jax.device_get(metrics)
        return states, [
            _lines(_take(metrics, i), run.experiment.config) for i, run in enumerate(runs)
        ]

    def evaluate(states, step):
        stacked_params = policy.join(config, states.params, states.base)
        return [
            evaluation_metrics(
                run.experiment, _take(stacked_params, i), None, step, run.writer.directory
            )
            for i, run in enumerate(runs)
        ]

    def to_checkpoints(states):
        return [to_checkpoint(_take(states, i), run.hyper) for i, run in enumerate(runs)]

    name, per_call = f"{len(runs)} runs", config.steps_per_call
    return _stage(config, name, per_call, train_steps, evaluate, to_checkpoints)


def _stage(
    config: Config, name: str, steps_per_call: int, train_steps, evaluate, to_checkpoints
) -> Stage:
    return Stage(
        name=name,
        steps=config.steps,
        steps_per_call=steps_per_call,
        train_steps=train_steps,
        evaluate=evaluate,
        to_checkpoints=to_checkpoints,
        evaluate_every=config.evaluation.every,
        checkpoint_every=config.checkpoint.every,
        profile=(config.profile.start, config.profile.start + config.profile.steps),
    )


def _lines(metrics: dict, config: Config) -> list[dict]:
    """The metrics of each step; NaN where a method has no alpha or delta is left out."""
    lines = per_step(metrics)
    for line in lines:
        for name in ("alpha", "delta"):
            if np.isnan(line.get(name, 0.0)):
                del line[name]
        line["tokens"] = line["length"] * config.prompts * config.group_size
    return lines


def _take(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def train_many(
    configs: Mapping[Path, Config],
    experiment: Experiment,
    progress: Mapping[Path, Progress],
    *,
    max_runs: int,
) -> dict[Path, Exception]:
    """Trains runs of a device task in vmapped programs, each with the workdir of a run alone.

    Runs at the same step, with the same stage before them, go together. On a mesh each run is laid
    out as it is alone; to give each device runs of its own, start a process for each with --shard.

    Args:
      configs: by workdir; all can share `experiment`. Finished runs are left alone.
      experiment: whose compiled functions they share.
      progress: by workdir.
      max_runs: in one program.

    Returns:
      The errors of the runs that failed.

    Raises:
      ConfigError: if the task is verified on the host, or a workdir holds another run.
      Stopped: after SIGTERM or Ctrl-C, with a checkpoint of every run of the program written.
    """
    if not experiment.task.on_device:
        raise ConfigError(
            "config.sweep.mode = 'vmap' needs a task that is verified on the device, got"
            f" config.task.name = {experiment.config.task.name!r}: use processes or serial"
        )
    if experiment.config.mesh.samplers:
        raise ConfigError(
            "config.sweep.mode = 'vmap' needs config.mesh.samplers = 0, got"
            f" {experiment.config.mesh.samplers}: use processes or serial"
        )
    for workdir, config in configs.items():
        workdirs.check(config, workdir)
    left = {d: c for d, c in configs.items() if workdirs.finished_result(c, d) is None}
    errors: dict[Path, Exception] = {}
    for batch in _batches(left, max_runs):
        with ExitStack() as stack:
            runs = []
            for workdir in batch:
                stack.enter_context(workdirs.locked(workdir))
                workdirs.claim(left[workdir], workdir)
                record_session(workdir)
                trackers = stack.enter_context(tracked(left[workdir], workdir))
                writer = _writer(left[workdir], workdir, progress[workdir], trackers)
                stack.enter_context(closing(writer))
                own = with_config(experiment, left[workdir])
                runs.append(start_run(own, writer, progress[workdir]))
            # A damaged checkpoint takes its run back to an earlier step than its batch.
            for step in sorted({run.step for run in runs}):
                errors |= _finish_vmapped([run for run in runs if run.step == step])
    return errors


def _batches(configs: Mapping[Path, Config], max_runs: int) -> list[list[Path]]:
    """Groups runs at the same step with the same stage before them, at most `max_runs` each."""
    groups: dict[tuple, list[Path]] = {}
    for workdir, config in configs.items():
        saved = (workdir / "checkpoints").glob("[0-9]*")
        step = max((int(path.name) for path in saved if path.name.isdigit()), default=0)
        stage = (config.steps, config.evaluation.every, *config.checkpoint.to_dict().values())
        groups.setdefault((step, stage), []).append(workdir)
    return [g[i : i + max_runs] for g in groups.values() for i in range(0, len(g), max_runs)]


def _finish_vmapped(runs: Sequence[Run]) -> dict[Path, Exception]:
    states = jax.tree.map(lambda *x: jnp.stack(x), *(run.state for run in runs))
    states = jax.device_put(states, stacked(runs[0].experiment.rl.state_shardings))
    try:
        writers = [run.writer for run in runs]
        states = run_loop(vmapped_rl_stage(runs), writers, runs[0].step, states)
    except NonFiniteError:  # of every run, each kept by its writer
        return _errors(runs)
    for i, run in enumerate(runs):
        if run.writer.error is None:
            run.writer.wait()
            digest = tree_sha256(_take(states.params, i))
            workdirs.write_result(run.experiment.config, run.writer.directory, digest)
    return _errors(runs)


def _errors(runs: Sequence[Run]) -> dict[Path, Exception]:
    return {run.writer.directory: run.writer.error for run in runs if run.writer.error}
