"""Published rates of accelerators, and the fractions of them that a plan assumes."""

from typing import NamedTuple


class Device(NamedTuple):
    """What one device can do at best.

    Attributes:
      name: as in the tables.
      flops: dense bfloat16 products, FLOP/s.
      memory: bytes.
      memory_rate: of its memory, bytes/s.
      link_rate: to the devices of its island, bytes/s each way.
      island: devices that are joined by those links.
      outer_rate: of one device to other islands, bytes/s each way.
      source: of the figures.
    """

    name: str
    flops: float
    memory: float
    memory_rate: float
    link_rate: float
    island: int
    outer_rate: float
    source: str


DEVICES = (
    Device(
        "H100 SXM",
        flops=989.4e12,
        memory=80e9,
        memory_rate=3.35e12,
        link_rate=450e9,
        island=8,
        outer_rate=50e9,
        source="NVIDIA H100 data sheet (989 TFLOP/s without sparsity, 3.35 TB/s, NVLink 900 GB/s"
        " both ways) and DGX H100 (one 400 Gb/s network port for each GPU)",
    ),
    # A collective over one mesh axis is taken to run along one axis of the 3D torus, a third of the
    # six links of a chip: 1200 / 2 / 3 GB/s each way.
    Device(
        "TPU v5p",
        flops=459e12,
        memory=95 * 2**30,
        memory_rate=2765e9,
        link_rate=200e9,
        island=8960,
        outer_rate=200e9,
        source="cloud.google.com/tpu/docs/v5p (459 TFLOP/s, 95 GiB, 2765 GB/s, interconnect"
        " 1200 GB/s both ways)",
    ),
)

# What well-tuned programs reach of the rates above; assumptions, not measurements.
OF_FLOPS = 0.5
OF_MEMORY_RATE = 0.8
OF_LINK_RATE = 0.8
LATENCY = 10e-6  # seconds of each collective beside its bytes


def link_rate(device: Device, group: tuple[int, ...]) -> float:
    """Bytes/s each way of one device in a ring over `group`, devices numbered island by island.

    Within an island the links of the island. Beyond it, the k members of an island share its k
    network ports: the ring crosses each border once, with the bytes of one member.
    """
    island = group[0] // device.island
    inside = sum(member // device.island == island for member in group)
    if inside == len(group):
        return device.link_rate
    return min(device.link_rate, inside * device.outer_rate)
