"""Compiles the programs of a run's first steps in a thread, while its warm start runs.

XLA compiles without Python's lock, so that another core does it. The call that needs a program
finds it: nothing is traced or compiled twice. Below: experiment. Above: train, perf.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import sharding
from experiments.experiment import Experiment, abstract_state
from experiments.learner import Hyperparameters
from experiments.rollout import Rollouts
from experiments.tasks.base import Prompts


def usable_cores() -> list[int]:
    """Returns the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextmanager
def compiled_beside(programs: Sequence[Callable[[], Any]]) -> Iterator[None]:
    """Compiles while the body runs; returns when both are done.

    With one core, or several processes, which would have to compile in one order, it does nothing.

    Args:
      programs: each compiles one. What goes wrong is left to the call that needs the program.
    """
    if len(usable_cores()) == 1 or jax.process_count() > 1:
        yield
        return

    def compile_all():
        for compile_one in programs:
            with suppress(Exception):
                compile_one()

    with ThreadPoolExecutor(1, "compiler") as thread:
        thread.submit(compile_all)
        yield


def first_programs(experiment: Experiment, hyper: Hyperparameters) -> list[Callable[[], Any]]:
    """Returns functions that compile what a run does first: its evaluation and its steps."""
    config, task = experiment.config, experiment.task
    rl: Any = experiment.rl  # its fields are jitted functions
    if config.mesh.samplers:  # which have programs of their own
        return []
    state = abstract_state(experiment, hyper)
    prompts, rollouts, rewards = abstract_batch(experiment)
    key = jax.random.key(0)

    def evaluate():
        held_out = jax.tree.map(np.asarray, task.eval_prompts(config.evaluation.prompts))
        batch = jax.tree.map(lambda x: x[: config.evaluation.prompts_per_call], held_out)
        if task.on_device:
            rl.evaluate.lower(state.params, task, batch, key).compile()
        else:
            batch = batch._replace(verifier_inputs=())
            rl.sample_held_out.lower(state.params, batch, key).compile()

    def step():
        if task.on_device:
            count = min(config.steps_per_call, config.steps)
            rl.train_steps.lower(state, task, hyper, count).compile()
        else:
            rl.sample.lower(state, prompts, 0).compile()  # of the first round
            rl.update.lower(state, hyper, prompts, rollouts, rewards).compile()

    # An evaluation with adapters is of merged parameters, which no abstract state describes.
    return [step] if config.lora.rank else [evaluate, step]


def abstract_batch(experiment: Experiment) -> tuple[Prompts, Rollouts, Any]:
    """Returns shapes, dtypes and shardings of a step's prompts, rollouts and rewards."""
    place = sharding.batch_sharding(experiment.mesh)

    def array(dtype, *shape) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    config, task = experiment.config, experiment.task
    count, group, tokens = config.prompts, config.group_size, task.max_completion
    prompts = Prompts(
        array(jnp.int32, count, task.max_prompt),
        array(jnp.int32, count),
        (),
        array(jnp.int32, count),
    )
    floats = array(jnp.float32, count, group, tokens)
    rollouts = Rollouts(array(jnp.int32, count, group, tokens), floats, floats, floats)
    return prompts, rollouts, array(jnp.float32, count, group)
