"""The pass@1 at which methods are compared where they have learnt equally much."""

from collections.abc import Sequence

import numpy as np

from experiments.claims.sweep_data import SweepData
from experiments.report.runs import setting

# docs/replication/prediction.md fixed both before the runs: halfway from the start to 60%, and 50%.
GRAPH = (0.353, 0.5)
_STEP = 0.05


def matched_levels(data: SweepData, methods: Sequence[str]) -> tuple[float, ...]:
    """Levels of pass@1 for some methods of a sweep.

    Args:
      data: the sweep.
      methods: to be compared.

    Returns:
      On the graph task those that were fixed before its runs. Elsewhere the largest multiple of
      5% that every finished run of these methods reaches and none begins at, or NaN.
    """
    runs = [run for method in methods for run in data.methods[method].values()]
    if setting(runs[0].config, "task.name") == "graph":
        return GRAPH
    rates = [
        [counts[step].mean() / data.num_samples for step in sorted(counts)]
        for counts in (data.counts[run.name] for run in runs)
    ]
    level = np.floor(min(max(curve) for curve in rates) / _STEP + 1e-9) * _STEP
    return (float(level) if level > max(curve[0] for curve in rates) else float("nan"),)
