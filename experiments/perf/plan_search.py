"""Finds the mesh and the microbatches of the fastest step that fits a number of devices.

Arithmetic comes first. Of one mesh the smallest number of microbatches that fits is the fastest:
more of them have the same products and more collectives. A step without its collectives is a lower
bound of its seconds, so meshes are compiled from the lowest bound on, until the best step that was
found is below the next bound. Below: flops, seconds, plan_tables. Above: plan.
"""

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd

from experiments.config import ConfigError
from experiments.experiment import Experiment, abstract_state
from experiments.learner import hyperparameters
from experiments.perf import flops
from experiments.perf.plan_tables import Plan
from experiments.perf.seconds import Device, step_seconds


class Candidate(NamedTuple):
    """A mesh that fits.

    Attributes:
      mesh: text of --mesh, with the microbatches.
      peak: bytes of one device.
      bound: seconds of a step without collectives.
    """

    mesh: str
    peak: float
    bound: float


class Found(NamedTuple):
    """What a search has found.

    Attributes:
      best: the plan with the fastest step.
      best_mesh: text of its --mesh.
      plans: of the meshes that were compiled, by text.
      bounded: candidates that were not: their bounds are above the best step.
      refused: why other meshes cannot be, by text.
    """

    best: Plan
    best_mesh: str
    plans: dict[str, Plan]
    bounded: list[Candidate]
    refused: dict[str, str]


def divisors(number: int) -> list[int]:
    """Returns the divisors of a whole number, in order."""
    return [n for n in range(1, number + 1) if number % n == 0]


def meshes(devices: int) -> list[str]:
    """Returns the texts of all meshes (data, fsdp, tensor) of so many devices."""
    return [
        f"data={data},fsdp={fsdp},tensor={devices // data // fsdp}"
        for data in divisors(devices)
        for fsdp in divisors(devices // data)
    ]


def candidates(
    devices: int, device: Device, build: Callable[[str], Experiment]
) -> tuple[list[Candidate], dict[str, str]]:
    """Returns the meshes that fit, each with its fewest microbatches, and why others do not.

    Args:
      devices: of the mesh.
      device: of which kind they are.
      build: an abstract experiment for the text of a mesh; raises ConfigError if it cannot be.
    """
    found, refused = [], {}
    for mesh in meshes(devices):
        try:
            experiment = build(f"{mesh},learner.microbatches=1")
            state = abstract_state(
                experiment, hyperparameters(experiment.config, experiment.methods)
            )
        except ConfigError as error:
            refused[mesh] = str(error)
            continue
        work = flops.work_of(experiment)
        if experiment.model.num_kv_heads % work.tensor:  # the arithmetic splits whole heads
            heads = experiment.model.num_kv_heads
            refused[mesh] = f"the tensor axis must divide the {heads} heads of keys"
            continue
        rest = sum(flops.state_bytes(state).values())
        sampling = sum(flops.sample_bytes(work).values())
        prompts = work.prompts * work.epochs // work.updates  # of an update on one device
        packed = experiment.config.learner.packed_tokens
        peak, count = 0.0, 1
        for count in [1] if packed else divisors(prompts):
            learning = sum(flops.learn_bytes(work._replace(microbatches=count), state).values())
            peak = rest + max(learning, sampling)
            if peak <= device.memory:
                nothing = {"received": 0.0, "sent": 0.0}
                bound = step_seconds(device, work, [], [], work, nothing)["step"]
                found.append(Candidate(f"{mesh},learner.microbatches={count}", peak, bound))
                break
        else:
            refused[mesh] = f"{peak / 1e9:.3g} GB with {count} microbatches"
    return found, refused


def search(
    found: Sequence[Candidate], refused: dict[str, str], device: Device, make: Callable[[str], Plan]
) -> Found:
    """Compiles candidates until none can be faster than the best; says each on stderr.

    Args:
      found: see `candidates`.
      refused: see `candidates`.
      device: of which kind the devices are.
      make: compiles and plans the text of a mesh.

    Raises:
      ConfigError: if no mesh fits.
    """
    if not found:
        told = "; ".join(f"{mesh}: {why}" for mesh, why in refused.items())
        raise ConfigError(f"--search: no mesh fits {device.name}: {told}")
    left = sorted(found, key=lambda candidate: candidate.bound)
    plans: dict[str, Plan] = {}

    def seconds(mesh: str) -> tuple[float, float]:
        found = plans[mesh].seconds[device.name]
        return found["step"], found["learn"]  # of equals, the one that hides the least

    best = left[0].mesh
    while left and (not plans or left[0].bound < seconds(best)[0]):
        mesh = left.pop(0).mesh
        print(f"{len(plans) + 1} of at most {len(found)}: {mesh} ...", file=sys.stderr, flush=True)
        plans[mesh] = make(mesh)
        best = min(plans, key=seconds)
        said = f"{seconds(mesh)[0]:.4g} s a step; best so far: {best}"
        print(said, file=sys.stderr, flush=True)
    return Found(plans[best], best, plans, left, refused)


def search_table(found: Found, device: Device) -> str:
    """Formats a search as Markdown: the meshes from the fastest on, and the command of the best."""

    def seconds(plan: Plan) -> float:
        return plan.seconds[device.name]["step"]

    rows = [
        (mesh, f"{plan.peak_bytes / 1e9:.3g}", f"{seconds(plan):.4g}")
        for mesh, plan in sorted(found.plans.items(), key=lambda item: seconds(item[1]))
    ]
    rows += [(c.mesh, f"{c.peak / 1e9:.3g}", f"at least {c.bound:.4g}") for c in found.bounded]
    rows += [(mesh, "", why) for mesh, why in found.refused.items()]
    columns = ["mesh", "GB of a device", f"seconds a step, {device.name}"]
    table = pd.DataFrame(rows, columns=columns)
    text = table.to_markdown(index=False, disable_numparse=True)
    return f"{text}\n\nbest: --mesh={found.best_mesh}"
