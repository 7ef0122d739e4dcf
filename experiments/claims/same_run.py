"""Runs that a sweep planned and another one has made: the same config, so the same run.

On one kind of machine they are the same bits: `params_sha256` in runs.csv shows it where both made
the run.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.claims.sweep_data import SweepData
from experiments.config import default_config, leaves, with_added_fields
from experiments.report.runs import Run

# Where things lie and how a sweep is made: they make no difference to a run's result.
_NO_DIFFERENCE = ("warm_start.workdir", "checkpoint.", "sweep.", "verification.")


def made_elsewhere(
    workdir: Path,
    runs: Iterable[Run],
    known: Iterable[SweepData],
    *,
    every_evaluation: bool = False,
) -> dict[str, tuple[SweepData, Run]]:
    """Finds the unfinished runs of a sweep among the finished ones of others.

    Args:
      workdir: of the sweep.
      runs: of the sweep; one at least must be finished, as what the others share is read from it.
      known: where to look; a run is taken from the first that has it.
      every_evaluation: leave out runs of which not every evaluation's counts were kept.

    Returns:
      By name of the planned run, the sweep that has it and the run there.
    """
    finished = [run for run in runs if run.finished]
    unfinished = {run.name for run in runs if not run.finished}
    if not finished or not unfinished:
        return {}
    planned = json.loads((workdir / "sweep.json").read_text(encoding="utf-8"))["runs"]
    overridden = {field for run in planned for field in run["overrides"]}
    shared = {
        field: value
        for field, value in leaves(_of_now(finished[0].config))
        if not any(field == o or field.startswith(f"{o}.") for o in overridden)
    }
    candidates = [
        (_settings(dict(leaves(_of_now(run.config)))), data, run)
        for data in known
        for run in data.finished
        if not every_evaluation or len(data.counts[run.name]) == len(run.evaluations)
    ]
    found = {}
    for run in planned:
        if run["name"] in unfinished:
            wanted = _settings(shared | dict(_fields(run["overrides"])))
            same = [(data, other) for settings, data, other in candidates if settings == wanted]
            found |= {run["name"]: same[0]} if same else {}
    return found


def _fields(overrides: Mapping[str, Any]):
    for field, value in overrides.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{field}.")
        else:
            yield field, value


def _of_now(config: Mapping[str, Any]) -> dict[str, Any]:
    return with_added_fields(config, default_config().to_dict())


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {f: v for f, v in config.items() if not f.startswith(_NO_DIFFERENCE)}
