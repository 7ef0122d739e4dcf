"""The main table: one row per method, its figures at the end with 95% intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.report.aggregate import final_estimate, start_estimate
from experiments.report.intervals import Estimate
from experiments.report.runs import Run, by_method, furthest, load_runs, pass_ks, series, setting

ENTROPY = "eval/entropy"
_WIDEST = 60  # cells are padded up to here: a column of long texts is not one to read in a terminal


@dataclass(frozen=True)
class Table:
    """Cells as text, and the caption that says what they are."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    figures: bool = True  # after the first column, to be set to the right


def main_table(workdir: Path | str) -> str:
    """The main table of a workdir and its caption, as Markdown that is readable in a terminal.

    Args:
      workdir: of one run or of a sweep, finished or not.

    Returns:
      The text, without a newline at its end.

    Raises:
      FileNotFoundError: no metrics there.
    """
    table = results_table(load_runs(Path(workdir)))
    return f"{as_markdown(table)}\n\n{table.caption}"


def results_table(runs: Sequence[Run]) -> Table:
    """The main table of some runs.

    Args:
      runs: of one sweep; runs without metrics are left out.

    Returns:
      A row before training, where it was evaluated, then a row for each method.
    """
    methods = by_method([run for run in runs if run.train or run.evaluations])
    keys = [f"eval/pass@{k}" for k in pass_ks(runs)]
    head = ("method", "seeds", *(f"{key[5:]}, %" for key in keys), "entropy, nats", "steps", "min")
    rows = []
    start = [start_estimate(runs, key) for key in (*keys, ENTROPY)]
    if any(start):
        cells = [_percent(x) for x in start[:-1]]
        rows.append(("before training", "", *cells, _nats(start[-1]), "0", ""))
    for method, members in methods.items():
        counted = furthest(members)
        seeds = f"{len(counted)}" + (f" of {len(members)}" if len(members) > len(counted) else "")
        cells = [_percent(final_estimate(members, key)) for key in keys]
        entropy = _nats(final_estimate(members, ENTROPY))
        rows.append((method, seeds, *cells, entropy, _steps(counted[0]), _minutes(counted)))
    return Table(head, tuple(rows), _caption(methods, runs))


def as_markdown(table: Table) -> str:
    """The rows as a Markdown table with aligned columns."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (table.head, *table.rows)]
    widths = [min(max(map(len, column)), _WIDEST) for column in zip(*lines)]
    right = [bool(i) and table.figures for i in range(len(widths))]
    rule = "|".join("-" * (width + 1) + (":" if r else "-") for r, width in zip(right, widths))
    rows = (
        [
            cell.rjust(width) if r else cell.ljust(width)
            for cell, r, width in zip(line, right, widths)
        ]
        for line in lines
    )
    text = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([text[0], f"|{rule}|", *text[1:]])


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    value, low, high = (100 * x for x in estimate[:3])
    if math.isnan(low):
        return f"{value:.1f}"
    return f"{value:.1f} [{max(low, 0):.1f}, {min(high, 100):.1f}]"


def _nats(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    value, low, high = estimate[:3]
    return f"{value:.2f}" + ("" if math.isnan(low) else f" [{max(low, 0):.2f}, {high:.2f}]")


def _steps(run: Run) -> str:
    planned = setting(run.config, "steps", run.last_step)
    return f"{run.last_step}" + ("" if run.last_step >= planned else f" of {planned}")


def _minutes(runs: Sequence[Run]) -> str:
    """Mean time per step of the logged lines, times the steps: lines need not be every step."""
    totals = [
        seconds.mean() * run.last_step / 60
        for run in runs
        if len(seconds := series(run.train, "step_seconds")[1])
    ]
    return f"{sum(totals) / len(totals):.1f}" if totals else "–"


def _caption(methods: dict[str, list[Run]], runs: Sequence[Run]) -> str:
    counts = {len(furthest(members)) for members in methods.values()}
    over_problems = "over the held-out problems"
    over_seeds = "of the mean over seeds (t-interval)"
    if counts == {1}:
        interval = over_problems
    elif 1 not in counts:
        interval = f"{over_seeds}, except before training: {over_problems}"
    else:
        interval = f"{over_seeds}, or, of one seed alone, {over_problems}"
    text = (
        f"Last held-out evaluation of each method; in brackets the 95% interval {interval}. "
        "Entropy: mean over the sampled tokens of that evaluation. "
        "min: training time of one run in minutes, without evaluation."
    )
    early = [
        f"{run.name} (step {run.last_step})"
        for members in methods.values()
        for run in members
        if run.last_step < furthest(members)[0].last_step
    ]
    if early:
        text += f" Left out of the means, because they stopped early: {', '.join(early)}."
    waiting = [run.name for run in runs if not (run.train or run.evaluations)]
    if waiting:
        text += f" Not started: {', '.join(waiting)}."
    return text
