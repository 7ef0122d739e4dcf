"""The prediction from h beside what was measured, where both are there."""

import csv
from collections.abc import Mapping
from pathlib import Path

from experiments.claims.finding import NOT_RUN, UNDECIDED
from experiments.report.page import Section, Text
from experiments.report.picture import Picture
from experiments.report.table import Table
from experiments.theory.__main__ import write_comparison

_PICTURE = "prediction_and_measurement"
_WHEN = {
    "core": "From h and the solve rates before training, the order of the methods was predicted "
    "before the core sweep ran (prediction.md, kept as it was).",
    "methods": "The same model, as it was fixed before the core sweep, for every method. It was "
    "computed when the runs were there; nothing in it comes from them but the solve rates before "
    "training (methods/prediction.md).",
}
_FOLDERS = {"core": "", "methods": "methods"}


def section(sweep: str, data: Path, out: Path) -> list[Section]:
    """Writes the comparison of experiments.theory, and says what came of it.

    Args:
      sweep: core or methods.
      data: directory of the tidy sweeps.
      out: of the page; the folder of the sweep in it has prediction.csv, and gets the comparison.
    """
    title = f"Prediction from h, and measurement: sweep {sweep}"
    results, folder = data / sweep / "evaluations.csv", out / _FOLDERS[sweep]
    if not (folder / "prediction.csv").exists() or not results.exists():
        text = f"Needs prediction.csv in {folder}, and the sweep."
        return [Section(title, Text((f"{NOT_RUN}: {text}",)))]
    try:
        write_comparison(results, folder)
    except ValueError as error:
        return [Section(title, Text((f"{NOT_RUN}: {error}.",)))]
    with (folder / "order.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    intro = (
        "On-policy the expected gradient of a prompt depends on the advantage through h(p) alone. "
        f"{_WHEN[sweep]} The prediction is right about an order if Kendall's τ between predicted "
        "and measured values has a 95% interval over seeds above 0, wrong if it lies below 0, and "
        "undecided otherwise."
    )
    table = Table(
        ("pass@1", "predicted order", "measured order", "Kendall's τ", "verdict"),
        tuple(
            (
                f"{100 * float(row['level']):g}%",
                row["predicted"],
                row["measured"],
                f"{float(row['kendall_tau']):+.2f} [{float(row['low']):+.2f}, "
                f"{float(row['high']):+.2f}], {row['methods']} methods",
                _verdict(row),
            )
            for row in rows
        ),
        "Each row compares the methods that reach the level of pass@1 in the first column, by "
        "those of their runs that do; an interval without width is that of single runs, and "
        "undecided. solved_share is the predicted share of the gradient that goes to solved "
        "prompts: less of it should keep more pass@100. `comparison.csv` has every value.",
        figures=False,
    )
    caption = (
        "At each method's first crossing of the lower level: predicted across, measured up. "
        "Circles: mean over the seeds; points: each seed. A prediction that is right rises to "
        "the right, in the last panel falls."
    )
    # Drawn by write_comparison; only its name and caption are needed here.
    name = str(Path(_FOLDERS[sweep]) / _PICTURE)
    picture = Picture(name, title, caption, ())
    return [Section(title, Text((intro,))), Section("", table), Section("", picture)]


def _verdict(row: Mapping[str, str]) -> str:
    low, high = float(row["low"]), float(row["high"])
    if low == high:  # one run of each method, or so: nothing was drawn again
        return UNDECIDED
    return "right" if low > 0 else "wrong" if high < 0 else UNDECIDED
