"""Which loops decode completions of real lengths: how wide they are, and how long their caches.

Below: models. Above: slots.
"""

from typing import NamedTuple

from experiments.models.layers import on_cpu

# Widths of the loops relative to the first, and lengths of their caches relative to T: completions
# that outlast most of the others are old. The time of a step on a CPU goes with both.
_LOOPS = (
    ((1.0, 1.0),),
    ((1.0, 0.5), (0.25, 1.0)),
    ((1.0, 0.25), (0.5, 0.5), (0.15625, 1.0)),
    ((1.0, 0.25), (0.5, 0.5), (0.25, 1.0), (0.0625, 1.0)),
    ((1.0, 0.25), (0.625, 0.25), (0.375, 0.5), (0.1875, 1.0), (0.0625, 1.0)),
    ((1.0, 0.25), (0.75, 0.25), (0.5, 0.5), (0.3125, 0.5), (0.15625, 1.0), (0.0625, 1.0)),
)
MAX_LOOPS = len(_LOOPS)
# On an accelerator fewer rows take as long: the weights are read for every token anyway.
_MIN_WIDTH = 64
# Below so many tokens, compiling more than the plain loop takes longer than stragglers do.
_MIN_TOKENS = 128
# The part of the slots that is idle before they are refilled, which copies the prompts' caches.
_IDLE = 1 / 16


class Stage(NamedTuple):
    """A loop over `width` completions, with caches of `length` tokens each."""

    width: int
    length: int


class Plan(NamedTuple):
    """Loops of decreasing width.

    Where the completions that are left fit into the next loop, they go on there; where their caches
    are full before, they go on there in several parts, one after another.

    Attributes:
      stages: the first has one row for each slot; the last has caches of T tokens.
      idle: slots that are refilled together; 0 where each completion has a slot of its own.
    """

    stages: tuple[Stage, ...]
    idle: int


def next_width(stages: tuple[Stage, ...]) -> int:
    """Returns the completions that are left when the first of the loops ends."""
    return stages[1].width if len(stages) > 1 else 0


def make_plan(completions: int, max_tokens: int, *, slots: int, loops: int) -> Plan | None:
    """Chooses the loops from the sizes alone.

    Args:
      completions: N, of one device.
      max_tokens: T.
      slots: completions that are decoded at a time; 0 for all.
      loops: at most so many.

    Returns:
      None for the plain loop.
    """
    width = min(slots, completions) if slots else completions
    refills, cpu = width < completions, on_cpu()
    smallest = 1 if cpu else _MIN_WIDTH
    table = _LOOPS[loops - 1] if max_tokens >= _MIN_TOKENS else _LOOPS[0]
    lengths = {int(width * part): int(max_tokens * length) for part, length in table}
    stages = [Stage(w, n) for w, n in lengths.items() if w == width or w >= smallest]
    if len(stages) == 1 and not refills:
        return None
    # Refilled slots are of all ages. On an accelerator a narrow part takes as long as a wide one.
    grows = cpu and not refills
    last = len(stages) - 1
    stages = [
        stage if grows and i < last else stage._replace(length=max_tokens)
        for i, stage in enumerate(stages)
    ]
    return Plan(tuple(stages), max(1, int(width * _IDLE)) if refills else 0)
