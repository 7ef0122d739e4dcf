"""One tidy table of a sweep: a row for each evaluation of each run.

    python -m experiments.results --workdir=DIR

writes DIR/results.csv again from the runs that are there, whichever host they were made on. The
counts of every prompt lie in runs/NAME/evaluations/STEP.npz (num_correct [M], num_samples): all
runs and steps have the same prompts, so that runs can be compared prompt by prompt.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import pandas as pd

from experiments.config import leaves
from experiments.metric_writer import replacing
from experiments.report.runs import load_runs


def write_results(workdir: Path) -> Path:
    """Writes results.csv from sweep.json and the logs of the runs.

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
    sweep = json.loads(path.read_text())["runs"]
    fields = list(dict.fromkeys(f for run in sweep for f, _ in leaves(run["overrides"])))
    rows = []
    for run in load_runs(workdir):  # in the order of the sweep
        config = dict(leaves(run.config))
        own = {"run": run.name, "method": run.method} | {f: config.get(f) for f in fields}
        evaluations = run.evaluations.drop(columns="eval/seconds", errors="ignore")
        evaluations = evaluations.rename(columns=lambda key: key.removeprefix("eval/"))
        for step, figures in evaluations.to_dict("index").items():
            logged = {key: value for key, value in figures.items() if pd.notna(value)}
            rows.append(own | {"step": step} | logged)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = workdir / "results.csv"
    with replacing(table) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return table


def main(arguments: list[str] | None = None) -> None:
    """Writes the table and says where it is."""
    parser = argparse.ArgumentParser(prog="python -m experiments.results", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="of a sweep")
    try:
        print(write_results(parser.parse_args(arguments).workdir))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
