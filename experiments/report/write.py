"""From a workdir to the files of its report."""

from pathlib import Path

from experiments.report import describe, page
from experiments.report.picture import to_png
from experiments.report.pictures.dynamics import entropies, schedules, signal
from experiments.report.pictures.learning import overview, pass_rates
from experiments.report.pictures.masses import masses
from experiments.report.pictures.solve_rates import solve_rates
from experiments.report.pictures.tradeoff import tradeoff
from experiments.report.runs import load_runs
from experiments.report.table import results_table

_OVERVIEW_INCHES = (12.0, 3.5)
_PICTURES = (pass_rates, tradeoff, entropies, schedules, signal, masses, solve_rates)


def write_report(workdir: Path | str, out: Path | str | None = None) -> Path:
    """Writes report.md, report.html and the pictures of a run or a sweep, finished or not.

    The Markdown page shows the PNG files; the HTML page is one file that needs nothing else.

    Args:
      workdir: of one run (metrics.jsonl) or of a sweep (sweep.json, runs/).
      out: directory of the files, made where it is missing; WORKDIR/report by default.

    Returns:
      The path of report.html.

    Raises:
      FileNotFoundError: no metrics in the workdir.
    """
    workdir = Path(workdir)
    every_run = load_runs(workdir)
    runs = [run for run in every_run if run.train or run.evaluations]
    out = workdir / "report" if out is None else Path(out)
    out.mkdir(parents=True, exist_ok=True)
    glance = overview(runs)
    if glance is not None:
        image = to_png(glance, columns=len(glance.panels), inches=_OVERVIEW_INCHES)
        (out / "overview.png").write_bytes(image)
    pictures = tuple(found for draw in _PICTURES if (found := draw(runs)) is not None)
    for picture in pictures:
        (out / f"{picture.name}.png").write_bytes(to_png(picture))
    content = page.Page(
        title=describe.title(every_run),
        lead=describe.what_was_run(every_run),
        sections=(
            page.Section("Results", results_table(every_run)),
            *(page.Section(picture.title, picture) for picture in pictures),
            page.Section("Methods", describe.methods_table(every_run)),
            page.Section("Runs", describe.runs_table(every_run)),
        ),
        command=f"python -m experiments.report --workdir={workdir} --out={out}",
    )
    (out / "report.md").write_text(page.markdown(content), encoding="utf-8")
    path = out / "report.html"
    path.write_text(page.html(content), encoding="utf-8")
    return path
