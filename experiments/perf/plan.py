"""Plans a run on devices that are not here, by compiling it for fake ones.

    python -m experiments.perf.plan --config=configs/qwen2_5_7b.py --mesh=data=1,fsdp=8,tensor=1
    python -m experiments.perf.plan --config=configs/qwen2_5_7b.py --mesh=fsdp=8 \
        --mesh=fsdp=16,tensor=4,learner.microbatches=4 --out=plan.json

Each --mesh is a column: the axes of the mesh, and with a dot any field of the config that changes
with it. Nothing is allocated. A config file with a function architecture() needs neither weights
nor data. --out writes all numbers as JSON. --search=8 tries the meshes and microbatches that so
many devices allow, and plans the one with the fastest step that fits (plan_search.py):

    python -m experiments.perf.plan --config=configs/qwen2_5_7b.py --search=8 --device="TPU v5p"

Measured are the sizes of the arguments and the collectives, in the partitioned program of the
jitted rollout and train steps; memory, FLOP and time are estimated by experiments.perf.flops and
seconds.
"""

import ast
import dataclasses
import json
import math
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import sharding
from experiments.command import config_module, one_line_errors
from experiments.config import Config, ConfigError
from experiments.experiment import Experiment, abstract_state, assemble, build_experiment
from experiments.learner import hyperparameters
from experiments.models import transformer
from experiments.models.config import ModelConfig
from experiments.perf import flops
from experiments.perf.hlo import CompiledStep, bytes_by_kind, collectives, compile_step
from experiments.perf.plan_search import candidates, search, search_table
from experiments.perf.plan_tables import Plan, plan_tables
from experiments.perf.seconds import DEVICES, step_seconds
from experiments.precompile import abstract_batch
from experiments.samplers import make_sampler_fns
from experiments.step_functions import parameter_shapes, parameter_shardings
from experiments.validation import validate


def with_mesh(config: Config, text: str) -> Config:
    """Returns a copy of the config with the mesh of `text`.

    Args:
      config: of the run.
      text: comma-separated `name=value`. A name is an axis of the mesh (1 if missing) or, with a
        dot, any field of the config, such as learner.microbatches.

    Raises:
      ConfigError: for text that cannot be parsed, or an unknown axis or field.
    """
    config = config.copy_and_resolve_references()
    config.mesh.update(dict.fromkeys(sharding.MESH_AXES, 1))
    config.sampling.loops = 1  # further ones would be compiled, and counted, as well
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        path = name.split(".") if "." in name else ["mesh", name]
        section = config
        for step in path[:-1]:
            section = section.get(step) if isinstance(section, ConfigDict) else None
        if not isinstance(section, ConfigDict) or path[-1] not in section:
            raise ConfigError(
                "--mesh must be like data=1,fsdp=8,tensor=1 or learner.microbatches=4,"
                f" got {part!r}"
            )
        try:
            section[path[-1]] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError) as error:
            raise ConfigError(f"--mesh: {name} cannot be {value!r}") from error
    for axis in sharding.MESH_AXES:
        size = config.mesh[axis]
        if type(size) is not int or not 1 <= size <= 2**16:
            raise ConfigError(f"--mesh: {axis} must be a whole number in 1..65536, got {size!r}")
    if (count := _devices(config)) > 2**16:
        raise ConfigError(f"--mesh must have at most 65536 devices, got {count}: {text}")
    return config


def _devices(config: Config) -> int:
    axes = math.prod(config.mesh[axis] for axis in sharding.MESH_AXES)
    return axes + config.mesh.samplers


class TaskSizes(NamedTuple):
    """The attributes of a task that the step functions read; stands in for missing data."""

    max_prompt: int
    max_completion: int
    vocab_size: int
    eos_id: int = 1
    pad_id: int = 0


def abstract_experiment(config: Config, architecture: ModelConfig | None) -> Experiment:
    """Builds an experiment, without weights and data if the architecture is given.

    Args:
      config: with mesh sizes as of `with_mesh`.
      architecture: of the model at config.model.path; None if the config has the sizes.

    Raises:
      ConfigError: for a value that cannot run, or a mesh that the batch does not divide over.
    """
    config = config.copy_and_resolve_references()
    attention = config.model.attention
    if attention in ("cudnn", "pallas"):  # no CPU compiles them; partitioned like blocks
        config.model.attention = "blocks"
    experiment = _abstract_experiment(config, architecture)
    return experiment._replace(model=dataclasses.replace(experiment.model, attention=attention))


def _abstract_experiment(config: Config, architecture: ModelConfig | None) -> Experiment:
    if architecture is None:
        return build_experiment(config)
    config.model.path = ""  # neither read nor needed
    validate(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batches(mesh, config)
    copied = "dtype", "remat", "remat_keeps", "attention"
    options = {name: config.model[name] for name in copied}
    model = dataclasses.replace(architecture, **options)
    sizes = config.task.kwargs
    task: Any = TaskSizes(sizes.max_prompt, sizes.max_completion, model.vocab_size)
    return assemble(config, mesh, task, model)


def sent_params(experiment: Experiment) -> Any:
    """Returns the abstract parameters that a sampling device holds; None without any."""
    config, model = experiment.config, experiment.model
    if not config.mesh.samplers:
        return None
    shardings = parameter_shardings(model, sharding.sampler_mesh(config.mesh))
    cast = partial(transformer.cast_for_sampling, model)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(cast, parameter_shapes(model)),
        shardings,
    )


def compile_steps(experiment: Experiment) -> dict[str, CompiledStep]:
    """Compiles the rollout step, "sample", and the train step, "learn", of abstract arrays.

    With config.mesh.samplers the rollout step is that of the sampling devices.
    """
    hyper = hyperparameters(experiment.config, experiment.methods)
    state = abstract_state(experiment, hyper)
    config = experiment.config
    prompts, rollouts, rewards = abstract_batch(experiment)
    if config.mesh.samplers:
        mesh = sharding.sampler_mesh(config.mesh)
        whole = sharding.replicated(mesh)
        key = jax.ShapeDtypeStruct(state.key.shape, state.key.dtype, sharding=whole)
        number = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
        rows = sharding.batch_sharding(mesh)
        there = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), prompts
        )
        params = sent_params(experiment)
        fns = make_sampler_fns(experiment, mesh)
        sample = compile_step(fns.sample, params, key, there, number, number)
    else:
        sample = compile_step(experiment.rl.sample, state, prompts)
    return {
        "sample": sample,
        "learn": compile_step(experiment.rl.update, state, hyper, prompts, rollouts, rewards),
    }


def make_plan(name: str, config: Config, architecture: ModelConfig | None) -> Plan:
    """Compiles, counts and estimates.

    Args:
      name: of the config.
      config: with the mesh of the plan.
      architecture: see `abstract_experiment`.
    """
    experiment = abstract_experiment(config, architecture)
    work = sampling = flops.work_of(experiment)
    samplers = sharding.sampler_mesh(config.mesh) if config.mesh.samplers else None
    if samplers is not None:
        sampling = flops.work_of(experiment, samplers)
    handover = flops.handover_bytes(sent_params(experiment), experiment.mesh.size, samplers)
    state = abstract_state(experiment, hyperparameters(config, experiment.methods))
    compiled = compile_steps(experiment)
    found = {
        "sample": collectives(compiled["sample"].partitioned),
        # The loop over microbatches ends early where all advantages are 0: counted in full.
        "learn": collectives(compiled["learn"].partitioned, unknown_trips=work.microbatches),
    }
    counts = {"sample": flops.sample_flops(sampling), "learn": flops.learn_flops(work)}
    reports = {step: report._asdict() for step, report in compiled.items()}
    for report in reports.values():
        del report["partitioned"]
    return Plan(
        name,
        mesh=dict(experiment.mesh.shape),
        samplers=config.mesh.samplers,
        options={
            "parameters": sum(x.size for x in jax.tree.leaves(parameter_shapes(experiment.model))),
            "layers": experiment.model.num_layers,
            "width": experiment.model.d_model,
            "steps": config.steps,
            "prompts": config.prompts,
            "group_size": config.group_size,
            "microbatches": config.learner.microbatches,
            "prompt": work.prompt,
            "completion": work.completion,
            "dtype": experiment.model.dtype,
            "remat": experiment.model.remat,
            "remat_keeps": experiment.model.remat_keeps,
            "attention": experiment.model.attention,
        },
        resident=flops.state_bytes(state),
        learning=flops.learn_bytes(work, state),
        sampling=flops.sample_bytes(sampling),
        flops={step: count._asdict() for step, count in counts.items()},
        collectives={step: bytes_by_kind(found[step]) for step in found},
        compiled=reports,
        handover=handover,
        seconds={
            device.name: step_seconds(
                device, work, found["sample"], found["learn"], sampling, handover
            )
            for device in DEVICES
        },
    )


def main(argv):
    """Compiles, counts and prints."""
    del argv
    FLAGS = flags.FLAGS
    out = Path(FLAGS.out) if FLAGS.out else None
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise ConfigError(f"--out must be a file in a directory that is there, got {str(out)!r}")
    if bool(FLAGS.mesh) == bool(FLAGS.search):
        raise ConfigError(
            "a plan needs --mesh, such as --mesh=fsdp=8, or --search, a number of devices"
        )
    if FLAGS.search and FLAGS.config.mesh.samplers:
        raise ConfigError(
            f"--search needs config.mesh.samplers = 0, got {FLAGS.config.mesh.samplers}"
        )
    meshes = FLAGS.mesh or [f"fsdp={FLAGS.search}"]
    count = max(_devices(with_mesh(FLAGS.config, mesh)) for mesh in meshes)
    # Before the first use of a device, which starts the backend.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    architecture = getattr(config_module(), "architecture", None)
    if architecture is None and FLAGS.config.model.path:
        raise ConfigError(
            "a plan of config.model.path needs a function architecture() in the config file, as in"
            " configs/qwen2_5_7b.py: it does not read the weights"
        )
    model = architecture and architecture()
    name = Path(config_flags.get_config_filename(FLAGS["config"]).split(":")[0]).stem

    def build(mesh: str) -> Experiment:
        return abstract_experiment(with_mesh(FLAGS.config, mesh), model)

    def make(mesh: str) -> Plan:
        return make_plan(name, with_mesh(FLAGS.config, mesh), model)

    if FLAGS.search:
        device = next(device for device in DEVICES if device.name == FLAGS.device)
        found = search(*candidates(FLAGS.search, device, build), device, make)
        print(search_table(found, device) + "\n")
        plans = [found.best]
    else:
        plans = [make(mesh) for mesh in meshes]
    if out is not None:
        command = "python -m experiments.perf.plan " + shlex.join(sys.argv[1:])
        saved = {"command": command, "plans": [plan._asdict() for plan in plans]}
        out.write_text(json.dumps(saved, indent=1) + "\n")
    print(plan_tables(plans))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "Config file of the run.")
    flags.DEFINE_multi_string("mesh", None, "data=1,fsdp=8,tensor=1; may be repeated.")
    flags.DEFINE_integer("search", None, "Number of devices, of which to find the best mesh.", 1)
    names = [device.name for device in DEVICES]
    flags.DEFINE_enum("device", names[0], names, "Accelerator that --search is for.")
    flags.DEFINE_string("out", None, "File for the numbers, as JSON.")
    flags.mark_flags_as_required(["config"])
    one_line_errors(main)
