"""The command of the theory: `predict` before the runs of a sweep, `compare` after them.

python -m experiments.theory predict --workdir=DIR --config=configs/sweeps/core.py --out=DIR
python -m experiments.theory compare --results=results.csv --out=DIR

`predict` reads the counts before training from the workdir of a sweep of the same warm start, and
writes prediction.csv, prediction_curves.csv and prediction.png. `compare` reads prediction.csv as
it lies there, and writes comparison.csv, order.csv and prediction_and_measurement.png.
"""

import argparse
import sys
from pathlib import Path

from experiments.report.picture import to_png
from experiments.report.runs import Run
from experiments.report.style import method_lines
from experiments.theory.comparison import compare, read_prediction, read_results
from experiments.theory.pictures import comparison_picture, prediction_picture
from experiments.theory.prediction import (
    ANCHOR,
    curve_rows,
    levels_of,
    predict,
    prediction_table,
    step_size,
    write_rows,
)
from experiments.theory.start import read_counts, read_sweep, start_from_counts


def write_prediction(workdir: Path, sweep: Path, out: Path, steps: int) -> None:
    """Writes the prediction and what it was made from."""
    counts, samples, digest = read_counts(workdir)
    methods, group_size = read_sweep(sweep)
    start = start_from_counts(counts, samples)
    size = step_size(start, group_size)
    paths = predict(methods, start, group_size, size=size, steps=steps)
    inputs = {
        "sweep": sweep.name,
        "group_size": group_size,
        "prompts": len(counts),
        "samples": samples,
        "counts_sha256": digest,
        "prior_a": round(start.prior.a, 4),
        "prior_b": round(start.prior.b, 4),
        "anchor": "{} {} {}".format(*ANCHOR),
        "step_size": round(size, 6),
    }
    out.mkdir(parents=True, exist_ok=True)
    table = prediction_table(paths, levels_of(paths))
    write_rows([row | inputs for row in table], out / "prediction.csv")
    write_rows(curve_rows(paths), out / "prediction_curves.csv")
    picture = prediction_picture(paths, _lines({m: a[0] for m, a in methods.items()}))
    (out / "prediction.png").write_bytes(to_png(picture, columns=2))


def write_comparison(results: Path, out: Path) -> None:
    """Writes the measured beside the predicted, and how far their orders agree."""
    predicted = read_prediction(out / "prediction.csv")
    rows, orders = compare(predicted, read_results(results))
    flat = [{k: v for k, v in row.items() if not k.startswith("seeds_")} for row in rows]
    write_rows(flat, out / "comparison.csv")
    write_rows(orders, out / "order.csv")
    lines = _lines({row["method"]: row["method"] for row in rows})
    picture = comparison_picture(rows, rows[0]["level"], lines)
    (out / "prediction_and_measurement.png").write_bytes(to_png(picture, columns=3))


def _lines(advantages):
    """The usual lines of a report, for methods that have no runs yet."""
    runs = [
        Run(method, method, {"advantage": {"name": name}}, (), (), None)
        for method, name in advantages.items()
    ]
    return method_lines(runs)


def main(arguments: list[str] | None = None) -> None:
    """Reads the command."""
    parser = argparse.ArgumentParser(prog="python -m experiments.theory", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    before = commands.add_parser("predict")
    before.add_argument("--workdir", type=Path, required=True, help="of a sweep of the warm start")
    before.add_argument("--config", type=Path, help="of the sweep to predict (default: workdir)")
    before.add_argument("--steps", type=int, default=1000, help="of the model")
    after = commands.add_parser("compare")
    after.add_argument("--results", type=Path, required=True, help="results.csv of the sweep")
    for command in (before, after):
        command.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        if options.command == "predict":
            sweep = options.config or options.workdir
            write_prediction(options.workdir, sweep, options.out, options.steps)
        else:
            write_comparison(options.results, options.out)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(options.out)


if __name__ == "__main__":
    main()
