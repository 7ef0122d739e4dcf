"""The table of a sweep, results.csv: the status of each run, and a row for each evaluation.

The counts of every prompt lie in runs/NAME/evaluations/STEP.npz (num_correct [M], num_samples): all
runs and steps have the same prompts, so that runs can be compared prompt by prompt.
Below: metric_writer. Above: sweep, report.
"""

import csv
from pathlib import Path
from typing import Any

from experiments.config import ConfigError, leaves, read_object, shown
from experiments.grid import check_runs, method_of_run
from experiments.metric_writer import read_lines, replacing

ERROR = "error.txt"  # in the directory of a run that failed: why


def sweep_runs(workdir: Path) -> dict[str, dict]:
    """Reads the overrides of each run, by name, from sweep.json.

    Raises:
      FileNotFoundError: if there is no sweep.json in `workdir`.
      ConfigError: if it is damaged.
    """
    path = workdir / "sweep.json"
    if not path.exists():
        raise FileNotFoundError(f"there is no sweep in {workdir}: {path} is missing")
    runs: Any = read_object(path).get("runs")
    try:
        named = {run["name"]: run.get("overrides", {}) for run in runs}
        check_runs(named)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} is damaged: runs must be a list of objects with name and overrides,"
            f" got {shown(runs)}"
        ) from error
    return named


def write_results(workdir: Path) -> Path:
    """Writes results.csv from sweep.json and the files of the runs, whichever host made them.

    Its columns: run, method (the run without its seed), one for each field that some run of the
    sweep overrides, status, reason, step, and what an evaluation logs: pass@k with its 95% interval
    over the prompts, entropy in nats, length in tokens. A run that does not override a field has
    the value of its config there; a field that its config lacks is empty. The status is finished,
    unfinished, failed or not started, and the reason says why a run is not finished. A run without
    an evaluation has one row.

    Args:
      workdir: of the sweep.

    Returns:
      The path of the table; the file is either the old one or the whole new one.

    Raises:
      FileNotFoundError: if there is no sweep.json in `workdir`.
      ConfigError: if it is damaged.
    """
    runs = sweep_runs(workdir)
    fields = dict.fromkeys(field for overrides in runs.values() for field, _ in leaves(overrides))
    rows = []
    for name, overrides in runs.items():
        directory = workdir / "runs" / name
        config, lines = dict(leaves(overrides)), read_lines(directory / "metrics.jsonl")
        try:
            if (directory / "config.json").exists():
                config = dict(leaves(read_object(directory / "config.json")))
            status, reason = _status(directory, config.get("steps"), lines)
        except ConfigError as error:  # of a damaged file
            status, reason = "failed", str(error)
        method = method_of_run(name) or config.get("advantage.name", name)
        row = {"run": name, "method": method} | {field: config.get(field) for field in fields}
        row |= {"status": status, "reason": reason}
        evaluations = [line for line in lines if "eval/seconds" in line]
        for line in evaluations:
            figures = {k[5:]: v for k, v in line.items() if k.startswith("eval/")}
            del figures["seconds"]
            rows.append(row | {"step": line["step"]} | figures)
        if not evaluations:
            rows.append(row | {"step": None})
    table = workdir / "results.csv"
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with replacing(table) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return table


def write_failure(directory: Path, text: str) -> None:
    """Writes why a run failed: one line, and what is below it, into error.txt."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ERROR).write_text(text + "\n", encoding="utf-8")


def _status(directory: Path, steps: object, lines: list[dict]) -> tuple[str, str]:
    """The status of a run and the reason, in one line."""
    result = directory / "result.json"
    if result.exists() and read_object(result).get("step") == steps:
        return "finished", ""
    if (directory / ERROR).exists():
        text = (directory / ERROR).read_text(encoding="utf-8", errors="replace")
        return "failed", (text.splitlines() or ["unknown"])[0]
    if not (directory / "config.json").exists():
        return "not started", "it has not begun"
    done = max((line["step"] for line in lines), default=0)
    return "unfinished", f"{done} of {steps} steps are logged"
