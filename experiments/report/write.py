"""Writes the report of a run or a sweep: tables, figures and samples as Markdown and HTML.

Top of the report: reads with `runs.py`, tabulates with `tables.py`, plots with `plots.py` and
`method_plots.py`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import matplotlib
import pandas as pd

from experiments import figures
from experiments.report import method_plots, plots, tables
from experiments.report.runs import Run, by_method, load_runs
from experiments.report.samples import RunSamples, markdown_samples, samples_of_methods

_FIGURES = (  # name of its files, title of its section, function, why it is not there
    ("overview", "Overview", plots.overview, "Nothing was logged that it shows."),
    (
        "differences",
        "Differences between methods",
        method_plots.paired,
        "They need two methods that were evaluated at the same last step with a common seed.",
    ),
    ("pass_at_k", "pass@k", plots.pass_rates, "No evaluation was logged."),
    (
        "pass_at_k_tokens",
        "pass@k over tokens",
        plots.pass_rates_over_tokens,
        "No evaluation was logged, or no lengths of completions.",
    ),
    (
        "tradeoff",
        "pass@1 against pass@k",
        method_plots.tradeoff,
        "No evaluation of pass@1 and of another pass@k was logged.",
    ),
    ("entropy", "Token entropy", plots.entropies, "No training step was logged."),
    (
        "kl",
        "KL to the start",
        plots.divergence,
        "Not measured: config.learner.kl.measured = True logs it where there is no KL term.",
    ),
    ("alpha_delta", "α and δ", plots.schedules, "No method here has an α or a δ."),
    (
        "training",
        "Training signal and update",
        plots.training,
        "No training step was logged.",
    ),
    ("lengths", "Length and truncation", plots.lengths, "No lengths were logged."),
    (
        "outcomes",
        "What became of the completions",
        method_plots.outcomes,
        "The task is verified on the device, or its checks tell no reasons.",
    ),
    (
        "masses",
        "Gradient masses",
        method_plots.masses,
        "No advantage here is a function of one group's rewards, and no masses were logged.",
    ),
    (
        "solve_rates",
        "Solve rates over training",
        method_plots.solve_rates,
        "No training step was logged, or its prompts could not be counted by their solve rate.",
    ),
)
_COMPLETIONS = (
    "Of one run of each method: the completions with the largest and the smallest reward of some "
    "held-out prompts, at the first and the last evaluation. All that were kept are in "
    "samples/STEP.jsonl of the run."
)
_NO_COMPLETIONS = (
    "None were kept: evaluations of tasks on text keep those of config.evaluation.shown_prompts "
    "prompts."
)
_SIGNAL = (
    "Steps without signal: those in which all rollouts of every prompt had one reward, so that an "
    "advantage that is centered by group is 0."
)


_WIDE = ("results", "completions", "methods", "environment", "runs")  # have the page's whole width


class Picture(NamedTuple):
    """Width and height of a figure's PNG, in pixels, for a page and for one column."""

    wide: tuple[int, int]
    narrow: tuple[int, int]


class Section(NamedTuple):
    """A part of the report; one without table, picture and samples says why.

    Attributes:
      name: of its files and its anchor.
      title: above it.
      caption: below it.
      table: shown as text.
      picture: of NAME.png, NAME.pdf and narrow/NAME.png.
      samples: completions.
      data: whether data/NAME.csv has its numbers.
    """

    name: str
    title: str
    caption: str
    table: pd.DataFrame | None = None
    picture: Picture | None = None
    samples: Sequence[RunSamples] = ()
    data: bool = False


def write_report(workdir: Path | str, out: Path | str | None = None) -> Path:
    """Writes report.md and index.html, the PNG, PDF and CSV files of both.

    Args:
      workdir: of one run (metrics.jsonl) or of a sweep (sweep.json, runs/), finished or not.
      out: directory to write to; WORKDIR/report by default. Gets NAME.png (200 dots per inch) and
        NAME.pdf of each figure at the width of a page, narrow/NAME.png for a phone, and its numbers
        in data/NAME.csv.

    Returns:
      The path of index.html.

    Raises:
      FileNotFoundError: if no run in the workdir has logged a line.
    """
    workdir = Path(workdir).expanduser()
    runs = load_runs(workdir)
    started = [run for run in runs if run.started]
    out = workdir / "report" if out is None else Path(out).expanduser()
    for folder in (out / "narrow", out / "data"):
        folder.mkdir(parents=True, exist_ok=True)
    samples = samples_of_methods(started)
    digest = "parameters: first 16 digits of the SHA-256 of the final parameters."
    sections = [
        _results(runs, out),
        *_figures(started, out),
        Section(
            "completions",
            "Completions",
            _COMPLETIONS if samples else _NO_COMPLETIONS,
            samples=samples,
        ),
        *(
            _table(out, *section)
            for section in (
                (
                    "methods",
                    "Methods and where their configs differ",
                    "All other settings are equal.",
                    tables.methods_table(runs),
                ),
                (
                    "setup",
                    "Setup",
                    "Values separated by / differ between runs.",
                    tables.setup_table(runs),
                ),
                ("environment", "Commit, versions and devices", *_environment(runs)),
                ("runs", "Runs", digest, tables.runs_table(runs)),
            )
        ),
    ]
    methods = list(by_method(runs))
    names = ", ".join(methods) if len(methods) <= 4 else f"{len(methods)} methods"
    page = {
        "title": f"{names} on the {tables.values_of(runs, 'task.name') or '?'} task",
        "notices": tables.notices(runs),
        "key_figures": tables.key_figures(runs),
        "sections": sections,
        "command": f"python -m experiments.report --workdir={workdir} --out={out}",
    }
    (out / "report.md").write_text(_markdown(**page), encoding="utf-8")
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("report.html.j2")
    (out / "index.html").write_text(template.render(**page, wide=_WIDE), encoding="utf-8")
    return out / "index.html"


def main_table(workdir: Path | str) -> str:
    """Returns the main table of a workdir and its caption as Markdown.

    Args:
      workdir: of one run or of a sweep, finished or not.

    Raises:
      FileNotFoundError: if no run in the workdir has logged a line.
    """
    runs = load_runs(workdir)
    results = tables.results_table(runs)
    return f"{_markdown_table(results, right=True)}\n\n{tables.results_caption(runs, results)}"


def _results(runs: Sequence[Run], out: Path) -> Section:
    results = tables.results_table(runs)
    caption = tables.results_caption(runs, results)
    tables.results_numbers(runs).to_csv(out / "data" / "results.csv", index=False)
    return Section("results", "Results", caption, results, data=True)


def _figures(runs: Sequence[Run], out: Path) -> list[Section]:
    """Draws every figure, at the width of a page and of a column, and writes its numbers."""
    sections = []
    beside = {"differences": tables.differences_table, "training": tables.signal_table}
    with matplotlib.rc_context(figures.STYLE):
        for name, title, function, missing in _FIGURES:
            plot = function(runs)
            if plot is None:
                sections.append(Section(name, title, missing))
                continue
            sizes, marks = [], ""
            for narrow, folder in ((False, out), (True, out / "narrow")):
                figure = plot.draw(narrow)
                figures.save(figure, folder / name, pdf=not narrow)
                marks = marks or figures.describe_marks(figure)
                dpi = matplotlib.rcParams["savefig.dpi"]
                sizes.append(
                    (round(figure.get_figwidth() * dpi), round(figure.get_figheight() * dpi))
                )
            plot.data.to_csv(out / "data" / f"{name}.csv", index=False)
            table = beside[name](runs) if name in beside else None
            caption = plot.caption + marks + (f" {_SIGNAL}" if name == "training" else "")
            section = Section(name, title, caption, table, Picture(*sizes), data=True)
            sections.append(section)
    return sections


def _table(out: Path, name: str, title: str, caption: str, table: pd.DataFrame) -> Section:
    if table.empty:
        return Section(name, title, caption)
    table.to_csv(out / "data" / f"{name}.csv", index=False)
    return Section(name, title, caption, table, data=True)


def _environment(runs: Sequence[Run]) -> tuple[str, pd.DataFrame]:
    table = tables.environment_table(runs)
    unknown = [run.name for run in runs if run.started and not run.sessions]
    caption = (
        "As each process that trained a run wrote them into its environment.json; commit: – outside"
        " a clone."
    )
    if table.empty:
        caption = "The runs have not recorded them."
    elif unknown:
        caption += f" Not recorded by {', '.join(unknown)}."
    return caption, table


def _markdown(title, notices, key_figures, sections: Sequence[Section], command: str) -> str:
    parts = [f"# {title}", *(f"**{notice}**" for notice in notices)]
    key = pd.DataFrame([(x.name, x.value, x.note) for x in key_figures])
    if not key.empty:
        key.columns = pd.Index(["key figure", "value", "of"])
        parts.append(_markdown_table(key, right=False))
    parts.append("\n".join(f"- [{x.title}](#{_slug(x.title)})" for x in sections))
    for section in sections:
        parts.append(f"## {section.title}")
        if section.picture:
            parts.append(f"![{section.title}]({section.name}.png)")
        if section.table is not None:
            numbers = section.name in ("results", "differences", "training")
            parts.append(_markdown_table(section.table, right=numbers))
        if section.samples:
            parts.append(markdown_samples(section.samples))
        files = [f"[PDF]({section.name}.pdf)"] if section.picture else []
        files += [f"[CSV](data/{section.name}.csv)"] if section.data else []
        parts += [section.caption, *([", ".join(files)] if files else [])]
    return "\n\n".join([*parts, f"Written by `{command}`."]) + "\n"


def _slug(title: str) -> str:
    """Returns the anchor that Markdown readers give to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _markdown_table(table: pd.DataFrame, right: bool) -> str:
    """Formats a table of strings; `right` aligns all columns but the first to the right."""
    aligned = ["left", *["right" if right else "left"] * (table.shape[1] - 1)]
    return table.to_markdown(index=False, disable_numparse=True, colalign=aligned)
