"""What a sweep of 16 runs costs beside its steps: one program, processes, separate commands.

The runs are those of experiments/benchmarks/sweep_config.py, on one core like everything here.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.benchmarks.processes import ONE_THREAD, Worker, pinned
from experiments.benchmarks.works import SHAPES, Work

CONFIG = Path("configs/sweeps/benchmark.py").absolute()
RUNS = 16
# Only the steps are read: the worker makes its steps from the config.
STEPS = Work("sweep_steps", "step", SHAPES["tiny"], 1, 1, 1, 1, steps=10)


def commands(steps: int, workdir: Path) -> dict[str, tuple[str, list[str], int]]:
    """By mode: its title, the command that is timed, and by what its seconds are multiplied."""
    base = [sys.executable, "-m", "experiments.run", f"--config={CONFIG}", "--noreport"]
    base += [f"--config.steps={steps}", f"--config.evaluation.every={steps}"]
    base += [f"--config.checkpoint.every={steps}"]

    def sweep(name: str, mode: str, *more: str) -> list[str]:
        return [*base, f"--workdir={workdir / name}", f"--config.sweep.mode={mode}", *more]

    alone = sweep("alone", "serial", f"--shard=0/{RUNS}")  # they are all alike
    return {
        "vmap": ("one vmapped program", sweep("vmap", "vmap"), 1),
        "processes": ("a process for each core", sweep("processes", "processes"), 1),
        "commands": (f"{RUNS} separate commands (one timed, times {RUNS})", alone, RUNS),
    }


def time_sweep(
    steps: int,
    repeats: int,
    core: int | None,
    tell: Callable[[str], None],
    modes: Sequence[str] = (),
) -> dict:
    """Times the modes, one time each; returns results["sweep"].

    Args:
      steps: of each run, a multiple of 10.
      repeats: of the pure steps.
      core: the one that all of it runs on; None for no pinning.
      tell: shows progress.
      modes: those of `commands` to time; all if empty.
    """
    tell("sweep: pure steps")
    result = {"runs": RUNS, "steps": steps, "modes": []}
    result["step_s"] = _step_seconds(repeats, core)
    with tempfile.TemporaryDirectory() as directory:
        for name, (title, argv, times) in commands(steps, Path(directory)).items():
            if modes and name not in modes:
                continue
            tell(f"sweep: {title}")
            result["modes"].append({"mode": name, "title": title} | _time(argv, core, times))
    return result


def _step_seconds(repeats: int, core: int | None) -> float:
    worker = Worker(sys.executable, "sweep_steps", STEPS, core=core, environment={})
    try:
        worker.answer()
        seconds = sorted(worker.go()["seconds"] for _ in range(repeats))
    finally:
        worker.stop()
    return seconds[len(seconds) // 2] / STEPS.steps


def _time(argv: Sequence[str], core: int | None, times: int) -> dict:
    start = time.perf_counter()
    done = subprocess.run(
        pinned(argv, core), env=os.environ | ONE_THREAD, capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"seconds": None, "status": f"failed, exit code {done.returncode}: {last}"}
    return {"seconds": (time.perf_counter() - start) * times, "status": "ok"}
