"""Reading the workdir of a run or of a sweep, finished or not."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.metric_writer import read_lines

SEED = re.compile(r"[-_,]?seed[=_-]?\d+")
_PASS = re.compile(r"eval/pass@(\d+)")


@dataclass(frozen=True, eq=False)
class Run:
    """What one run left on disk.

    `train` and `evaluations` are the lines of metrics.jsonl, in the order of their steps.
    """

    name: str
    method: str  # the name without its seed; runs of one method differ in their seed alone
    config: dict[str, Any]
    train: tuple[dict[str, Any], ...]
    evaluations: tuple[dict[str, Any], ...]
    result: dict[str, Any] | None

    @property
    def last_step(self) -> int:
        """The number of updates logged."""
        return max((line["step"] for line in (*self.train, *self.evaluations)), default=0)

    @property
    def finished(self) -> bool:
        """Whether the run reached its end."""
        return self.result is not None or 0 < setting(self.config, "steps", 0) <= self.last_step


def setting(config: dict[str, Any], field: str, default: Any = None) -> Any:
    """The value of a dotted field of a config read from JSON, or `default`."""
    value: Any = config
    for part in field.split("."):
        if not isinstance(value, dict) or part not in value:
            return default
        value = value[part]
    return value


def series(lines: Iterable[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps and values of a key, without the lines where it is absent, null or not finite."""
    pairs = [(line["step"], line[key]) for line in lines if _is_finite_number(line.get(key))]
    steps, values = zip(*pairs) if pairs else ((), ())
    return np.asarray(steps, np.int64), np.asarray(values, np.float64)


def pass_ks(runs: Sequence[Run]) -> list[int]:
    """The k of every pass@k that some run evaluated, ascending."""
    keys = {key for run in runs for line in run.evaluations for key in line}
    return sorted(int(match[1]) for key in keys if (match := _PASS.fullmatch(key)))


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by method, in the order of the sweep."""
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(run.method, []).append(run)
    return methods


def furthest(runs: Sequence[Run]) -> list[Run]:
    """The runs that got furthest; only these are averaged, so that no mean changes its members."""
    last = max(run.last_step for run in runs)
    return [run for run in runs if run.last_step == last]


def load_runs(workdir: Path) -> list[Run]:
    """Reads every run of a workdir; runs that have not started yet have no lines.

    Args:
      workdir: of one run (metrics.jsonl) or of a sweep (sweep.json and runs/).

    Returns:
      The runs, in the order of the sweep.

    Raises:
      FileNotFoundError: no workdir, or nothing of a run in it.
    """
    workdir = Path(workdir)
    if (workdir / "metrics.jsonl").exists():
        runs = [_load_run(workdir, "")]
    else:
        listed = [run.get("name") for run in _read_json(workdir / "sweep.json").get("runs", [])]
        present = sorted(path.name for path in workdir.glob("runs/*") if path.is_dir())
        names = dict.fromkeys([name for name in listed if name] + present)
        runs = [_load_run(workdir / "runs" / name, name) for name in names]
    if not any(run.train or run.evaluations for run in runs):
        raise FileNotFoundError(
            f"no metrics in {workdir}: a run logs metrics.jsonl there, a sweep in runs/*/"
        )
    return runs


def _load_run(directory: Path, name: str) -> Run:
    config = _read_json(directory / "config.json")
    advantage = setting(config, "advantage.name", "run")
    lines = read_lines(directory / "metrics.jsonl")
    return Run(
        name=name or advantage,
        method=SEED.sub("", name) or advantage,
        config=config,
        train=_ordered(line for line in lines if not _is_evaluation(line)),
        evaluations=_ordered(line for line in lines if _is_evaluation(line)),
        result=_read_json(directory / "result.json") or None,
    )


def _is_evaluation(line: dict[str, Any]) -> bool:
    return any(key.startswith("eval/") for key in line)


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _ordered(lines: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """By step; the last line of a step wins, since a resumed run may log a step again."""
    by_step = {line["step"]: line for line in lines}
    return tuple(by_step[step] for step in sorted(by_step))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}
