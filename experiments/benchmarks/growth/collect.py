"""Runs every point of some axes, each in a fresh process on one core."""

import json
import os
import sys
from collections.abc import Iterator, Sequence

from experiments.benchmarks import processes
from experiments.benchmarks.growth.axes import Axis, Sizes

# Devices that share a core wait for each other for longer than the 40 seconds after which XLA would
# end the process.
_ONE_CORE = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"
    " --xla_cpu_collective_call_terminate_timeout_seconds=900",
}


def measure_axes(axes: Sequence[Axis], repeats: int) -> Iterator[tuple[str, list[dict]]]:
    """Measures the points of the axes; one that lies on several axes only once.

    Args:
      axes: some of `axes.AXES`.
      repeats: of each step, at least.

    Yields:
      The name of each axis and the records of its points, as soon as they are all measured.
    """
    count = len({sizes for axis in axes for sizes in axis.points})
    records: dict[Sizes, dict] = {}
    for axis in axes:
        for sizes in axis.points:
            if sizes in records:
                continue
            changed = {k: v for k, v in sizes._asdict().items() if v != Sizes._field_defaults[k]}
            progress = f"{len(records) + 1}/{count}  {changed or 'base point'}"
            print(progress, file=sys.stderr, flush=True)
            records[sizes] = measure_point(sizes, repeats)
        yield axis.name, [records[sizes] for sizes in axis.points]


def measure_point(sizes: Sizes, repeats: int) -> dict:
    """Measures one point, in a process pinned to the last core that this one may use.

    Raises:
      subprocess.CalledProcessError: if that process fails; what it says is on stderr.
    """
    return _run("point", json.dumps(sizes._asdict()), str(repeats))


def measure_parts(repeats: int) -> dict:
    """Measures the parts of experiments.benchmarks.growth.parts, in one process like a point's."""
    return _run("parts", str(repeats))


def _run(module: str, *arguments: str) -> dict:
    core = max(os.sched_getaffinity(0))
    return processes.report_of(f"growth.{module}", *arguments, core=core, environment=_ONE_CORE)
