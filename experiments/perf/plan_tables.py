"""The numbers of a plan, its answer, and the Markdown tables that show them.

Below: flops, seconds. Above: plan_search, plan.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from experiments.perf.flops import Flops
from experiments.perf.seconds import DEVICES, Device

# The estimated bytes of a step are within this factor of what XLA's compiler for CPU takes: a test
# compares them for a small model. No accelerator has confirmed it.
WITHIN = 2


class Alive(NamedTuple):
    """Bytes of one device that are alive together, exact and estimated ones."""

    exact: float
    estimated: float

    @property
    def total(self) -> float:
        """The sum of both."""
        return self.exact + self.estimated


class Plan(NamedTuple):
    """All numbers of one device: bytes, FLOP and seconds, as dicts that JSON can hold.

    Attributes:
      name: of the config.
      mesh: sizes of the axes.
      options: sizes of model and batch, and settings that the memory depends on.
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
    def alive(self) -> dict[str, Alive]:
        """What is in memory at one time, by step: the state and the rows of one step.

        Samplers hold no state: their weights are a row of the rollout step.
        """
        state = sum(self.resident.values())
        return {
            "sample": Alive(0 if self.samplers else state, sum(self.sampling.values())),
            "learn": Alive(state, sum(self.learning.values())),
        }

    @property
    def peak_step(self) -> str:
        """The step with the most bytes alive, "sample" or "learn"."""
        return max(self.alive, key=lambda step: self.alive[step].total)

    @property
    def peak_bytes(self) -> float:
        """Bytes alive in that step."""
        return self.alive[self.peak_step].total

    @property
    def devices(self) -> int:
        """Devices of the mesh and samplers."""
        return math.prod(self.mesh.values()) + self.samplers

    @property
    def title(self) -> str:
        """`64 devices: data 1, fsdp 16, tensor 4; 4 microbatches`."""
        axes = ", ".join(f"{axis} {size}" for axis, size in self.mesh.items())
        count = math.prod(self.mesh.values())
        beside = f" and {self.samplers} samplers" if self.samplers else ""
        return f"{count} devices{beside}: {axes}; {self.options['microbatches']} microbatches"


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
    "attention": "train step: attention of the current layer",
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
    "scores": "train: attention through memory",
    "learn_collectives": "train: collectives",
    "handover": "weights to the samplers",
    "rollout": "**rollout step**",
    "learn": "**train step**, nothing overlapped",
    "learn_overlapped": "**train step**, collectives overlapped",
    "step": "**whole step**: in turn, or the longer beside the other and the weights' way",
}


def fits(plan: Plan, memory: float) -> str:
    """Says whether a plan fits `memory` bytes, by which figure, and how sure that is."""
    alive, step = plan.alive[plan.peak_step], _STEPS[plan.peak_step]
    if alive.exact > memory:
        return f"**does not fit**: the state alone has {_number(alive.exact / _GB)} GB (exact)"
    figure = (
        f"{_number(alive.total / _GB)} of {_number(memory / _GB)} GB in the {step} step,"
        f" {_number(alive.exact / _GB)} of them exact"
    )
    if alive.exact + alive.estimated / WITHIN > memory:
        return f"**does not fit**: {figure}; nor with {WITHIN} times less than estimated"
    if alive.total > memory:
        return f"**does not fit** by the estimate: {figure}"
    if alive.exact + alive.estimated * WITHIN > memory:
        return f"**fits** by the estimate: {figure}; not with {WITHIN} times more than estimated"
    return f"**fits**: {figure}; also with {WITHIN} times more than estimated"


def fraction_of_peak(plan: Plan, device: Device) -> float:
    """Returns the FLOP of a step, by formula, over what all devices could do in its seconds."""
    trainers = plan.devices - plan.samplers
    sampling = (plan.samplers or trainers) * sum(plan.flops["sample"].values())
    work = sampling + trainers * sum(plan.flops["learn"].values())
    return work / (plan.devices * device.flops * plan.seconds[device.name]["step"])


def answer_table(plans: Sequence[Plan], devices: Sequence[Device] = DEVICES) -> str:
    """Formats what a plan is asked for as a Markdown table, one column per mesh.

    Every completion has its full length. Hours are of the training steps, without evaluations.
    """

    def of_setting(plan: Plan) -> dict[str, str]:
        o = plan.options
        return {
            "model": f"{o['parameters'] / 1e9:.3g} billion parameters, {o['layers']} layers of"
            f" width {o['width']}",
            "batch": f"{o['prompts']} prompts x {o['group_size']} completions,"
            f" {o['microbatches']} microbatches",
            "lengths": f"{o['prompt']} tokens + {o['completion']}",
            "dtypes": f"{o['dtype']} computation, float32 parameters",
        }

    def of_device(plan: Plan, device: Device) -> dict[str, str]:
        o, seconds = plan.options, plan.seconds[device.name]["step"]
        tokens = o["prompts"] * o["group_size"] * o["completion"]
        hours = o["steps"] * seconds / 3600
        return {
            "memory": fits(plan, device.memory),
            "seconds a step (estimated)": _number(seconds),
            "completion tokens a second": _number(tokens / seconds),
            "FLOP/s, % of the peak": _number(100 * fraction_of_peak(plan, device)),
            f"hours of {o['steps']} steps": f"{_number(hours)}, {_number(hours * plan.devices)}"
            " device-hours",
        }

    columns = []
    for plan in plans:
        rows = of_setting(plan)
        for device in devices:
            rows |= {f"{device.name}: {k}": v for k, v in of_device(plan, device).items()}
        columns.append(pd.Series(rows, name=plan.title))
    table = pd.concat(columns, axis=1).fillna("").reset_index(names="")
    return table.to_markdown(index=False, disable_numparse=True)


def plan_tables(plans: Sequence[Plan]) -> str:
    """Formats the plans of one config as Markdown tables, one column per mesh."""
    devices = DEVICES

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
        for part in Flops._fields
    }
    kinds = {
        (step, kind): f"{name} step: {kind}"
        for step, name in _STEPS.items()
        for kind in plans[0].collectives[step]
        if any(plan.collectives[step][kind] >= 1e6 for plan in plans)
    }
    seconds = {(d.name, key): f"{d.name}, {t}" for d in devices for key, t in _SECONDS.items()}
    together = {
        step: f"**alive together in the {name} step**: state and its rows"
        for step, name in _STEPS.items()
    }
    shares = {d.memory: f"**peak**, % of the memory of one {d.name}" for d in devices}
    arguments = {"learn": "arguments of the compiled train step (measured)"}
    temporary = by_step("temporary, compiler for CPU (measured)")
    sections = {
        "Memory of one device, GB": [
            *rows(_RESIDENT, lambda p, key: p.resident[key]),
            *rows(arguments, lambda p, step: p.compiled[step]["arguments"]),
            *rows(_LEARNING, lambda p, key: p.learning[key]),
            *rows(_SAMPLING, lambda p, key: p.sampling[key]),
            *rows(together, lambda p, step: p.alive[step].total),
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
    parts = [f"{plans[0].name}:", answer_table(plans)]
    for title, cells in sections.items():
        table = pd.DataFrame(cells, columns=columns)
        parts += [f"{title}:", table.to_markdown(index=False, disable_numparse=True)]
    return "\n\n".join(parts)


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"
