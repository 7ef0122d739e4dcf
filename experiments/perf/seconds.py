"""Seconds of a training step on an accelerator, from its published peak rates.

Below: flops, hlo. Above: plan.
"""

from typing import NamedTuple

from experiments.perf.flops import (
    Work,
    attention,
    cache_bytes,
    copy_bytes,
    learn_flops,
    sample_flops,
)
from experiments.perf.hlo import Collective

_FLOAT32 = 4


class Device(NamedTuple):
    """Published peak rates of an accelerator.

    Attributes:
      name: as in the tables.
      backend: of JAX.
      flops: dense bfloat16 products, FLOP/s.
      memory: bytes.
      memory_rate: bytes/s.
      link_rate: to the devices of the same island, bytes/s each way.
      island: devices joined by those links.
      outer_rate: of one device to other islands, bytes/s each way.
    """

    name: str
    backend: str
    flops: float
    memory: float
    memory_rate: float
    link_rate: float
    island: int
    outer_rate: float


DEVICES = (
    # NVIDIA H100 data sheet: 989 TFLOP/s without sparsity, 3.35 TB/s, NVLink 900 GB/s both ways;
    # DGX H100: one 400 Gb/s network port for each GPU.
    Device("H100 SXM", "gpu", 989.4e12, 80e9, 3.35e12, link_rate=450e9, island=8, outer_rate=50e9),
    # cloud.google.com/tpu/docs/v5p: 459 TFLOP/s, 95 GiB, 2765 GB/s, interconnect 1200 GB/s both
    # ways. A collective over one mesh axis is taken to run along one axis of the 3D torus, a third
    # of the six links of a chip: 1200 / 2 / 3 GB/s each way.
    Device(
        "TPU v5p", "tpu", 459e12, 95 * 2**30, 2765e9, link_rate=200e9, island=8960, outer_rate=200e9
    ),
)

# Fractions of the peak rates that well-tuned programs reach; assumptions, not measurements.
OF_FLOPS = 0.5
OF_MEMORY_RATE = 0.8
OF_LINK_RATE = 0.8
LATENCY = 10e-6  # seconds of each collective beside its bytes

# Float32 passes over scores that no kernel keeps on the chip: 4 in each forward computation (write;
# read for the maximum and the exponential; write; read for the mix), 8 in the backward one, which
# starts from a forward computation where there are blocks.
_FORWARD_PASSES, _BACKWARD_PASSES = 4, 8


def step_seconds(
    device: Device,
    work: Work,
    sample: list[Collective],
    learn: list[Collective],
    sampling: Work,
    handover: dict[str, float],
) -> dict[str, float]:
    """Predicts the seconds of one step.

    products     FLOP / (peak x OF_FLOPS)
    scores       bytes of attention in the train step / (memory rate x OF_MEMORY_RATE): XLA
                 without a fused kernel writes and reads the scores
    decode       per token the larger of its products and its reads: the weights and the cache once
    collectives  bytes / (link rate x OF_LINK_RATE) + LATENCY each

    handover     the larger of what a device receives and sends of the weights / its outer rate

    "learn" adds all of the train step; "learn_overlapped" hides the smaller of collectives and
    products behind the larger.

    Args:
      device: one of DEVICES.
      work: of one device that trains.
      sample: collectives of the rollout step.
      learn: collectives of the train step.
      sampling: work of one device that samples.
      handover: see `handover_bytes`.
    """
    work, sampling = (x._replace(backend=device.backend) for x in (work, sampling))
    speed, reading = device.flops * OF_FLOPS, device.memory_rate * OF_MEMORY_RATE
    prefill = sample_flops(sampling._replace(completion=1)).total
    bytes_read = (sampling.completion - 1) * (copy_bytes(sampling) + cache_bytes(sampling))
    parts = {
        "prefill": prefill / speed,
        "decode": max((sample_flops(sampling).total - prefill) / speed, bytes_read / reading),
        "sample_collectives": transfer_seconds(device, sample),
        "products": learn_flops(work).total / speed,
        "scores": score_bytes(work) / reading,
        "learn_collectives": transfer_seconds(device, learn),
        "handover": max(handover.values()) / (device.outer_rate * OF_LINK_RATE),
    }
    products, transfers = parts["products"], parts["learn_collectives"]
    rollout = parts["prefill"] + parts["decode"] + parts["sample_collectives"]
    update = max(products, transfers) + parts["scores"]
    beside = parts["handover"] > 0
    return parts | {
        "step": max(rollout, update) + parts["handover"] if beside else rollout + update,
        "rollout": rollout,
        "learn": products + parts["scores"] + transfers,
        "learn_overlapped": update,
    }


def score_bytes(work: Work) -> float:
    """Bytes that attention moves on one device in the train step.

    With a fused kernel these are its inputs and outputs, whose keys and values are taken to be read
    once: those of a head fit an H100's cache.
    """
    model, moved = work.model, 0.0
    tokens = work.prompt, work.group * (work.prompt + work.completion - 1)
    for part, count in zip(attention(work), tokens):
        if part.name in ("cudnn", "pallas"):
            arrays = 2 * (model.num_heads + model.num_kv_heads) * model.head_dim / work.tensor
            moved += work.prompts * count * model.num_layers * arrays * work.item * part.passes
        else:
            forwards = part.passes - 2 if part.name == "plain" else 2 + model.remat
            passes = _FORWARD_PASSES * forwards + _BACKWARD_PASSES
            moved += _FLOAT32 * part.scores * passes
    return moved * work.epochs


def link_rate(device: Device, group: tuple[int, ...]) -> float:
    """Bytes/s each way of one device in a ring over `group`; ids are consecutive in an island.

    Beyond an island, its k members of the group share k network ports: the ring crosses each border
    once, with the bytes of one member.
    """
    island = group[0] // device.island
    inside = sum(member // device.island == island for member in group)
    if inside == len(group):
        return device.link_rate
    return min(device.link_rate, inside * device.outer_rate)


def transfer_seconds(device: Device, found: list[Collective]) -> float:
    """Seconds of all collectives, one after the other."""
    return sum(
        c.times * (c.moved / (link_rate(device, c.group) * OF_LINK_RATE) + LATENCY) for c in found
    )
