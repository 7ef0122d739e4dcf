"""A sweep in memory: its runs with thinned curves, and the counts of every held-out prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from experiments.report.runs import Run, by_method, pass_ks, setting

POINTS = 20  # of a thinned training curve
CURVES = (
    "entropy",
    "alpha",
    "delta",
    "mass_success",
    "mass_failure",
    "sign_ratio",
    "rank_one_fraction",
)
HISTOGRAM = "solve_rate_histogram"
_AT_START = ("step", "alpha", "delta")  # these begin with a jump, which a mean would hide


@dataclass(frozen=True, eq=False)
class SweepData:
    """What the page needs of one sweep.

    Attributes:
      name: of the sweep, that of its config file.
      runs: as planned; one that did not finish has its name and method, and no lines.
      counts: by run and step the correct samples of each held-out prompt, int `[prompts]`.
      num_samples: of each prompt.
    """

    name: str
    runs: tuple[Run, ...]
    counts: dict[str, dict[int, np.ndarray]]
    num_samples: int

    @cached_property
    def finished(self) -> tuple[Run, ...]:
        """The runs that reached their end."""
        return tuple(run for run in self.runs if run.result is not None)

    @cached_property
    def methods(self) -> dict[str, dict[int, Run]]:
        """By method, in the order of the sweep, the finished runs by seed; planned ones too."""
        found = {method: {} for method in by_method(self.runs)}
        for run in sorted(self.finished, key=seed_of):
            found[run.method][seed_of(run)] = run
        return found

    @cached_property
    def ks(self) -> list[int]:
        """The k of the pass@k that were evaluated, ascending."""
        return pass_ks(self.finished)

    def seeds(self, methods: Sequence[str]) -> list[int]:
        """The seeds that every one of these methods has finished, ascending."""
        sets = [set(self.methods.get(method, {})) for method in methods]
        return sorted(set.intersection(*sets)) if sets else []


def seed_of(run: Run) -> int:
    """The seed of a finished run."""
    return int(setting(run.config, "seed", 0))


def thin(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `POINTS` lines: means of equal parts, and before them alpha and delta at the start.

    Args:
      lines: of the training part of metrics.jsonl, in the order of their steps.

    Returns:
      lines with `step` (of a part, its middle), the `CURVES` that are there, to three digits, and
      the sum of the solve-rate histograms.
    """
    parts = np.array_split(np.arange(len(lines)), min(POINTS - 1, len(lines)) or 1)
    means = [_mean_line([lines[i] for i in part]) for part in parts if len(part)]
    start = _mean_line([{k: v for k, v in lines[0].items() if k in _AT_START}]) if lines else {}
    return [start, *means] if len(start) > 1 and len(lines) >= POINTS else means


def _mean_line(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    line: dict[str, Any] = {"step": lines[len(lines) // 2]["step"]}
    for key in CURVES:
        values = [x[key] for x in lines if x.get(key) is not None]
        if values:
            line[key] = float(f"{np.mean(values):.3g}")
    histograms = [x[HISTOGRAM] for x in lines if x.get(HISTOGRAM) is not None]
    if histograms:
        line[HISTOGRAM] = np.sum(histograms, 0).tolist()
    return line


def summary(run: Run) -> dict[str, Any]:
    """What a finished run's whole log says and its thinned curves do not.

    Returns:
      params_sha256: of the final parameters, 16 digits.
      rank_one_fraction: the last one logged; absent where none is.
      first_suppressed: the first step with delta < 1; absent where there is none.
    """
    found: dict[str, Any] = {
        "params_sha256": str((run.result or {}).get("params_sha256") or "")[:16]
    }
    ranks = [x["rank_one_fraction"] for x in run.train if x.get("rank_one_fraction") is not None]
    if ranks:
        found["rank_one_fraction"] = float(f"{ranks[-1]:.6g}")
    below = [x["step"] for x in run.train if x.get("delta") is not None and x["delta"] < 1]
    if below:
        found["first_suppressed"] = below[0]
    return found
