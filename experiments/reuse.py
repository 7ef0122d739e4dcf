"""Finished runs of other sweeps, taken over where a sweep has the same run: the same config."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from experiments.config import FREE_TO_CHANGE, ConfigError, differences, with_added_fields
from experiments.jobs import Job
from experiments.metric_writer import plain_tree
from experiments.train import finished_result


def take_over(jobs: Sequence[Job], directory: Path) -> list[str]:
    """Copies finished runs from the sweeps in a directory into the runs that are still to be made.

    A run is the same if its config is, but for where things lie and how the sweep is run; its
    checkpoints are copied too.

    Args:
      jobs: of a sweep, from experiments.jobs.jobs_of.
      directory: of workdirs of sweeps; this sweep's own may be among them.

    Returns:
      The names of the runs that were copied.

    Raises:
      ConfigError: if the directory holds no finished run.
    """
    finished = [result.parent for result in sorted(directory.glob("*/runs/*/result.json"))]
    if not finished:
        raise ConfigError(
            f"config.sweep.reuse must be a directory of sweeps with finished runs"
            f" (DIR/SWEEP/runs/NAME/result.json), got {str(directory)!r}"
        )
    found = [(path, json.loads((path / "config.json").read_text())) for path in finished]
    taken = []
    for job in jobs:
        if not job.trains or job.directory.exists():
            continue
        own = json.loads(json.dumps(plain_tree(job.config.to_dict())))
        for path, config in found:
            changed = differences(with_added_fields(config, own), own)
            changed = [d for d in changed if not d.startswith(FREE_TO_CHANGE)]
            if not changed and finished_result(job.config, path) is not None:
                _copy(path, job.directory)
                taken.append(job.name)
                break
    return taken


def _copy(old: Path, new: Path) -> None:
    """Copies a run so that `new` is there whole or not at all."""
    part = new.with_name(f"{new.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(old, part)
    part.rename(new)
