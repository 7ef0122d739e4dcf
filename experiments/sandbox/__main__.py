"""Command: tries a sandbox by hostile programs, or measures it.

python -m experiments.sandbox --selftest
python -m experiments.sandbox --benchmark --programs=10000 --workers=2
"""

import sys

from absl import app, flags
from tabulate import tabulate

from experiments.sandbox.backends import BACKENDS
from experiments.sandbox.benchmark import run_benchmark
from experiments.sandbox.protocol import SandboxError
from experiments.sandbox.selftest import lines

_SELFTEST = flags.DEFINE_bool("selftest", False, "run hostile programs; are they contained?")
_BENCHMARK = flags.DEFINE_bool("benchmark", False, "programs a second")
_PROGRAMS = flags.DEFINE_integer("programs", 2000, "how many the benchmark runs", lower_bound=1)
_WORKERS = flags.DEFINE_integer("workers", 2, "sandboxes of the benchmark", lower_bound=1)
# Hostile programs do not run without walls.
_BACKEND = flags.DEFINE_enum(
    "backend", "bubblewrap", [name for name in BACKENDS if name != "unsafe"], "which walls"
)


def main(_: list[str]) -> None:
    """Runs what the flags choose; exits with 1 where anything went wrong."""
    if _SELFTEST.value == _BENCHMARK.value:
        raise app.UsageError("choose --selftest or --benchmark")
    try:
        good = _selftest() if _SELFTEST.value else _benchmark()
    except SandboxError as error:
        sys.exit(str(error))
    sys.exit(0 if good else 1)


def _selftest() -> bool:
    verdicts = []
    for line, contained in lines(_BACKEND.value):
        print(line, flush=True)
        verdicts.append(contained)
    print(f"{sum(verdicts)} of {len(verdicts)} hostile programs were contained; none may pass.")
    return all(verdicts)


def _benchmark() -> bool:
    rows, good = run_benchmark(_PROGRAMS.value, _WORKERS.value, _BACKEND.value)
    print(tabulate(rows, tablefmt="github"))
    return good


if __name__ == "__main__":
    app.run(main)
