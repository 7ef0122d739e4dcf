"""The table of a sweep, results.csv: a row for each evaluation of each run.

The counts of every prompt lie in runs/NAME/evaluations/STEP.npz (num_correct [M], num_samples): all
runs and steps have the same prompts, so that runs can be compared prompt by prompt.
Below: metric_writer. Above: sweep, report.
"""

import csv
import json
from pathlib import Path

from experiments.config import leaves
from experiments.grid import method_of_run
from experiments.metric_writer import read_lines, replacing


def write_results(workdir: Path) -> Path:
    """Writes results.csv from sweep.json and the logs of the runs, whichever host made them.

    Its columns: run, method (the run without its seed), one for each field that some run of the
    sweep overrides, step, and what an evaluation logs: pass@k with its 95% interval over the
    prompts, entropy in nats, length in tokens. A run that does not override a field has the value
    of its config there; a field that its config lacks is empty.

    Args:
      workdir: of the sweep.

    Returns:
      The path of the table; the file is either the old one or the whole new one.

    Raises:
      FileNotFoundError: if there is no sweep.json in `workdir`, or no run has been evaluated.
    """
    path = workdir / "sweep.json"
    if not path.exists():
        raise FileNotFoundError(f"there is no sweep in {workdir}: {path} is missing")
    runs = json.loads(path.read_text())["runs"]
    fields = dict.fromkeys(field for run in runs for field, _ in leaves(run.get("overrides", {})))
    rows = []
    for run in runs:
        directory = workdir / "runs" / run["name"]
        if not (directory / "config.json").exists():
            continue
        config = dict(leaves(json.loads((directory / "config.json").read_text())))
        method = method_of_run(run["name"]) or config["advantage.name"]
        own = {"run": run["name"], "method": method}
        own |= {field: config.get(field) for field in fields}
        for line in read_lines(directory / "metrics.jsonl"):
            if "eval/seconds" in line:
                figures = {k[5:]: v for k, v in line.items() if k.startswith("eval/")}
                del figures["seconds"]
                rows.append(own | {"step": line["step"]} | figures)
    if not rows:
        raise FileNotFoundError(f"no run in {workdir} has been evaluated")
    table = workdir / "results.csv"
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with replacing(table) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return table
