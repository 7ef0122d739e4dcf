"""The plan of one config on one mesh: measured and modelled figures side by side."""

from typing import NamedTuple

from ml_collections import ConfigDict

from experiments.models.config import ModelConfig
from experiments.perf import flops as memory
from experiments.perf import plan as lowering
from experiments.perf.hlo import bytes_by_kind, collectives
from experiments.plan import flops, times
from experiments.plan.rates import DEVICES
from experiments.plan.work import work_of


class Plan(NamedTuple):
    """All figures of one device, bytes, FLOP and seconds, as plain dicts that JSON can hold.

    Attributes:
      name: of the config.
      mesh: sizes of the axes.
      options: settings that the memory depends on.
      resident: bytes of the state (exact).
      learning: bytes of the train step beside it (modelled).
      sampling: bytes of the rollout step beside it (modelled).
      flops: of "sample" and "learn" (formula).
      collectives: bytes of "sample" and "learn" by kind (counted in the partitioned program).
      compiled: what the compiler reports of "sample" and "learn" (measured, CPU).
      seconds: by device name (modelled).
    """

    name: str
    mesh: dict
    options: dict
    resident: dict
    learning: dict
    sampling: dict
    flops: dict
    collectives: dict
    compiled: dict
    seconds: dict


def make_plan(name: str, config: ConfigDict, architecture: ModelConfig | None) -> Plan:
    """Compiles and counts.

    Args:
      name: of the config.
      config: with the mesh of the plan.
      architecture: see lowering.abstract_parts.
    """
    parts = lowering.abstract_parts(config, architecture)
    work = work_of(parts)
    state = lowering.abstract_state(parts)[2]
    compiled = lowering.compile_steps(parts)
    found = {
        "sample": collectives(compiled["sample"].partitioned),
        # The microbatches are a loop that ends early where all advantages are 0: counted in full.
        "learn": collectives(compiled["learn"].partitioned, unknown_trips=work.microbatches),
    }
    counts = {"sample": flops.sample_flops(work), "learn": flops.learn_flops(work)}
    return Plan(
        name,
        mesh=dict(parts.mesh.shape),
        options={
            "prompts": config.prompts,
            "group_size": config.group_size,
            "microbatches": config.learner.microbatches,
            "prompt": work.prompt,
            "completion": work.completion,
            "dtype": parts.model.dtype,
            "remat": parts.model.remat,
            "remat_keeps": parts.model.remat_keeps,
        },
        resident=memory.resident(state)._asdict(),
        learning=memory.learning(work, state)._asdict(),
        sampling=memory.sampling(work)._asdict(),
        flops={step: count._asdict() for step, count in counts.items()},
        collectives={step: bytes_by_kind(found[step]) for step in found},
        compiled={
            step: {k: v for k, v in c._asdict().items() if k != "partitioned"}
            for step, c in compiled.items()
        },
        seconds={
            device.name: _seconds(times.seconds(device, work, found["sample"], found["learn"]))
            for device in DEVICES
        },
    )


def _seconds(predicted: times.Seconds) -> dict:
    totals = ("rollout", "learn", "learn_overlapped")
    return predicted._asdict() | {name: getattr(predicted, name) for name in totals}
