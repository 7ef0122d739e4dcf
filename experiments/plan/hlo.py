"""The text of a compiled program: its computations, their instructions, the sizes of arrays."""

import math
import re
from typing import NamedTuple

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


class Array(NamedTuple):
    """Type and sizes of one array."""

    dtype: str
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """Of its elements."""
        return math.prod(self.sizes)

    @property
    def bytes(self) -> int:
        """Of all its elements."""
        return _BYTES[self.dtype] * self.count


class Instruction(NamedTuple):
    """One line: `shape` is the text before the opcode, `rest` that from the opcode on."""

    shape: str
    opcode: str
    rest: str

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What it makes: one array, or the arrays of a tuple."""
        return tuple(
            Array(dtype, tuple(int(n) for n in sizes.split(",") if n))
            for dtype, sizes in _ARRAY.findall(self.shape)
        )

    @property
    def bytes(self) -> int:
        """Of all that it makes."""
        return sum(array.bytes for array in self.arrays)

    @property
    def operands(self) -> list[str]:
        """Names of the instructions that it reads."""
        inside = self.rest[self.rest.index("(") + 1 :]
        return re.findall(r"%([\w.-]+)", inside[: inside.index(")")])

    @property
    def called(self) -> dict[str, str]:
        """The computations that it runs, by what they are to it: "body", "calls" and so on."""
        branches = ",".join(_BRANCHES.findall(self.rest)).split(",")
        numbered = {f"branch{i}": name.strip(" %") for i, name in enumerate(branches) if name}
        return dict(_CALLED.findall(self.rest)) | numbered

    def numbers(self, attribute: str) -> list[int]:
        """Of an attribute that is a list in braces; none where it is absent."""
        found = re.search(rf"\b{attribute}=\{{([\d,]*)\}}", self.rest)
        return [int(n) for n in found[1].split(",") if n] if found else []


Computations = dict[str, dict[str, Instruction]]


def parse(text: str) -> tuple[Computations, str]:
    """The instructions of every computation, by name and in order, and the name of the entry."""
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
                rest = match[2][start:]
                current[match[1]] = Instruction(match[2][:start], opcode[1], rest)
    return computations, entry
