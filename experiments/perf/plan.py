"""Plans a run on devices that are not here, by compiling it for fake ones.

    python -m experiments.perf.plan --config=configs/qwen2_5_7b.py --mesh=data=1,fsdp=8,tensor=1
    python -m experiments.perf.plan --config=configs/qwen2_5_7b.py --mesh=fsdp=8 \
        --mesh=fsdp=16,tensor=4,learner.microbatches=4 --out=plan.json

Each --mesh is a column: the axes of the mesh, and with a dot any field of the config that changes
with it. Nothing is allocated. A config file with a function architecture() needs neither weights
nor data. --out writes all numbers as JSON.

Measured are the sizes of the arguments and the collectives, in the partitioned program of the
jitted rollout and train steps; memory, FLOP and time are estimated by experiments.perf.flops.
"""

import ast
import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pandas as pd
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
from experiments.rollout import Rollouts
from experiments.samplers import make_sampler_fns
from experiments.step_functions import parameter_shapes, parameter_shardings
from experiments.tasks.base import Prompts
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
    if architecture is None:
        return build_experiment(config)
    config.model.path = ""  # neither read nor needed
    validate(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batches(mesh, config)
    options = {name: config.model[name] for name in ("dtype", "remat", "remat_keeps")}
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
    rewards = array(jnp.float32, count, group)
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


class Plan(NamedTuple):
    """All numbers of one device: bytes, FLOP and seconds, as dicts that JSON can hold.

    Attributes:
      name: of the config.
      mesh: sizes of the axes.
      options: settings that the memory depends on.
      samplers: devices beside the mesh that sample; 0 where the same devices take turns.
      resident: bytes of the train state (exact).
      learning: bytes of the train step beside it (estimated).
      sampling: bytes of the rollout step beside it (estimated).
      flops: of "sample" and "learn" (formula).
      collectives: bytes of "sample" and "learn" by kind (counted in the partitioned program).
      compiled: CompiledStep of "sample" and "learn" without the text (measured, CPU).
      handover: bytes of the weights' way to the sampling devices (exact).
      seconds: by device name (estimated).
    """

    name: str
    mesh: dict
    samplers: int
    options: dict
    resident: dict
    learning: dict
    sampling: dict
    flops: dict
    collectives: dict
    compiled: dict
    handover: dict
    seconds: dict

    @property
    def peak_bytes(self) -> float:
        """Bytes of the state and of the larger of the rollout step and the train step.

        With samplers, of a device that trains, or of one that samples if that is more.
        """
        if self.samplers:
            trains = sum(self.resident.values()) + sum(self.learning.values())
            return max(trains, sum(self.sampling.values()))
        step = max(sum(self.learning.values()), sum(self.sampling.values()))
        return sum(self.resident.values()) + step

    @property
    def title(self) -> str:
        """`64 devices: data 1, fsdp 16, tensor 4; 4 microbatches`."""
        axes = ", ".join(f"{axis} {size}" for axis, size in self.mesh.items())
        count = math.prod(self.mesh.values())
        beside = f" and {self.samplers} samplers" if self.samplers else ""
        return f"{count} devices{beside}: {axes}; {self.options['microbatches']} microbatches"


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
            "prompts": config.prompts,
            "group_size": config.group_size,
            "microbatches": config.learner.microbatches,
            "prompt": work.prompt,
            "completion": work.completion,
            "dtype": experiment.model.dtype,
            "remat": experiment.model.remat,
            "remat_keeps": experiment.model.remat_keeps,
        },
        resident=flops.state_bytes(state),
        learning=flops.learn_bytes(work, state),
        sampling=flops.sample_bytes(sampling),
        flops={step: count._asdict() for step, count in counts.items()},
        collectives={step: bytes_by_kind(found[step]) for step in found},
        compiled=reports,
        handover=handover,
        seconds={
            device.name: flops.step_seconds(
                device, work, found["sample"], found["learn"], sampling, handover
            )
            for device in flops.DEVICES
        },
    )


_GB, _TERA = 1e9, 1e12
_STEPS = {"sample": "rollout", "learn": "train"}
_RESIDENT = {
    "weights": "weights, float32, and the base of LoRA (exact)",
    "optimizer": "optimizer state (exact)",
    "rest": "head before RL and small states (exact)",
}
_LEARNING = {
    "gradients": "train step: gradients",
    "residuals": "train step: activations kept by remat",
    "layer": "train step: current layer",
    "attention": "train step: scores of a block of queries",
    "head": "train step: head, chunks of logits",
}
_SAMPLING = {
    "copy": "rollout step: weights, gathered over fsdp",
    "apart": "rollout step: unstacked layers, for decoding",
    "cache": "rollout step: cache of keys and values",
    "logits": "rollout step: logits",
}
_HANDOVER = {
    "received": "weights that a sampling device receives (exact)",
    "sent": "weights that a training device sends (exact)",
}
_SECONDS = {
    "prefill": "rollout: prompts",
    "decode": "rollout: decoding",
    "sample_collectives": "rollout: collectives",
    "products": "train: products",
    "scores": "train: attention scores through memory",
    "learn_collectives": "train: collectives",
    "handover": "weights to the samplers",
    "rollout": "**rollout step**",
    "learn": "**train step**, nothing overlapped",
    "learn_overlapped": "**train step**, collectives overlapped",
    "step": "**whole step**: in turn, or the longer beside the other and the weights' way",
}


def plan_tables(plans: Sequence[Plan]) -> str:
    """Formats the plans of one config as Markdown tables, one column per mesh."""
    devices = flops.DEVICES

    def rows(labels: dict, value: Callable[[Plan, Any], float], scale: float = _GB) -> list:
        return [
            [label, *(_number(value(plan, key) / scale) for plan in plans)]
            for key, label in labels.items()
        ]

    def by_step(label: str) -> dict:
        return {step: f"{name} step: {label}" for step, name in _STEPS.items()}

    products = {
        (step, part): f"{name} step: {part}, TFLOP"
        for step, name in _STEPS.items()
        for part in flops.Flops._fields
    }
    kinds = {
        (step, kind): f"{name} step: {kind}"
        for step, name in _STEPS.items()
        for kind in plans[0].collectives[step]
        if any(plan.collectives[step][kind] >= 1e6 for plan in plans)
    }
    seconds = {(d.name, key): f"{d.name}, {t}" for d in devices for key, t in _SECONDS.items()}
    shares = {d.memory: f"**peak**, % of the memory of one {d.name}" for d in devices}
    arguments = {"learn": "arguments of the compiled train step (measured)"}
    temporary = by_step("temporary, compiler for CPU (measured)")
    sections = {
        "Memory of one device, GB": [
            *rows(_RESIDENT, lambda p, key: p.resident[key]),
            *rows(arguments, lambda p, step: p.compiled[step]["arguments"]),
            *rows(_LEARNING, lambda p, key: p.learning[key]),
            *rows(_SAMPLING, lambda p, key: p.sampling[key]),
            *rows({"": "**peak** (estimated)"}, lambda p, _: p.peak_bytes),
            *rows(shares, lambda p, memory: p.peak_bytes / memory, 0.01),
            *rows(temporary, lambda p, step: p.compiled[step]["temporary"]),
        ],
        "Work of one device in one step": [
            *rows(products, lambda p, key: p.flops[key[0]][key[1]], _TERA),
            *rows(by_step("seconds to compile"), lambda p, step: p.compiled[step]["seconds"], 1),
        ],
        "Bytes that one device sends in one step, GB": [
            *rows(kinds, lambda p, key: p.collectives[key[0]][key[1]]),
            *rows(_HANDOVER if any(p.samplers for p in plans) else {}, lambda p, k: p.handover[k]),
        ],
        "Estimated seconds of one step": rows(seconds, lambda p, key: p.seconds[key[0]][key[1]], 1),
    }
    columns = ["", *(plan.title for plan in plans)]
    parts = []
    for title, cells in sections.items():
        table = pd.DataFrame(cells, columns=columns)
        parts += [f"{title}:", table.to_markdown(index=False, disable_numparse=True)]
    return "\n\n".join(parts)


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def main(argv):
    """Compiles, counts and prints."""
    del argv
    FLAGS = flags.FLAGS
    out = Path(FLAGS.out) if FLAGS.out else None
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise ConfigError(f"--out must be a file in a directory that is there, got {str(out)!r}")
    configs = [with_mesh(FLAGS.config, mesh) for mesh in FLAGS.mesh]
    # Before the first use of a device, which starts the backend.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(_devices(config) for config in configs))
    architecture = getattr(config_module(), "architecture", None)
    if architecture is None and FLAGS.config.model.path:
        raise ConfigError(
            "a plan of config.model.path needs a function architecture() in the config file, as in"
            " configs/qwen2_5_7b.py: it does not read the weights"
        )
    name = Path(config_flags.get_config_filename(FLAGS["config"]).split(":")[0]).stem
    plans = [make_plan(name, config, architecture and architecture()) for config in configs]
    if out is not None:
        command = "python -m experiments.perf.plan " + shlex.join(sys.argv[1:])
        saved = {"command": command, "plans": [plan._asdict() for plan in plans]}
        out.write_text(json.dumps(saved, indent=1) + "\n")
    print(plan_tables(plans))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "Config file of the run.")
    flags.DEFINE_multi_string("mesh", None, "data=1,fsdp=8,tensor=1; may be repeated.")
    flags.DEFINE_string("out", None, "File for the numbers, as JSON.")
    flags.mark_flags_as_required(["config", "mesh"])
    one_line_errors(main)
