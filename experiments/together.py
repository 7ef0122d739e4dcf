"""Several runs of one shape as one vmapped program, each with the workdir of a run alone.

One compiled call takes all runs through the same steps. Evaluation goes run by run, with the
program that a run alone uses: its batches fill a device as they are, and its memory does not grow
with the number of runs. On a mesh each run is laid out as it is alone; to give each device runs of
its own, start one process for each with --shard.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import train as one
from experiments.config import ConfigError
from experiments.experiment import abstract_state
from experiments.held_out import evaluation_line
from experiments.learner import Hyperparameters, TrainState, hyperparameters, kept
from experiments.loop import NonFiniteError, Record, finish_stage
from experiments.metric_writer import Progress
from experiments.sharding import stacked
from experiments.train import Compiled


class _Run(NamedTuple):
    """One run on its way: what it is, and where it stands."""

    directory: Path
    config: ConfigDict
    compiled: Compiled
    hyper: Hyperparameters
    record: Record
    step: int
    state: TrainState


def train_together(
    runs: Mapping[Path, ConfigDict],
    compiled: Compiled,
    progress: Mapping[Path, Progress],
    *,
    most: int,
) -> dict[Path, Exception]:
    """Takes runs to their ends; those at the same step, with the same steps to come, together.

    Args:
      runs: configs of one shape by workdir; finished runs are left alone.
      compiled: of their shape.
      progress: by workdir.
      most: runs in one program.

    Returns:
      The errors of the runs that failed.

    Raises:
      ConfigError: if the task is verified on the host, or a workdir holds another config.
      Stopped: after SIGTERM, with a checkpoint of every run of the program written.
    """
    if not compiled.parts.task.on_device:
        raise ConfigError(
            "config.sweep.mode = 'vmap' needs a task that is verified on the device, got"
            f" config.task.name = {compiled.parts.config.task.name!r}: use processes or serial"
        )
    for directory, config in runs.items():
        one.claim(config, directory)
    left = {d: c for d, c in runs.items() if one.finished_result(c, d) is None}
    errors: dict[Path, Exception] = {}
    for batch in _batches(left, most):
        errors |= _finish_batch({d: left[d] for d in batch}, compiled, progress)
    return errors


def _batches(runs: Mapping[Path, ConfigDict], most: int) -> list[list[Path]]:
    """Runs at the same step with the same stage before them, at most `most` at a time."""
    groups: dict[tuple, list[Path]] = {}
    for directory, config in runs.items():
        present = sorted((directory / "checkpoints").glob("[0-9]*"), key=lambda p: p.name)
        step = max((int(p.name) for p in present if p.name.isdigit()), default=0)
        stage = (config.steps, config.evaluation.every, *config.checkpoint.to_dict().values())
        groups.setdefault((step, stage), []).append(directory)
    return [g[i : i + most] for g in groups.values() for i in range(0, len(g), most)]


def _finish_batch(
    runs: Mapping[Path, ConfigDict], compiled: Compiled, progress: Mapping[Path, Progress]
) -> dict[Path, Exception]:
    members: list[_Run] = []
    records = {d: Record(d, c.checkpoint.keep, progress[d]) for d, c in runs.items()}
    try:
        members = [_begin(d, c, compiled, records[d], progress[d]) for d, c in runs.items()]
        # A damaged checkpoint takes its run back to an earlier step than its batch.
        errors: dict[Path, Exception] = {}
        for step in sorted({run.step for run in members}):
            errors |= _finish([run for run in members if run.step == step], compiled)
        return errors
    finally:
        for record in records.values():
            record.close()


def _begin(
    directory: Path, config: ConfigDict, shared: Compiled, record: Record, progress: Progress
) -> _Run:
    compiled = one.for_run(shared, config)
    hyper = hyperparameters(config, compiled.members)
    like = kept(abstract_state(compiled.parts, compiled.members, hyper), hyper)
    restored = record.restore(like)
    if restored is None:
        params = one.first_params(config, compiled, progress, directory)
        step, state = 0, compiled.program.init(hyper, params)
    else:
        step, state = restored[0], one.whole(compiled, hyper, restored[1])
    return _Run(directory, config, compiled, hyper, record, step, state)


def _finish(runs: list[_Run], shared: Compiled) -> dict[Path, Exception]:
    parts, program = shared.parts, shared.program
    hypers = jax.tree.map(lambda *x: np.stack(x), *(run.hyper for run in runs))
    states = jax.tree.map(lambda *x: jnp.stack(x), *(run.state for run in runs))
    states = jax.device_put(states, stacked(program.state_shardings))

    def take(tree: Any, index: int) -> Any:
        return jax.tree.map(lambda x: x[index], tree)

    def advance(states, step, count):
        states, metrics = program.advance_together(states, parts.task, hypers, count)
        metrics = jax.device_get(metrics)
        return states, [one.lines_of(take(metrics, i), run.config) for i, run in enumerate(runs)]

    def evaluate(states, step):
        return [
            evaluation_line(
                run.compiled.parts, program, take(states.params, i), None, step, run.directory
            )
            for i, run in enumerate(runs)
        ]

    def split(states):
        return [kept(take(states, i), run.hyper) for i, run in enumerate(runs)]

    config, records = runs[0].config, [run.record for run in runs]
    name = f"{len(runs)} runs"
    stage = one.reinforcement_stage(name, config, advance, evaluate, split)
    try:
        states = finish_stage(stage, records, runs[0].step, states)
    except NonFiniteError:  # of every run, each kept in its record
        return {run.directory: run.record.error for run in runs}
    for index, run in enumerate(runs):
        if run.record.error is None:
            one.write_result(run.config, run.directory, take(states.params, index))
    return {run.directory: run.record.error for run in runs if run.record.error is not None}
