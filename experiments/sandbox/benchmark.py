"""Programs a second, and whether each of many ends as it must.

Below: pool. Above: the command.
"""

import collections
import os
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from tqdm import tqdm

from experiments.sandbox.pool import SandboxPool
from experiments.sandbox.protocol import Limits, Result
from experiments.sandbox.sandbox import Sandbox
from experiments.sandbox.selftest import descendants

_OTHER_EVERY = 100
# Every hundredth program is the next of these, and ends so.
_OTHERS = (
    ("error", "raise ValueError({number})"),
    ("timeout", "while True: pass"),
    ("killed", "import ctypes\nctypes.string_at(0)"),
    ("memory", "bytearray(1 << 40)"),
    ("output", "while True: print({number})"),
    ("timeout", "import time\ntime.sleep(1e6)"),
)
_OTHER_LIMITS = Limits(seconds=0.2)


class Case(NamedTuple):
    """A program whose end is known beforehand."""

    program: str
    status: str
    output: str
    limits: Limits


def case(number: int) -> Case:
    """Returns one of the programs: it prints a product, or is one of those that fail."""
    turn, rest = divmod(number, _OTHER_EVERY)
    if rest == _OTHER_EVERY - 1:
        status, program = _OTHERS[turn % len(_OTHERS)]
        return Case(program.format(number=number), status, "", _OTHER_LIMITS)
    return Case(f"print({number} * 7919)", "ok", f"{number * 7919}\n", Limits())


def is_right(expected: Case, result: Result) -> bool:
    """Tells whether a program ended as it must."""
    if result.status != expected.status:
        return False
    return result.status != "ok" or result.output == expected.output


def run_benchmark(programs: int, workers: int, backend: str) -> tuple[list[Sequence[object]], bool]:
    """Runs many programs, with a progress bar.

    Returns:
      (rows of a table of names and values, whether all ended as they must and nothing is left).
    """
    processes = descendants(os.getpid())
    lock = threading.Lock()
    expected: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    slowest = 0.0
    with (
        SandboxPool(workers, backend) as pool,
        tqdm(total=programs, unit="program", mininterval=1) as bar,
    ):

        def run(sandboxes: tuple[Sandbox, ...], number: int) -> None:
            nonlocal slowest
            todo = case(number)
            began = time.monotonic()
            result = sandboxes[0].run(todo.program, limits=todo.limits)
            took = time.monotonic() - began
            with lock:
                slowest = max(slowest, took)
                expected[todo.status] += 1
                counts[result.status] += 1
                if not is_right(todo, result):
                    wrong.append(f"{number}: {todo.status} expected, got {result}")
                bar.update()

        began = time.monotonic()
        pool.map(run, range(programs))
        seconds = time.monotonic() - began
        replaced = pool.replaced
    left = _wait_for_end(processes)
    rows: list[Sequence[object]] = [
        ["programs", programs],
        ["workers", workers],
        ["seconds", round(seconds, 1)],
        ["programs a second", round(programs / seconds)],
        ["slowest, seconds", round(slowest, 2)],
        *([f"{status} (expected)", f"{counts[status]} ({expected[status]})"] for status in
          sorted({*counts, *expected})),
        ["wrong", len(wrong)],
        ["sandboxes replaced", replaced],
        ["processes left", len(left)],
        ["load of the machine", " ".join(f"{load:.1f}" for load in os.getloadavg())],
    ]  # fmt: skip
    rows += [["", line[:200]] for line in wrong[:10]]
    return rows, not wrong and not left


def _wait_for_end(before: set[int], patience: float = 10.0) -> set[int]:
    """Returns the processes that were not there before, once they had time to end."""
    until = time.monotonic() + patience
    while (left := descendants(os.getpid()) - before) and time.monotonic() < until:
        time.sleep(0.05)
    return left
