"""What was run, from the configs: a paragraph, and the settings in which the methods differ."""

from collections.abc import Sequence
from typing import Any

from experiments.config import leaves
from experiments.report.runs import Run, by_method, setting
from experiments.report.table import Table

# Fields that differ between runs of one sweep without making them different methods.
_NOT_SETTINGS = ("seed", "warm_start.workdir", "sweep.mode", "sweep.workers")


def title(runs: Sequence[Run]) -> str:
    """The page's title: the methods, and the task."""
    methods = list(by_method(runs))
    names = ", ".join(methods) if len(methods) <= 4 else f"{len(methods)} methods"
    return f"{names} on the {_values(runs, 'task.name')} task"


def what_was_run(runs: Sequence[Run]) -> str:
    """One paragraph: the runs, the task, the model, the size of a step, the evaluation."""
    return " ".join([_runs_and_task(runs), _model(runs), _step(runs), _evaluation(runs)])


def methods_table(runs: Sequence[Run]) -> Table:
    """A row per method: its advantage, and every other setting in which the methods differ."""
    rows = []
    flat = {run.name: dict(leaves(run.config)) for run in runs}
    fields = sorted({field for fields in flat.values() for field in fields})
    varied = [
        field
        for field in fields
        if field not in _NOT_SETTINGS
        and not field.startswith("advantage.")
        and len({repr(flat[run.name].get(field)) for run in runs if run.config}) > 1
    ]
    for method, members in by_method(runs).items():
        first = members[0]
        kwargs = setting(first.config, "advantage.kwargs", {}) or {}
        inside = ", ".join(f"{name}={value}" for name, value in kwargs.items())
        other = [f"{field}={flat[first.name].get(field, '–')}" for field in varied]
        seeds = ", ".join(f"{setting(run.config, 'seed', '–')}" for run in members)
        call = f"{setting(first.config, 'advantage.name', '–')}({inside})"
        rows.append((method, call, seeds, ", ".join(other) or "–"))
    caption = "The diff of two configs is the experiment: all other settings are equal."
    head = ("method", "advantage", "seeds", "other settings")
    return Table(head, tuple(rows), caption, figures=False)


def runs_table(runs: Sequence[Run]) -> Table:
    """A row per run: how far it got, and the hash of its final parameters."""
    rows = tuple(
        (
            run.name,
            f"{run.last_step} of {setting(run.config, 'steps', '–')}",
            "finished" if run.finished else ("unfinished" if run.last_step else "not started"),
            str((run.result or {}).get("params_sha256") or "–")[:16],
        )
        for run in runs
    )
    caption = "The first 16 digits of the SHA-256 of each run's final parameters."
    return Table(("run", "steps", "state", "parameters"), rows, caption, figures=False)


def _runs_and_task(runs: Sequence[Run]) -> str:
    methods = len(by_method(runs))
    seeds = len({setting(run.config, "seed") for run in runs})
    arguments = _kwargs(runs, "task.kwargs")
    task = f"task {_values(runs, 'task.name')}" + (f" ({arguments})" if arguments else "")
    counts = (
        f"{_count(len(runs), 'run')}: {_count(methods, 'method')}, {_count(seeds, 'seed')}; {task}."
    )
    return counts if len(runs) > 1 else f"One run, seed {_values(runs, 'seed')}; {task}."


def _model(runs: Sequence[Run]) -> str:
    if any(setting(run.config, "model.path") for run in runs):
        model = f"Model: {_values(runs, 'model.path')}"
    else:
        model = (
            f"Model: a transformer of {_values(runs, 'model.num_layers')} layers, "
            f"width {_values(runs, 'model.d_model')}"
        )
    if any(setting(run.config, "warm_start.steps", 0) for run in runs):
        model += f", after {_values(runs, 'warm_start.steps')} supervised steps"
    return f"{model}."


def _step(runs: Sequence[Run]) -> str:
    epochs = _values(runs, "learner.epochs", "1")
    minibatches = _values(runs, "learner.minibatches", "1")
    passes = (
        "one update"
        if epochs == minibatches == "1"
        else (f"epochs: {epochs}, minibatches: {minibatches}")
    )
    return (
        f"Each of {_values(runs, 'steps')} steps: {_values(runs, 'prompts')} prompts × "
        f"{_values(runs, 'group_size')} rollouts at temperature "
        f"{_values(runs, 'sampling.temperature')}, {passes} by "
        f"{_values(runs, 'optimizer.name')} at learning rate "
        f"{_values(runs, 'optimizer.learning_rate')}."
    )


def _evaluation(runs: Sequence[Run]) -> str:
    return (
        f"Evaluation every {_values(runs, 'evaluation.every')} steps and before training: "
        f"{_values(runs, 'evaluation.prompts')} held-out prompts × "
        f"{_values(runs, 'evaluation.samples')} samples."
    )


def _values(runs: Sequence[Run], field: str, default: str = "?") -> str:
    """The value of a field, or, where runs differ, its values."""
    values = [setting(run.config, field) for run in runs]
    return " / ".join(dict.fromkeys(_text(x) for x in values if x is not None)) or default


def _kwargs(runs: Sequence[Run], field: str) -> str:
    names = {name for run in runs for name in setting(run.config, field, None) or {}}
    return ", ".join(f"{name}={_values(runs, f'{field}.{name}')}" for name in sorted(names))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
