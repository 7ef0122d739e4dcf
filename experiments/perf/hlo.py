"""Collectives of a partitioned program, counted in its HLO text with loops unrolled.

The compiler's own cost analysis counts the body of a loop once, and so knows neither layers nor
microbatches. Here every computation is counted as often as it runs.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments.plan.hlo import Instruction, parse

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """A collective as one device sees it.

    Attributes:
      kind: of KINDS.
      moved: bytes that a device sends (and receives) each time, by the ring algorithm.
      times: how often it runs.
      group: the devices of the first group, by their number.
      dtype: of its first array.
    """

    kind: str
    moved: float
    times: int
    group: tuple[int, ...]
    dtype: str


def collectives(text: str, unknown_trips: int | None = None) -> list[Collective]:
    """Every collective of a program, with the number of times that it runs.

    Args:
      text: HLO after partitioning, of one device.
      unknown_trips: trips of a loop whose bound is no constant.

    Raises:
      ValueError: such a loop, and no `unknown_trips`.
    """
    computations, entry = parse(text)
    found = []

    def visit(name: str, times: int) -> None:
        body = computations[name]
        for instruction in body.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in KINDS:
                found.append(_collective(kind, instruction, times))
                continue
            if instruction.opcode == "while":
                called = instruction.called
                trips = _trips(instruction, body, computations[called["condition"]])
                trips = unknown_trips if trips is None else trips
                if trips is None:
                    raise ValueError(f"no constant bound of the loop {called['body']}")
                visit(called["body"], times * trips)
                visit(called["condition"], times * (trips + 1))
            elif instruction.opcode in ("call", "conditional", "fusion"):
                for called in instruction.called.values():
                    visit(called, times)

    visit(entry, 1)
    return found


def bytes_by_kind(found: list[Collective]) -> dict[str, float]:
    """Bytes that one device sends in a run of the program, for each of KINDS."""
    return {kind: sum(c.moved * c.times for c in found if c.kind == kind) for kind in KINDS}


def _constant(instruction: Instruction | None) -> int | None:
    match = instruction and re.match(r"constant\((-?\d+)\)", instruction.rest)
    return int(match[1]) if match else None


def _trips(
    loop: Instruction, outside: Mapping[str, Instruction], condition: Mapping[str, Instruction]
) -> int | None:
    """The bound of a counter that starts at a constant; other conditions may end a loop earlier."""
    for compare in condition.values():
        if compare.opcode != "compare" or "direction=LT" not in compare.rest:
            continue
        left, right = (condition[name] for name in compare.operands)
        bound = _constant(right)
        if bound is None or left.opcode != "get-tuple-element":
            continue
        index = int(re.search(r"index=(\d+)", left.rest)[1])
        carry = outside[loop.operands[0]]
        start = _start(outside, carry, index)
        if start is not None:
            return bound - start
    return None


def _start(outside: Mapping[str, Instruction], carry: Instruction, index: int) -> int | None:
    if carry.opcode != "tuple":
        return None
    first = outside.get(carry.operands[index])
    while first is not None and first.opcode == "copy":
        first = outside.get(first.operands[0])
    return _constant(first)


def _collective(kind: str, instruction: Instruction, times: int) -> Collective:
    group = _first_group(instruction.rest)
    size = instruction.bytes
    if instruction.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
        size -= size // (len(group) + 1) if kind == "all-gather" else size // 2
    dtype = instruction.arrays[0].dtype
    return Collective(kind, _moved(kind, size, len(group)), times, group, dtype)


def _moved(kind: str, size: int, members: int) -> float:
    """Bytes sent by each of n devices in a ring, from the bytes of what a device gets.

    all-gather and all-to-all (n-1)/n · size; reduce-scatter (n-1) · size; all-reduce, which is a
    reduce-scatter and an all-gather, 2 (n-1)/n · size; a permute sends all of it.
    """
    share = (members - 1) / members
    return {
        "all-gather": share * size,
        "all-to-all": share * size,
        "reduce-scatter": (members - 1) * size,
        "all-reduce": 2 * share * size,
        "collective-permute": size,
    }[kind]


def _first_group(rest: str) -> tuple[int, ...]:
    """The first group of devices, in any of the three ways that HLO writes groups."""
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", rest)
    if pairs:
        return int(pairs[1]), int(pairs[2])
    text = rest.split("replica_groups=")[1]
    if text.startswith("mesh["):
        return _mesh_group(text)
    if text.startswith("["):
        match = re.match(r"\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
        ids = np.arange(int(match[1]) * int(match[2])).reshape(_numbers(match[3]))
        if match[4]:
            ids = ids.transpose(_numbers(match[4]))
        return tuple(ids.reshape(int(match[1]), -1)[0].tolist())
    return tuple(_numbers(re.match(r"\{\{([\d,]+)\}", text)[1]))


def _mesh_group(text: str) -> tuple[int, ...]:
    """Of `mesh['x'=2,'y'=4], device_ids=([4,2]T(1,0)) {'x'}`; without device_ids, in order."""
    match = re.match(r"mesh\[([^\]]*)\](.*?)\{([^}]*)\}", text)
    axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
    names = re.findall(r"'(\w+)'", match[3])
    sizes = list(axes.values())
    ids = np.arange(int(np.prod(sizes)))
    order = re.search(r"device_ids=\((?:\[([\d,]+)\](?:T\(([\d,]+)\))?|([\d,]+))\)", match[2])
    if order and order[3]:
        ids = np.array(_numbers(order[3]))
    elif order and order[2]:
        ids = ids.reshape(_numbers(order[1])).transpose(_numbers(order[2]))
    chosen = [list(axes).index(name) for name in names]
    others = [i for i in range(len(sizes)) if i not in chosen]
    count = int(np.prod([sizes[i] for i in chosen]))
    ids = ids.reshape(sizes).transpose(others + chosen).reshape(-1, count)
    return tuple(ids[0].tolist())


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]
