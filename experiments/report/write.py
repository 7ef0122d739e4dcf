"""Writes the report of a run or a sweep: its tables and figures as Markdown and HTML.

Top of the report: reads with `runs.py`, aggregates with `statistics.py`, plots with `plots.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import matplotlib
import numpy as np
import pandas as pd

from experiments.config import leaves
from experiments.report import plots
from experiments.report.runs import Run, by_method, furthest, load_runs, pass_ks, series, setting
from experiments.report.samples import RunSamples, markdown_samples, samples_of_methods
from experiments.report.statistics import (
    Estimate,
    final_estimate,
    gain,
    paired_difference,
    start_estimate,
)

_FIGURES = (  # file name, section title, function
    ("pass_at_k", "pass@k", plots.pass_rates),
    ("tradeoff", "pass@1 against pass@k", plots.tradeoff),
    ("entropy", "Token entropy", plots.entropies),
    ("alpha_delta", "α and δ", plots.schedules),
    ("training", "Training signal and update", plots.training),
    ("outcomes", "What became of the completions", plots.outcomes),
    ("masses", "Gradient masses", plots.masses),
    ("solve_rates", "Solve rates over training", plots.solve_rates),
)
_SETUP = (
    "task.name",
    "task.kwargs",
    "model.path",
    "model.num_layers",
    "model.d_model",
    "warm_start.steps",
    "steps",
    "prompts",
    "group_size",
    "sampling.temperature",
    "learner.epochs",
    "learner.minibatches",
    "optimizer.name",
    "optimizer.learning_rate",
    "evaluation.every",
    "evaluation.prompts",
    "evaluation.samples",
    "seed",
)
_COMPLETIONS = (
    "Of one run of each method: the completions with the largest and the smallest reward of some "
    "held-out prompts, at the first and the last evaluation. All that were kept are in "
    "samples/STEP.jsonl of the run."
)
# Fields that may differ between the runs of one method.
_NOT_OF_METHOD = ("seed", "warm_start.workdir", "sweep.mode", "sweep.workers")


class Section(NamedTuple):
    """A part of the report: a table, a figure by the name of its PNG file, or completions."""

    title: str
    caption: str
    table: pd.DataFrame | None = None
    png: str | None = None
    samples: Sequence[RunSamples] = ()


def write_report(workdir: Path | str, out: Path | str | None = None) -> Path:
    """Writes report.md, index.html and the PNG files of both.

    Args:
      workdir: of one run (metrics.jsonl) or of a sweep (sweep.json, runs/), finished or not.
      out: directory to write to; WORKDIR/report by default.

    Returns:
      The path of index.html.

    Raises:
      FileNotFoundError: if no run in the workdir has logged a line.
    """
    workdir = Path(workdir).expanduser()
    runs = load_runs(workdir)
    started = [run for run in runs if run.started]
    out = workdir / "report" if out is None else Path(out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    results = results_table(runs)
    sections = [Section("Results", results_caption(runs, results), results)]
    with matplotlib.rc_context(plots.STYLE):
        for name, title, plot in (("overview", "Overview", plots.overview), *_FIGURES):
            if found := plot(started):
                figure, caption = found
                figure.savefig(out / f"{name}.png")
                sections.append(Section(title, caption, png=f"{name}.png"))
    if samples := samples_of_methods(started):
        sections.append(Section("Completions", _COMPLETIONS, samples=samples))
    digest = "parameters: first 16 digits of the SHA-256 of the final parameters."
    sections += [
        Section("Methods", "All other settings are equal.", methods_table(runs)),
        Section("Setup", "Values separated by / differ between runs.", setup_table(runs)),
        Section("Runs", digest, runs_table(runs)),
    ]
    methods = list(by_method(runs))
    names = ", ".join(methods) if len(methods) <= 4 else f"{len(methods)} methods"
    title = f"{names} on the {_values(runs, 'task.name') or '?'} task"
    command = f"python -m experiments.report --workdir={workdir} --out={out}"
    (out / "report.md").write_text(_markdown(title, sections, command), encoding="utf-8")
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("report.html.j2")
    page = out / "index.html"
    html = template.render(title=title, sections=sections, command=command)
    page.write_text(html, encoding="utf-8")
    return page


def main_table(workdir: Path | str) -> str:
    """Returns the main table of a workdir and its caption as Markdown.

    Args:
      workdir: of one run or of a sweep, finished or not.

    Raises:
      FileNotFoundError: if no run in the workdir has logged a line.
    """
    runs = load_runs(workdir)
    results = results_table(runs)
    return f"{_markdown_table(results, right=True)}\n\n{results_caption(runs, results)}"


def results_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Returns the main table: a row before training, if evaluated, and a row per method."""
    keys = [f"eval/pass@{k}" for k in pass_ks(runs)]
    columns = ["method", "seeds", *(f"{key[5:]}, %" for key in keys), "entropy, nats", "steps"]
    start = [start_estimate(runs, key) for key in (*keys, "eval/entropy")]
    rows = [("before training", "", *_cells(start), "0", "")] if any(start) else []
    for method, members in by_method([run for run in runs if run.started]).items():
        counted = furthest(members)
        seeds = f"{len(counted)}" + (f" of {len(members)}" if counted != members else "")
        final = [final_estimate(members, key) for key in (*keys, "eval/entropy")]
        last = counted[0].last_step
        planned = setting(counted[0].config, "steps", last)
        steps = f"{last}" + (f" of {planned}" if last < planned else "")
        rows.append((method, seeds, *_cells(final), steps, _minutes(counted)))
    table = pd.DataFrame(rows, columns=[*columns, "training min"])
    return _with_differences(_with_failures(table, runs), runs)


def _with_failures(table: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Adds what was cut off and what could not be checked, where it is not 0 for every row."""
    for key, title, scale in (
        ("eval/truncated_fraction", "cut off, %", 100),
        ("eval/unknown", "unknown", 1),
    ):
        found = {"before training": start_estimate(runs, key)}
        for method, members in by_method([run for run in runs if run.started]).items():
            found[method] = final_estimate(members, key)
        values = {name: scale * estimate.value for name, estimate in found.items() if estimate}
        if any(values[name] for name in table["method"] if name in values):
            table[title] = [
                f"{values[name]:.1f}" if name in values else "–" for name in table["method"]
            ]
    return table


def _with_differences(table: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Adds differences at the smallest and largest k: from grpo, or the first method, and gains."""
    methods = by_method([run for run in runs if run.started])
    reference = "grpo" if "grpo" in methods else next(iter(methods))
    ks = pass_ks(runs)
    for k in dict.fromkeys(ks[:1] + ks[-1:]):
        cells = {
            method: _cell(found, 100, 1, (-100, 100), "+")
            for method, members in methods.items()
            if method != reference and (found := paired_difference(members, methods[reference], k))
        }
        if cells:
            table[f"Δ pass@{k} to {reference}"] = [cells.get(name, "–") for name in table["method"]]
        gains = {
            method: _cell(found, 100, 1, (-100, 100), "+")
            for method, members in methods.items()
            if (found := gain(members, k))
        }
        if gains:
            table[f"gain in pass@{k}"] = [gains.get(name, "–") for name in table["method"]]
    return table


def results_caption(runs: Sequence[Run], results: pd.DataFrame) -> str:
    """Returns the caption of the main table; names the runs that its means leave out."""
    caption = (
        "Last held-out evaluation of each method; in brackets the 95% interval over the held-out "
        "prompts (Wilson) and, with several seeds, over seeds (Student's t; entropy over seeds "
        "alone). Δ and gain: differences in percentage points from another method and from before "
        "training, paired by seed and prompt. "
        "entropy: mean over the sampled tokens of that evaluation. "
        "training min: minutes of one run's training steps, without evaluation."
    )
    if "cut off, %" in results:
        caption += " cut off: completions of that evaluation without an end token."
    if "unknown" in results:
        caption += " unknown: its completions that could not be checked, which count as wrong."
    methods = by_method([run for run in runs if run.started])
    early = [
        f"{run.name} (step {run.last_step})"
        for members in methods.values()
        for run in members
        if run not in furthest(members)
    ]
    if early:
        caption += f" Left out of the means because they stopped early: {', '.join(early)}."
    missing = [run.name for run in runs if not run.started]
    return caption + (f" Not started: {', '.join(missing)}." if missing else "")


def methods_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Returns a row per method: its advantage, and every other setting in which methods differ."""
    fields = {run.name: dict(leaves(run.config)) for run in runs}
    varied = [
        field
        for field in sorted({field for config in fields.values() for field in config})
        if field not in _NOT_OF_METHOD
        and not field.startswith("advantage.")
        and len({repr(fields[run.name].get(field)) for run in runs if run.config}) > 1
    ]
    rows = []
    for method, members in by_method(runs).items():
        first = members[0]
        kwargs = setting(first.config, "advantage.kwargs") or {}
        arguments = ", ".join(f"{name}={value}" for name, value in kwargs.items())
        advantage = f"{setting(first.config, 'advantage.name', '–')}({arguments})"
        seeds = ", ".join(str(setting(run.config, "seed", "–")) for run in members)
        others = (f"{field}={fields[first.name].get(field, '–')}" for field in varied)
        rows.append((method, advantage, seeds, ", ".join(others) or "–"))
    return pd.DataFrame(rows, columns=["method", "advantage", "seeds", "other settings"])


def setup_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Returns the main settings, with all values if runs differ."""
    rows = [(field, value) for field in _SETUP if (value := _values(runs, field))]
    return pd.DataFrame(rows, columns=["setting", "value"])


def runs_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Returns a row per run: its last step, its state and the hash of its final parameters."""
    rows = [
        (
            run.name,
            f"{run.last_step} of {setting(run.config, 'steps', '–')}",
            "finished" if run.finished else "unfinished" if run.last_step else "not started",
            str((run.result or {}).get("params_sha256") or "–")[:16],
        )
        for run in runs
    ]
    return pd.DataFrame(rows, columns=["run", "steps", "state", "parameters"])


def _markdown(title: str, sections: Sequence[Section], command: str) -> str:
    parts = [f"# {title}"]
    for section in sections:
        if section.table is not None:
            shown = _markdown_table(section.table, right=section.title == "Results")
        elif section.samples:
            shown = markdown_samples(section.samples)
        else:
            shown = f"![{section.title}]({section.png})"
        parts += [f"## {section.title}", shown, section.caption]
    return "\n\n".join([*parts, f"Written by `{command}`."]) + "\n"


def _markdown_table(table: pd.DataFrame, right: bool) -> str:
    """Formats a table of strings; `right` aligns all columns but the first to the right."""
    aligned = ["left", *["right" if right else "left"] * (table.shape[1] - 1)]
    return table.to_markdown(index=False, disable_numparse=True, colalign=aligned)


def _cells(estimates: Sequence[Estimate | None]) -> list[str]:
    """Formats pass@k estimates as percentages and the last one, an entropy, in nats."""
    *rates, entropy = estimates
    percent = [_cell(rate, 100, 1, (0, 100)) for rate in rates]
    return [*percent, _cell(entropy, 1, 2, (0, np.inf))]


def _cell(
    estimate: Estimate | None,
    scale: float,
    digits: int,
    limits: tuple[float, float],
    sign: str = "",
) -> str:
    if estimate is None:
        return "–"
    value, low, high = (scale * x for x in estimate[:3])
    low, high = np.maximum(low, limits[0]), np.minimum(high, limits[1])
    interval = f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    return f"{value:{sign}.{digits}f}" + ("" if np.isnan(low) else interval)


def _minutes(runs: Sequence[Run]) -> str:
    """Formats the mean logged seconds per step times the steps; lines may skip steps."""
    seconds = [(run, series(run.train, "step_seconds")) for run in runs]
    totals = [values.mean() * run.last_step / 60 for run, values in seconds if len(values)]
    return f"{np.mean(totals):.1f}" if totals else "–"


def _values(runs: Sequence[Run], field: str) -> str:
    """Formats the values of a field, each once; empty without any."""
    values = (setting(run.config, field) for run in runs)
    texts = (f"{x:g}" if isinstance(x, float) else str(x) for x in values if x not in (None, {}))
    return " / ".join(text for text in dict.fromkeys(texts) if text)
