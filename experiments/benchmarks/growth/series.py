"""The figures of one step along one axis, out of the records of its points."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from experiments.benchmarks.growth.axes import Axis, Sizes
from experiments.benchmarks.growth.fit import exponent, faster_than_work

STEPS = {"sample": "rollout step", "learn": "train step"}


class Series(NamedTuple):
    """One step, "sample" or "learn", at the points of an axis; all lists are as long.

    Attributes:
      values: where the points lie on the axis.
      work: FLOP, counted.
      seconds: medians, of the clock.
      cpu_seconds: medians, of the processor for all threads. On one core they are the seconds of
        the clock without those that went to other processes: exponents and marks are theirs.
      peak: bytes, the most that the process held beyond the idle one.
      program: bytes of arguments, outputs and temporaries, as the compiler plans them.
      compile_seconds: of the processor, to trace, lower and compile.
    """

    values: list[int]
    work: list[float]
    seconds: list[float]
    cpu_seconds: list[float]
    peak: list[int]
    program: list[int]
    compile_seconds: list[float]

    @property
    def slow(self) -> list[bool]:
        """Points whose time grows faster than their work."""
        return faster_than_work(self.work, self.cpu_seconds)

    @property
    def large(self) -> list[bool]:
        """Points whose memory, as the compiler plans it, grows faster than their work."""
        return faster_than_work(self.work, self.program)

    def exponents(self) -> dict[str, float]:
        """Of work, time and memory with the axis, and of time and memory with the work."""
        return {
            "work by axis": exponent(self.values, self.work),
            "time by axis": exponent(self.values, self.cpu_seconds),
            "time by work": exponent(self.work, self.cpu_seconds),
            "memory by axis": exponent(self.values, self.program),
            "memory by work": exponent(self.work, self.program),
        }


def series(axis: Axis, records: Sequence[dict], step: str) -> Series:
    """The figures of a step, from the records of the points of `axis`."""
    of_step = [record[step] for record in records]
    return Series(
        values=[axis.value(Sizes(**record["sizes"])) for record in records],
        work=[sum(record["flops"].values()) for record in of_step],
        seconds=[statistics.median(record["seconds"]) for record in of_step],
        cpu_seconds=[statistics.median(record["cpu_seconds"]) for record in of_step],
        peak=[record["peak_bytes"] for record in of_step],
        program=[
            record["argument_bytes"] + record["output_bytes"] + record["temporary_bytes"]
            for record in of_step
        ],
        compile_seconds=[record["compile_seconds"] for record in of_step],
    )
