"""The numbers of a plan, and the Markdown tables that show them.

Below: flops. Above: plan.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from experiments.perf.flops import Flops
from experiments.perf.seconds import DEVICES


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
