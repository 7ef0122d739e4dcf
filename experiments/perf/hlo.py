"""The partitioned program of a jitted function, and its collectives with every loop unrolled.

XLA's cost analysis counts the body of a loop once, whatever its trip count: layers and microbatches
would count once. Here each instruction counts as often as it runs.
"""

import contextlib
import math
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

# The HLO after partitioning is dumped, before the CPU's passes, which widen bfloat16. Nothing is
# executed, so machine code need not be optimized.
_OPTIONS = {
    "xla_dump_hlo_pass_re": "spmd-partitioning",
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}

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


class CompiledStep(NamedTuple):
    """The compiler's report on one step function.

    Attributes:
      partitioned: HLO text of one device's program after partitioning.
      arguments: bytes on one device.
      outputs: bytes on one device, without the buffers of donated arguments.
      temporary: bytes on one device, of the compiler for CPU.
      seconds: to lower and compile.
    """

    partitioned: str
    arguments: int
    outputs: int
    temporary: int
    seconds: float


def compile_step(function, *arguments) -> CompiledStep:
    """Lowers and compiles a jitted function for the shapes and shardings of its arguments."""
    start = time.perf_counter()
    text, compiled = partitioned(function.lower(*arguments))
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    return CompiledStep(
        text,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        seconds=seconds,
    )


def partitioned(lowered):
    """Compiles; returns the HLO text after partitioning, and the compiled program."""
    with tempfile.TemporaryDirectory() as folder, _no_compilation_cache():
        compiled = lowered.compile(compiler_options=_OPTIONS | {"xla_dump_to": folder})
        # A program of one device is not partitioned.
        texts = [p.read_text() for p in Path(folder).glob("*after_spmd-partitioning*")]
        return texts[0] if texts else compiled.as_text(), compiled


@contextlib.contextmanager
def _no_compilation_cache():
    """Disables the persistent cache: a cached program is not partitioned and dumps no text."""
    enabled = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX reads the setting once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


class Collective(NamedTuple):
    """A collective as one device sees it.

    Attributes:
      kind: one of KINDS.
      moved: bytes that a device sends (and receives) per execution, by the ring algorithm.
      times: number of executions.
      group: device ids of the first replica group.
      dtype: of the first array.
    """

    kind: str
    moved: float
    times: int
    group: tuple[int, ...]
    dtype: str


class Instruction(NamedTuple):
    """One HLO instruction: `shape` is the text before the opcode, `rest` the text from it on."""

    shape: str
    opcode: str
    rest: str

    @property
    def dtype(self) -> str:
        """The type of the first result array."""
        return _ARRAY.findall(self.shape)[0][0]

    @property
    def bytes(self) -> int:
        """Bytes of the result: an array, or the arrays of a tuple."""
        return sum(
            _BYTES[dtype] * math.prod(int(n) for n in sizes.split(",") if n)
            for dtype, sizes in _ARRAY.findall(self.shape)
        )

    @property
    def elements(self) -> list[tuple[str, str]]:
        """Names of the operands, and N where one is `%name#N`, an element of a tuple, else ""."""
        inside = self.rest[self.rest.index("(") + 1 :]
        return re.findall(r"%([\w.-]+)(?:#(\d+))?", inside[: inside.index(")")])

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return [name for name, _ in self.elements]

    @property
    def called(self) -> dict[str, str]:
        """Names of the called computations by role: "body", "condition", "calls", "branch0" ..."""
        branches = ",".join(_BRANCHES.findall(self.rest)).split(",")
        numbered = {f"branch{i}": name.strip(" %") for i, name in enumerate(branches) if name}
        return dict(_CALLED.findall(self.rest)) | numbered


Computations = dict[str, dict[str, Instruction]]


def parse(text: str) -> tuple[Computations, str]:
    """Parses HLO text.

    Returns:
      The instructions of every computation, by name and in order, and the name of the entry.
    """
    computations: Computations = {}
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
                current[match[1]] = Instruction(match[2][:start], opcode[1], match[2][start:])
    return computations, entry


def collectives(text: str, unknown_trips: int | None = None) -> list[Collective]:
    """Finds every collective of a program and counts its executions.

    Args:
      text: HLO of one device, after partitioning.
      unknown_trips: trip count of a loop whose bound is not a constant.

    Raises:
      ValueError: for such a loop without `unknown_trips`.
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
    """Sums the bytes that one device sends in a run of the program, for each of KINDS."""
    return {kind: sum(c.moved * c.times for c in found if c.kind == kind) for kind in KINDS}


def _constant(instruction: Instruction | None) -> int | None:
    match = instruction and re.match(r"constant\((-?\d+)\)", instruction.rest)
    return int(match[1]) if match else None


def _trips(
    loop: Instruction, outside: Mapping[str, Instruction], condition: Mapping[str, Instruction]
) -> int | None:
    """Trip count of a counter with constant start and bound; a second condition may end earlier."""
    for compare in condition.values():
        if compare.opcode != "compare" or "direction=LT" not in compare.rest:
            continue
        (name, index), (limit, _) = compare.elements
        bound, left = _constant(condition[limit]), condition[name]
        if left.opcode == "get-tuple-element":  # JAX before 0.12
            index = _search(r"index=(\d+)", left.rest)[1]
        if bound is None or not index:
            continue
        start = _start(outside, outside[loop.operands[0]], int(index))
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
    # The result of an asynchronous start holds the operand too.
    if instruction.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
        size -= size // (len(group) + 1) if kind == "all-gather" else size // 2
    return Collective(kind, _moved(kind, size, len(group)), times, group, instruction.dtype)


def _moved(kind: str, size: int, members: int) -> float:
    """Bytes that each of n devices sends in a ring, from the bytes `size` of its result.

    all-gather and all-to-all: (n-1)/n * size; reduce-scatter: (n-1) * size; all-reduce, a
    reduce-scatter and an all-gather: 2 (n-1)/n * size; collective-permute: size.
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
    """The first device group, in any of the three notations of HLO."""
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", rest)
    if pairs:
        return int(pairs[1]), int(pairs[2])
    text = rest.split("replica_groups=")[1]
    if text.startswith("mesh["):
        return _mesh_group(text)
    if text.startswith("["):
        match = _search(r"^\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
        ids = np.arange(int(match[1]) * int(match[2])).reshape(_numbers(match[3]))
        if match[4]:
            ids = ids.transpose(_numbers(match[4]))
        return tuple(ids.reshape(int(match[1]), -1)[0].tolist())
    return tuple(_numbers(_search(r"^\{\{([\d,]+)\}", text)[1]))


def _mesh_group(text: str) -> tuple[int, ...]:
    """Parses `mesh['x'=2,'y'=4], device_ids=([4,2]T(1,0)) {'x'}`; device_ids may be missing."""
    match = _search(r"^mesh\[([^\]]*)\](.*?)\{([^}]*)\}", text)
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


def _search(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"unknown HLO syntax: {text[:200]!r} does not match {pattern!r}")
    return match


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]
