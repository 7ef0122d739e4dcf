"""The operations of a compiled program: what kind each is, and what its matrix product costs."""

import math
from typing import NamedTuple

from experiments.plan.hlo import Computations, Instruction, parse

WEIGHTS = "products with weights"
ATTENTION = "products of attention"
MOVED = "arrays moved: slices, turns, copies"
REST = "elementwise operations and sums"
KINDS = (WEIGHTS, ATTENTION, MOVED, REST)

# Their time is that of the operations inside them.
_FRAMES = {"while", "conditional", "call"}
# A fusion of nothing else computes nothing.
_MOVES = {
    *("bitcast", "broadcast", "concatenate", "constant", "copy", "dynamic-slice"),
    *("dynamic-update-slice", "gather", "iota", "pad", "parameter", "reshape", "slice"),
    *("transpose", "tuple", "get-tuple-element"),
}
# Of index arithmetic, beside the arrays that are moved.
_SCALAR = {"add", "compare", "select", "subtract", "multiply", "clamp", "convert"}


class Operation(NamedTuple):
    """One instruction that takes time of its own.

    Attributes:
      kind: of KINDS.
      what: its result and its operands, as they are in memory.
      flop: of its matrix product, each time; 0 without one.
    """

    kind: str
    what: str
    flop: int


def operations(text: str) -> dict[str, Operation]:
    """Every operation of a program by its name, which is that of its events in a trace.

    Args:
      text: HLO after optimisation.
    """
    computations, _ = parse(text)
    return {
        name: _operation(computations, body, instruction)
        for body in computations.values()
        for name, instruction in body.items()
        if instruction.opcode not in _FRAMES
    }


def _operation(
    computations: Computations, around: dict[str, Instruction], instruction: Instruction
) -> Operation:
    inside = {"": instruction}
    if instruction.opcode == "fusion":
        inside = computations[instruction.called["calls"]]
    products = [each for each in inside.values() if each.opcode == "dot"]
    names = around | inside
    what = f"{_shapes(instruction)} of {', '.join(_read(around, instruction)) or 'nothing'}"
    if products:
        batched = any(product.numbers("lhs_batch_dims") for product in products)
        flop = sum(_flop(names, product) for product in products)
        return Operation(ATTENTION if batched else WEIGHTS, what, flop)
    moved = all(
        each.opcode in _MOVES
        or (each.opcode in _SCALAR and all(array.count == 1 for array in each.arrays))
        for each in inside.values()
    )
    return Operation(MOVED if moved else REST, what, 0)


def _flop(names: dict[str, Instruction], product: Instruction) -> int:
    """2 for each element of the result and each pair that is summed for it."""
    left = names[product.operands[0]].arrays[0].sizes
    summed = math.prod(left[axis] for axis in product.numbers("lhs_contracting_dims"))
    return 2 * product.arrays[0].count * summed


def _read(around: dict[str, Instruction], instruction: Instruction) -> list[str]:
    """Shapes of the operands that are arrays with axes."""
    found = [around[name] for name in instruction.operands if name in around]
    return [_shapes(each) for each in found if any(array.sizes for array in each.arrays)]


def _shapes(instruction: Instruction) -> str:
    return ", ".join(
        f"{array.dtype}[{','.join(map(str, array.sizes))}]" for array in instruction.arrays
    )
