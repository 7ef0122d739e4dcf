"""The real programs of a run, lowered and compiled with arrays that are only shapes.

`sample` is the rollout step and `learn` the train step of experiments.experiment; no weight is
read or allocated, and the devices are fake ones of the CPU.
"""

import contextlib
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from experiments import advantages, experiment, sharding
from experiments.config import validate
from experiments.learner import hyperparameters
from experiments.models.config import ModelConfig
from experiments.rollout import Rollouts
from experiments.tasks.base import Prompts

# The partitioned program is written out before the CPU's own passes, which widen bfloat16; and
# nothing is run, so machine code need not be good.
_PARTITIONED = "*after_spmd-partitioning*"
_OPTIONS = {
    "xla_dump_hlo_pass_re": "spmd-partitioning",
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


class TaskSizes(NamedTuple):
    """What the programs read of a task whose data are not here."""

    max_prompt: int
    max_completion: int
    eos_id: int = 1
    pad_id: int = 0


class Compiled(NamedTuple):
    """What the compiler says of one program.

    Attributes:
      partitioned: HLO text of one device's program after partitioning.
      arguments: bytes on one device.
      outputs: bytes on one device that are not the buffers of donated arguments.
      temporary: bytes on one device of the CPU's compiler.
      seconds: to lower and compile.
    """

    partitioned: str
    arguments: int
    outputs: int
    temporary: int
    seconds: float


def abstract_parts(config: ConfigDict, architecture: ModelConfig | None) -> experiment.Parts:
    """The parts of a run, without weights or data where the architecture is given.

    Args:
      config: with a mesh of sizes that are numbers.
      architecture: of the model at config.model.path; None where the sizes are the config's.

    Raises:
      ConfigError: for a value that cannot run, or a mesh that the batch does not divide over.
    """
    config = config.copy_and_resolve_references()
    if architecture is None:
        return experiment.prepare(config)
    config.model.path = ""  # neither read nor needed
    validate(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batches(mesh, config)
    task = TaskSizes(config.task.kwargs.max_prompt, config.task.kwargs.max_completion)
    options = {name: config.model[name] for name in ("dtype", "remat", "remat_keeps")}
    model = dataclasses.replace(architecture, **options)
    return experiment.Parts(config, mesh, task, model, None)


def abstract_state(parts: experiment.Parts):
    """(members, hyper, state) of a run; the state is ShapeDtypeStructs with shardings."""
    config = parts.config
    members = advantages.members_of([(config.advantage.name, config.advantage.kwargs.to_dict())])
    hyper = hyperparameters(config, members)
    return members, hyper, experiment.abstract_state(parts, members, hyper)


def compile_steps(parts: experiment.Parts) -> dict[str, Compiled]:
    """Compiles the rollout step, "sample", and the train step, "learn"."""
    members, hyper, state = abstract_state(parts)
    steps = experiment.make_program(parts, members)
    place = sharding.batch_sharding(parts.mesh)

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    count, group, tokens = parts.config.prompts, parts.config.group_size, parts.task.max_completion
    prompts = Prompts(
        array(jnp.int32, count, parts.task.max_prompt), array(jnp.int32, count), facts=()
    )
    one = array(jnp.float32, count, group, tokens)
    rollouts = Rollouts(array(jnp.int32, count, group, tokens), one, one, one)
    rewards = array(jnp.float32, count, group)
    return {
        "sample": _compile(steps.sample, state, prompts),
        "learn": _compile(steps.learn, state, hyper, prompts, rollouts, rewards),
    }


def _compile(function, *arguments) -> Compiled:
    start = time.perf_counter()
    lowered = function.lower(*arguments)
    text, compiled = partitioned(lowered)
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    return Compiled(
        text,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        seconds=seconds,
    )


def partitioned(lowered):
    """Compiles; returns the HLO text after partitioning, and the compiled program."""
    with tempfile.TemporaryDirectory() as folder, _no_cached_programs():
        compiled = lowered.compile(compiler_options=_OPTIONS | {"xla_dump_to": folder})
        (path,) = Path(folder).glob(_PARTITIONED)
        return path.read_text(), compiled


@contextlib.contextmanager
def _no_cached_programs():
    """A program from the cache of compiled ones is not partitioned again, and leaves no text."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX asks the setting once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()
