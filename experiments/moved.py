"""Commands of earlier READMEs, and what replaces them. Standard library only."""

import sys
from collections.abc import Sequence

MOVED = {
    "experiments.benchmarks.growth": (
        "python -m experiments.perf.benchmark --workload=step --vary=group_size=4,8,16"
    ),
    "experiments.benchmarks.head": "python -m experiments.perf.benchmark --workload=head",
    "experiments.benchmarks.profile": "python -m experiments.run with --config.profile.steps=20",
    "experiments.benchmarks.run": "python -m experiments.perf.benchmark",
    "experiments.claims": "notebooks/04_replication.ipynb",
    "experiments.gallery": "notebooks/01_decomposition.ipynb and docs/advantages.md",
    "experiments.models.fetch_smollm2": "python -m experiments.models.smollm2",
    "experiments.plan": "python -m experiments.perf.plan",
    "experiments.results": "python -m experiments.report, which writes results.csv of a sweep",
    "experiments.theory": "notebooks/04_replication.ipynb",
}


def exit_if_moved(arguments: Sequence[str]) -> None:
    """Exits with code 2 and one line on stderr if `python -m` is given a command in `MOVED`.

    Args:
      arguments: sys.orig_argv.
    """
    module = arguments[arguments.index("-m") + 1] if "-m" in arguments else ""
    if module in MOVED:
        print(f"error: {module} is replaced by {MOVED[module]}", file=sys.stderr)
        sys.exit(2)
