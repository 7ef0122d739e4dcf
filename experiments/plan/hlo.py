"""Collectives of a partitioned program, counted in its HLO text with loops unrolled.

The compiler's own cost analysis counts the body of a loop once, and so knows neither layers nor
microbatches. Here every computation is counted as often as it runs.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")

# fmt: off
_BYTES = {
    "token": 0, "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8,
}
# fmt: on
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|[ )}\]])([a-z][a-z-]*)\(")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_CALLED = re.compile(
    r"(body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Instruction(NamedTuple):
    """One line: `shape` is the text before the opcode, `rest` that from the opcode on."""

    shape: str
    opcode: str
    rest: str


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
    computations, entry = _parse(text)
    found = []

    def visit(name: str, times: int) -> None:
        body = computations[name]
        for instruction in body.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in KINDS:
                found.append(_collective(kind, instruction, times))
                continue
            if instruction.opcode == "while":
                called = dict(_CALLED.findall(instruction.rest))
                trips = _trips(instruction, body, computations[called["condition"]])
                trips = unknown_trips if trips is None else trips
                if trips is None:
                    raise ValueError(f"no constant bound of the loop {called['body']}")
                visit(called["body"], times * trips)
                visit(called["condition"], times * (trips + 1))
            elif instruction.opcode in ("call", "conditional", "fusion"):
                names = [name for _, name in _CALLED.findall(instruction.rest)]
                for branches in _BRANCHES.findall(instruction.rest):
                    names += [branch.strip(" %") for branch in branches.split(",")]
                for called in names:
                    visit(called, times)

    visit(entry, 1)
    return found


def bytes_by_kind(found: list[Collective]) -> dict[str, float]:
    """Bytes that one device sends in a run of the program, for each of KINDS."""
    return {kind: sum(c.moved * c.times for c in found if c.kind == kind) for kind in KINDS}


def shape_bytes(shape: str) -> int:
    """Bytes of an array or tuple as HLO writes its shape."""
    return sum(
        _BYTES[dtype] * int(np.prod([int(n) for n in sizes.split(",") if n], dtype=np.int64))
        for dtype, sizes in _ARRAY.findall(shape)
    )


def _parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        line = re.sub(r"/\*.*?\*/", "", line)
        head = _HEAD.match(line)
        if head and " = " not in line.split("(")[0]:
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
            continue
        match = _INSTRUCTION.match(line)
        if match and current is not None:
            opcode = _OPCODE.search(match[2])
            if opcode:
                start = opcode.start(1)
                rest = match[2][start:]
                current[match[1]] = Instruction(match[2][:start], opcode[1], rest)
    return computations, entry


def _operands(instruction: Instruction) -> list[str]:
    inside = instruction.rest[instruction.rest.index("(") + 1 :]
    return re.findall(r"%([\w.-]+)", inside[: inside.index(")")])


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
        left, right = (condition[name] for name in _operands(compare))
        bound = _constant(right)
        if bound is None or left.opcode != "get-tuple-element":
            continue
        index = int(re.search(r"index=(\d+)", left.rest)[1])
        carry = outside[_operands(loop)[0]]
        start = _start(outside, carry, index)
        if start is not None:
            return bound - start
    return None


def _start(outside: Mapping[str, Instruction], carry: Instruction, index: int) -> int | None:
    if carry.opcode != "tuple":
        return None
    first = outside.get(_operands(carry)[index])
    while first is not None and first.opcode == "copy":
        first = outside.get(_operands(first)[0])
    return _constant(first)


def _collective(kind: str, instruction: Instruction, times: int) -> Collective:
    group = _first_group(instruction.rest)
    size = shape_bytes(instruction.shape)
    if instruction.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
        size -= size // (len(group) + 1) if kind == "all-gather" else size // 2
    dtype = _ARRAY.search(instruction.shape)[1]
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
