"""Tables of a report, as text and as numbers, and its key figures.

Aggregates the runs of `runs.py` with `statistics.py`. Above: write.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.config import leaves
from experiments.report.runs import Run, by_method, furthest, pass_ks, series, setting
from experiments.report.statistics import (
    Estimate,
    differences,
    final_estimate,
    gain,
    paired_difference,
    reference,
    sampled_tokens,
    signal,
    start_estimate,
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
# Fields that may differ between the runs of one method.
_NOT_OF_METHOD = ("seed", "warm_start.workdir", "sweep.mode", "sweep.workers")


class KeyFigure(NamedTuple):
    """A number to see first: what it is, its value with its unit, and what it goes with."""

    name: str
    value: str
    note: str


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
    other = reference(methods)
    ks = pass_ks(runs)
    for k in dict.fromkeys(ks[:1] + ks[-1:]):
        cells = {
            method: _cell(found, 100, 1, (-100, 100), "+")
            for method, members in methods.items()
            if method != other and (found := paired_difference(members, methods[other], k))
        }
        if cells:
            table[f"Δ pass@{k} to {other}"] = [cells.get(name, "–") for name in table["method"]]
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
    """Returns a row per method: its advantage, and a column for every setting that differs."""
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
        values = [
            " / ".join(dict.fromkeys(str(fields[run.name].get(field, "–")) for run in members))
            for field in varied
        ]
        rows.append((method, advantage, seeds, *values))
    return pd.DataFrame(rows, columns=["method", "advantage", "seeds", *varied])


def setup_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Returns the main settings, with all values if runs differ."""
    rows = [(field, value) for field in _SETUP if (value := values_of(runs, field))]
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


def differences_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Returns a row per pair of methods: differences of pass@k in points, with their intervals."""
    ks = pass_ks(runs)
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in differences(by_method([run for run in runs if run.started]), ks):
        cell = cells.setdefault((row.method, row.minus), {})
        cell["seeds"] = str(row.found.num_seeds)
        cell[f"pass@{row.k}, points"] = _cell(row.found, 100, 1, (-100, 100), "+")
    rows = [{"method": f"{a} − {b}"} | cell for (a, b), cell in cells.items()]
    return pd.DataFrame(rows).fillna("–")


def signal_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Returns a row per method: in which steps and prompts its rewards did not differ."""
    rows = []
    for method, members in by_method(runs).items():
        found = [x for run in members if (x := signal(run))]
        if not found:
            continue
        steps, without, wrong = (sum(x[i] for x in found) for i in range(3))
        rates = [x for run in members if len(x := series(run.train, "solve_rate"))]
        ends = [
            f"{100 * np.mean([end.mean() for end in parts]):.1f}" if parts else "–"
            for parts in (
                [rate.iloc[: 1 + len(rate) // 10] for rate in rates],
                [rate.iloc[-1 - len(rate) // 10 :] for rate in rates],
            )
        ]
        prompts = f"{100 * np.mean([x.prompts for x in found]):.1f}"
        counts = f"{without} of {steps}", str(wrong), str(without - wrong)
        rows.append((method, *counts, prompts, *ends))
    columns = ["method", "steps without signal", "all wrong in", "else equal in"]
    ends = [f"solve rate, {end} tenth of the steps, %" for end in ("first", "last")]
    return pd.DataFrame(rows, columns=[*columns, "prompts without signal, %", *ends])


def environment_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Returns a row per environment that some run was trained in, as the runs recorded them."""
    found: dict[tuple, list[tuple[str, str]]] = {}
    for run in runs:
        for session in run.sessions:
            commit = str(session.get("commit") or "–")[:12]
            commit += " and changes" if session.get("changed") else ""
            versions = (str(session.get(x, "–")) for x in ("fade_jax", "jax", "jaxlib", "python"))
            device = f"{session.get('devices', '–')} × {session.get('device', '–')}"
            key = commit, *versions, device, str(session.get("processes", "–"))
            found.setdefault(key, []).append((run.name, str(session.get("started", "–"))))
    rows = [
        (*key, str(len({name for name, _ in uses})), str(len(uses)), min(at for _, at in uses))
        for key, uses in found.items()
    ]
    columns = ["commit", "fade_jax", "jax", "jaxlib", "python", "devices", "processes"]
    return pd.DataFrame(rows, columns=[*columns, "runs", "sessions", "first, UTC"])


def notices(runs: Sequence[Run]) -> list[str]:
    """Returns what a reader must know before the numbers: no signal, and mixed environments."""
    found, little = [], []
    for run in runs:
        count = signal(run)
        if count and count.without == count.steps:
            why = "no rollout was right" if count.all_wrong == count.steps else "all were equal"
            found.append(
                f"No signal: in none of the {count.steps} steps of {run.name} did the rewards of a"
                f" prompt's rollouts differ ({why}); it has learned nothing from them."
            )
        elif count and 2 * count.without > count.steps:
            little.append(f"{run.name} ({count.without} of {count.steps})")
    if little:
        found.append(
            "Little signal: in more than half of the steps the rewards of no prompt's rollouts"
            f" differed, in {', '.join(little)}."
        )
    environments = environment_table(runs)
    for column, what in (("commit", "commits"), ("jax", "versions of jax"), ("devices", "devices")):
        if len(names := list(dict.fromkeys(environments[column]))) > 1:
            found.append(f"The runs have several {what}: {', '.join(names)}.")
    return found


def key_figures(runs: Sequence[Run]) -> list[KeyFigure]:
    """Returns the numbers to see first."""
    started = [run for run in runs if run.started]
    methods, ks = by_method(started), pass_ks(runs)
    several, found = len(methods) > 1, []
    for k in sorted({*ks[:1], *ks[-1:]}):
        ends = {
            name: end
            for name, members in methods.items()
            if (end := final_estimate(members, f"eval/pass@{k}"))
        }
        if not ends:
            continue
        best = max(ends, key=lambda name: ends[name].value)
        cell = _cell(ends[best], 100, 1, (0, 100))
        value, _, interval = cell.partition(" ")
        name = f"highest pass@{k}" if several else f"pass@{k}"
        found.append(KeyFigure(name, f"{value} %", f"{best} {interval}".strip()))
    pairs = differences(methods, sorted({*ks[:1], *ks[-1:]}))
    if pairs:
        clear = sum(bool(pair.found.low > 0 or pair.found.high < 0) for pair in pairs)
        note = "paired differences whose interval excludes 0"
        found.append(KeyFigure("clear differences", f"{clear} of {len(pairs)}", note))
    entropy = [x.value for m in methods.values() if (x := final_estimate(m, "eval/entropy"))]
    if entropy:
        span = dict.fromkeys(f"{x:.2f}" for x in (min(entropy), max(entropy)))
        start = start_estimate(runs, "eval/entropy")
        note = f"{start.value:.2f} before training" if start else "at the last evaluation"
        found.append(KeyFigure("entropy", f"{' to '.join(span)} nats", note))
    counts = [x for run in started if (x := signal(run))]
    if counts:
        share = 100 * np.mean([count.prompts for count in counts])
        found.append(KeyFigure("prompts without signal", f"{share:.0f} %", "of all training steps"))
    finished = sum(run.finished for run in runs)
    seeds = sorted({len(members) for members in by_method(runs).values()})
    note = f"methods: {len(by_method(runs))}, seeds of each: {' or '.join(map(str, seeds))}"
    found.append(KeyFigure("runs finished", f"{finished} of {len(runs)}", note))
    tokens = [x.iloc[-1] for run in started if len(x := sampled_tokens(run))]
    minutes = [_minutes(members) for members in methods.values()]
    if tokens:
        last = max(run.last_step for run in started)
        found.append(
            KeyFigure("tokens of a run", _count(float(np.mean(tokens))), f"in {last} steps")
        )
    if known := [float(x) for x in minutes if x != "–"]:
        note = "of training a run, without evaluation"
        found.append(KeyFigure("time", f"{np.mean(known):.1f} min", note))
    return found


def results_numbers(runs: Sequence[Run]) -> pd.DataFrame:
    """Returns the numbers of the main table: a row per method and metric, not rounded."""
    keys = [*(f"eval/pass@{k}" for k in pass_ks(runs)), "eval/entropy", "eval/length"]
    keys += ["eval/truncated_fraction", "eval/unknown"]
    rows = [
        ("before training", key, *found)
        for key in keys
        if (found := start_estimate(runs, key)) is not None
    ]
    for method, members in by_method([run for run in runs if run.started]).items():
        rows += [
            (method, key, *found)
            for key in keys
            if (found := final_estimate(members, key)) is not None
        ]
    return pd.DataFrame(rows, columns=["method", "metric", "value", "low", "high", "seeds"])


def _count(number: float) -> str:
    """Formats a large number."""
    for name, size in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:.0f}"


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


def values_of(runs: Sequence[Run], field: str) -> str:
    """Formats the values of a field, each once; empty without any."""
    values = (setting(run.config, field) for run in runs)
    texts = (f"{x:g}" if isinstance(x, float) else str(x) for x in values if x not in (None, {}))
    return " / ".join(text for text in dict.fromkeys(texts) if text)
