"""Reads the workdir of a run or of a sweep, finished or not, into pandas.

Reads what `experiments.train` and `experiments.sweep` write; `statistics.py` aggregates it.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.environment import read_sessions
from experiments.grid import method_of_run
from experiments.metric_writer import read_lines
from experiments.results import sweep_runs
from fade_jax.pass_at_k import pass_at_k

logger = logging.getLogger(__name__)

_PASS_AT_K = re.compile(r"eval/pass@(\d+)")


@dataclass(frozen=True, eq=False)
class Run:
    """Files of one run.

    Attributes:
      name: of the run in its sweep; of a single run, the name of its advantage.
      method: the name without the seed; the runs of one method differ only in their seed.
      config: from config.json, nested.
      train: the training lines of metrics.jsonl, a row per step, indexed by step.
      evaluations: the evaluation lines, likewise.
      result: from result.json; None until the run is finished.
      directory: of the files; None for a run without.
      sessions: of the processes that trained it, from environment.json; none if it has not one.
    """

    name: str
    method: str
    config: dict[str, Any]
    train: pd.DataFrame
    evaluations: pd.DataFrame
    result: dict[str, Any] | None
    directory: Path | None = None
    sessions: Sequence[Mapping[str, Any]] = ()

    @property
    def last_step(self) -> int:
        """The last step logged, 0 without any."""
        return max((0, *self.train.index, *self.evaluations.index))

    def pass_at_k(self, step: int, k: int) -> np.ndarray | None:
        """Returns pass@k of each held-out prompt at a step; None if it was not saved."""
        path = (self.directory or Path()) / "evaluations" / f"{step}.npz"
        if self.directory is None or not path.exists():
            return None
        with np.load(path) as counts:
            num_samples, num_correct = int(counts["num_samples"]), counts["num_correct"]
        return np.asarray(pass_at_k(num_samples, num_correct, k)) if k <= num_samples else None

    @property
    def started(self) -> bool:
        """Whether the run has logged a line."""
        return len(self.train) + len(self.evaluations) > 0

    @property
    def finished(self) -> bool:
        """Whether the run reached its last step."""
        return self.result is not None or 0 < setting(self.config, "steps", 0) <= self.last_step


def load_runs(workdir: Path | str) -> list[Run]:
    """Reads every run of a workdir; a run that has not started has no rows.

    Args:
      workdir: of one run (metrics.jsonl) or of a sweep (sweep.json and runs/).

    Returns:
      The runs, in the order of the sweep.

    Raises:
      FileNotFoundError: if no run in the workdir has logged a line.
      ConfigError: if sweep.json is damaged.
    """
    workdir = Path(workdir).expanduser()
    if (workdir / "metrics.jsonl").exists():
        runs = [_load_run(workdir, "")]
    else:
        listed = list(sweep_runs(workdir)) if (workdir / "sweep.json").exists() else []
        present = sorted(path.name for path in workdir.glob("runs/*") if path.is_dir())
        names = dict.fromkeys(listed + present)
        runs = [_load_run(workdir / "runs" / name, name) for name in names]
    if not any(run.started for run in runs):
        raise FileNotFoundError(
            f"no metrics in {workdir}: a run logs metrics.jsonl there, a sweep in runs/*/"
        )
    return runs


def to_frame(lines: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns lines as a DataFrame sorted by step; a repeated step keeps its last line."""
    frame = pd.DataFrame(list(lines))
    if frame.empty:
        return pd.DataFrame(index=pd.Index([], dtype=np.int64, name="step"))
    return frame.drop_duplicates("step", keep="last").set_index("step").sort_index()


def series(frame: pd.DataFrame, key: str) -> pd.Series:
    """Returns the finite values of a column by step; empty without the column."""
    if key not in frame:
        return pd.Series(index=frame.index[:0], dtype=np.float64)
    values = pd.Series(pd.to_numeric(frame[key], errors="coerce"), dtype=np.float64)
    return values.replace([np.inf, -np.inf], np.nan).dropna()


def setting(config: Mapping[str, Any], field: str, default: Any = None) -> Any:
    """Returns the value of a dotted field, or `default` (also where that alone is a number)."""
    value: Any = config
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    numbers = (int, float)
    return default if isinstance(default, numbers) and not isinstance(value, numbers) else value


def pass_ks(runs: Sequence[Run]) -> list[int]:
    """Returns the k of every pass@k that a run evaluated, ascending."""
    keys = {key for run in runs for key in run.evaluations}
    return sorted(int(match[1]) for key in keys if (match := _PASS_AT_K.fullmatch(key)))


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Groups runs by method, in the order of the sweep."""
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(run.method, []).append(run)
    return methods


def furthest(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs with the largest last step: means are over these, at every step."""
    last = max(run.last_step for run in runs)
    return [run for run in runs if run.last_step == last]


def _load_run(directory: Path, name: str) -> Run:
    config = _read_json(directory / "config.json")
    advantage = str(setting(config, "advantage.name", "run"))
    lines = read_lines(directory / "metrics.jsonl")
    return Run(
        name=name or advantage,
        method=method_of_run(name) or advantage,
        config=config,
        train=to_frame(line for line in lines if not _is_evaluation(line)),
        evaluations=to_frame(line for line in lines if _is_evaluation(line)),
        result=_read_json(directory / "result.json") or None,
        directory=directory,
        sessions=read_sessions(directory),
    )


def _is_evaluation(line: Mapping[str, Any]) -> bool:
    return any(key.startswith("eval/") for key in line)


def _read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object of a file; {} without the file, or with a warning if damaged."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        logger.warning("%s is damaged and is left out", path)
        return {}
    return content
