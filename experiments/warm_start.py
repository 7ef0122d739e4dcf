"""The warm start: supervised fine-tuning (SFT) on the task's demonstrations, before RL.

Runs of a sweep can share one. Below: experiment, loop, workdir. Above: train, jobs.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments import workdir as workdirs
from experiments.checkpoints import Checkpoints, tree_sha256
from experiments.config import Config
from experiments.experiment import Experiment, abstract_carry, initial_params
from experiments.loop import RunWriter, Stage, per_step, run_loop
from experiments.metric_writer import Progress, write_json
from experiments.multihost import first
from experiments.sharding import batch_sharding, place


def warm_start(experiment: Experiment, workdir: str | Path, progress: Progress) -> Any:
    """Imitates the task's demonstrations for `config.warm_start.steps` steps.

    Args:
      experiment: of the run that begins with it.
      workdir: of the warm start itself; a finished one there is read, not repeated.
      progress: where to show it.

    Returns:
      The parameters that RL starts from.

    Raises:
      ConfigError: if `workdir` holds another warm start.
      Stopped, NonFiniteError: as `run_loop`.
    """
    config, workdir = experiment.config, workdirs.directory(workdir)
    settings = config.warm_start
    workdirs.check(warm_start_config(config), workdir)
    if first(lambda: (workdir / "result.json").exists()):
        return _read(experiment, workdir)
    with workdirs.locked(workdir):
        workdirs.claim(warm_start_config(config), workdir)
        tensorboard = "tensorboard" in config.tracking
        with closing(RunWriter(workdir, 1, progress, tensorboard)) as writer:
            restored = writer.restore(abstract_carry(experiment))
            if restored is None and experiment.weights:
                progress.say("reading the weights")
            step, carry = restored or (0, experiment.sft.init(initial_params(experiment)))
            params, _ = run_loop(_sft_stage(experiment), [writer], step, carry)
        result = {"step": settings.steps, "params_sha256": tree_sha256(params)}
        first(lambda: write_json(workdir / "result.json", result))
    return params


def start_params(experiment: Experiment, workdir: Path) -> Any:
    """Reads the parameters that a run's RL started from; trains nothing.

    Args:
      experiment: of the run.
      workdir: of the run.

    Raises:
      ConfigError: if config.warm_start.workdir holds another warm start.
      FileNotFoundError: if the finished warm start is not there any more.
    """
    config = experiment.config
    if not config.warm_start.steps:
        return initial_params(experiment)
    directory = workdirs.directory(config.warm_start.workdir or workdir / "warm_start")
    workdirs.check(warm_start_config(config), directory)
    if not first(lambda: (directory / "result.json").exists()):
        raise FileNotFoundError(
            f"{workdir} holds adapters alone; the warm start that they belong to is missing in"
            f" config.warm_start.workdir = {str(directory)!r}"
        )
    return _read(experiment, directory)


def warm_start_config(config: Config) -> Config:
    """Returns the fields that a warm start depends on; runs that differ in others can share it."""
    part = {name: config[name].to_dict() for name in ("warm_start", "optimizer", "model", "task")}
    del part["warm_start"]["workdir"]
    for field in ("name", "learning_rate", "momentum"):  # the warm start is AdamW at its own rate
        del part["optimizer"][field]
    return ConfigDict(part)


def _sft_stage(experiment: Experiment) -> Stage:
    config, task, sft = experiment.config, experiment.task, experiment.sft
    settings, by_prompt = config.warm_start, batch_sharding(experiment.mesh)

    def on_device(carry, step, count):
        seed = np.uint32(settings.seed)
        carry, metrics = sft.train_steps(carry, task, seed, np.int32(step), count)
        return carry, [per_step(metrics)]

    def on_host(carry, step, count):
        lines = []
        for index in range(step, step + count):
            batch = task.demonstrations(settings.seed, index, settings.batch)
            batch = batch._replace(prompts=batch.prompts._replace(verifier_inputs=()))
            carry, metrics = sft.update(carry, place(batch, by_prompt))
            lines += per_step(metrics)
        return carry, [lines]

    return Stage(
        name="warm start",
        steps=settings.steps,
        steps_per_call=config.steps_per_call,
        train_steps=on_device if task.on_device else on_host,
        evaluate=None,
        to_checkpoints=lambda carry: [carry],
        evaluate_every=settings.steps,
        checkpoint_every=config.checkpoint.every,
    )


def _read(experiment: Experiment, workdir: Path) -> Any:
    """Reads the parameters of a finished warm start; several runs may do so at once."""
    with closing(Checkpoints(workdir / "checkpoints", keep=1)) as checkpoints:
        restored = checkpoints.restore(abstract_carry(experiment))
    if restored is None:
        raise FileNotFoundError(f"the warm start in {workdir} has no readable checkpoint")
    return restored[1][0]
