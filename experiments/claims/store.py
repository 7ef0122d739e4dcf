"""The tidy data that the page is made from: written from sweeps, and read back.

    DATA/SWEEP/config.json       what all runs of the sweep share
    DATA/SWEEP/runs.csv          a row for each planned run: what it overrides, whether it finished,
                                 and the sweep that made it, where that is another one
    DATA/SWEEP/evaluations.csv   a row for each evaluation of each finished run
    DATA/SWEEP/training.csv.gz   thinned curves of each finished run
    DATA/SWEEP/counts.npz        correct [runs, evaluations, prompts], step [runs, evaluations]

The page is always drawn from what was read back, so that it is the same page from both.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.claims.same_run import made_elsewhere
from experiments.claims.sweep_data import CURVES, HISTOGRAM, SweepData, summary, thin
from experiments.config import leaves
from experiments.logs import replacing, write_json
from experiments.report.runs import SEED, Run, load_runs

_OWN = (
    "run",
    "method",
    "finished",
    "made_by",
    "params_sha256",
    "rank_one_fraction",
    "first_suppressed",
)
_NUMBERS = ("rank_one_fraction", "first_suppressed")
# Names of a machine, or of how a sweep was made: they make no difference to the result.
_LEFT_OUT = ("warm_start.workdir", "sweep.mode", "sweep.workers", "sweep.runs_together")
# Sweeps that are compared at matched pass@1, which takes every evaluation. Of the others the
# criteria read the first two and the last.
_EVERY_EVALUATION = ("core", "methods", "countdown", "arithmetic", "beyond", "isolate_delta")
_MISSING = 65535
_RATE = "optimizer.learning_rate"


def sweeps_in(directory: Path) -> list[Path]:
    """The workdirs of sweeps in a directory, by name."""
    return sorted(path.parent for path in directory.glob("*/sweep.json"))


def tidy_in(directory: Path) -> list[Path]:
    """The tidy sweeps in a directory, by name."""
    return sorted(path.parent for path in directory.glob("*/runs.csv"))


class _Finished(NamedTuple):
    """A finished run, as it is kept."""

    name: str
    method: str
    made_by: str  # the sweep, where it is another one
    config: dict[str, Any]  # by dotted field
    summary: dict[str, Any]
    evaluations: Sequence[dict[str, Any]]
    training: Sequence[dict[str, Any]]
    counts: dict[int, np.ndarray]
    num_samples: int


def write_tidy(workdir: Path, out: Path, known: Sequence[SweepData] = ()) -> None:
    """Writes the tidy data of a sweep's workdir, finished or not.

    Args:
      workdir: of the sweep.
      out: directory of the five files, made where it is missing.
      known: tidy sweeps, this one's older data among them; planned runs that the workdir has not
        finished are taken from them where they have a run of the same config.

    Raises:
      FileNotFoundError: if there is no metrics there.
      ValueError: if a finished run lacks the counts of one of its evaluations.
    """
    runs = load_runs(workdir)
    every = workdir.name in _EVERY_EVALUATION
    kept = {run.name: _of_workdir(workdir, run, every) for run in runs if run.finished}
    elsewhere = made_elsewhere(workdir, runs, known, every_evaluation=every)
    for name, (data, run) in elsewhere.items():
        kept[name] = _of_tidy(name, workdir.name, data, run, every)
    finished = [kept[run.name] for run in runs if run.name in kept]
    fields = sorted({field for run in finished for field in run.config} - set(_LEFT_OUT))
    shared = {
        field: finished[0].config[field]
        for field in fields
        if len({json.dumps(run.config.get(field)) for run in finished}) == 1
    }
    varied = [field for field in fields if field not in shared]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", _nested(shared.items()))
    rows = []
    for run in runs:
        own = kept.get(run.name)
        row: dict[str, Any] = {
            "run": run.name,
            "method": run.method if own is None else own.method,
            "finished": int(own is not None),
        }
        if own is not None:
            settings = {f: json.dumps(own.config[f]) for f in varied if f in own.config}
            row |= {"made_by": own.made_by} | own.summary | settings
        rows.append(row)
    _write(out / "runs.csv", _csv(rows, (*_OWN, *varied)))
    _write(out / "evaluations.csv", _csv(_evaluation_rows(finished)))
    training = _csv(_training_rows(finished), ("run", "step", *CURVES, HISTOGRAM))
    _write(out / "training.csv.gz", gzip.compress(training, 9, mtime=0))
    _write(out / "counts.npz", _counts_file(workdir, finished))


def _of_workdir(workdir: Path, run: Run, every: bool) -> _Finished:
    counts, samples = _counts(workdir / "runs" / run.name, run)
    return _Finished(
        run.name,
        run.method,
        "",
        dict(leaves(run.config)),
        summary(run),
        run.evaluations,
        thin(run.train),
        counts if every else _needed(counts),
        samples,
    )


def _of_tidy(name: str, sweep: str, data: SweepData, run: Run, every: bool) -> _Finished:
    numbers = {key: run.result[key] for key in _NUMBERS if key in run.result}
    if "first_suppressed" in numbers:
        numbers["first_suppressed"] = int(numbers["first_suppressed"])
    counts = data.counts[run.name]
    return _Finished(
        name,
        SEED.sub("", name) or run.method,
        run.result["made_by"] or (data.name if data.name != sweep else ""),
        dict(leaves(run.config)),
        {"params_sha256": run.result["params_sha256"]} | numbers,
        run.evaluations,
        run.train,
        counts if every else _needed(counts),
        data.num_samples,
    )


def read_tidy(directory: Path) -> SweepData:
    """Reads what `write_tidy` wrote; the sweep has the name of the directory."""
    shared = dict(leaves(json.loads((directory / "config.json").read_text(encoding="utf-8"))))
    train = _by_run(_rows(gzip.decompress((directory / "training.csv.gz").read_bytes())))
    evaluations = _by_run(_rows((directory / "evaluations.csv").read_bytes()))
    runs = []
    for row in _rows((directory / "runs.csv").read_bytes()):
        finished = row["finished"] == "1"
        varied = {f: json.loads(text) for f, text in row.items() if f not in _OWN and text}
        numbers = {f: float(row[f]) for f in _NUMBERS if row[f]}
        text = {f: row.get(f) or "" for f in ("params_sha256", "made_by")}
        runs.append(
            Run(
                name=row["run"],
                method=row["method"],
                config=_nested((shared | varied).items()) if finished else {},
                train=tuple(_training_line(line) for line in train.get(row["run"], [])),
                evaluations=tuple(_evaluation_line(x) for x in evaluations.get(row["run"], [])),
                result=text | numbers if finished else None,
            )
        )
    with np.load(directory / "counts.npz") as file:
        correct, steps, names = (file[name] for name in ("correct", "step", "run"))
        samples = int(file["num_samples"])
    counts = {
        str(name): {int(step): row for step, row in zip(at, rows) if step != _MISSING}
        for name, at, rows in zip(names, steps, correct)
    }
    return SweepData(directory.name, tuple(runs), counts, samples)


def _evaluation_rows(runs: Sequence[_Finished]) -> list[dict[str, Any]]:
    """The rate is there where runs differ in it, as in results.csv; experiments.theory reads it."""
    rates = {run.name: run.config.get(_RATE) for run in runs}
    rows = []
    for run in runs:
        own = {"run": run.name, "method": run.method}
        own |= {_RATE: rates[run.name]} if len(set(rates.values())) > 1 else {}
        for line in run.evaluations:
            figures = {
                key.removeprefix("eval/"): f"{value:.4g}"
                for key, value in line.items()
                if key.startswith("eval/")
                and not key.endswith(("_low", "_high", "seconds"))
                and value is not None
            }
            rows.append(own | {"step": line["step"]} | figures)
    return rows


def _training_rows(runs: Sequence[_Finished]) -> list[dict[str, Any]]:
    rows = []
    for run in runs:
        for line in run.training:
            row = {"run": run.name} | line
            if HISTOGRAM in row:
                row[HISTOGRAM] = " ".join(map(str, row[HISTOGRAM]))
            rows.append(row)
    return rows


def _counts_file(workdir: Path, runs: Sequence[_Finished]) -> bytes:
    """Deflate finds the evaluations before training, which runs of one warm start share."""
    most = max((len(run.counts) for run in runs), default=0)
    prompts = {len(row) for run in runs for row in run.counts.values()}
    samples = {run.num_samples for run in runs}
    if len(prompts) > 1 or len(samples) > 1:
        raise ValueError(
            f"{workdir}: the runs of a sweep must share their held-out prompts and the samples of "
            f"each, got {sorted(prompts)} prompts and {sorted(samples)} samples"
        )
    kind = np.uint8 if max(samples, default=0) < 256 else np.uint16
    correct = np.zeros((len(runs), most, max(prompts, default=0)), kind)
    steps = np.full((len(runs), most), _MISSING, np.uint16)
    for i, run in enumerate(runs):
        for j, step in enumerate(sorted(run.counts)):
            correct[i, j], steps[i, j] = run.counts[step], step
    file = io.BytesIO()
    np.savez_compressed(
        file,
        correct=correct,
        step=steps,
        run=np.array([run.name for run in runs], dtype=np.str_),
        num_samples=np.uint16(max(samples, default=0)),
    )
    return file.getvalue()


def _counts(directory: Path, run: Run) -> tuple[dict[int, np.ndarray], int]:
    counts, samples = {}, set()
    for line in run.evaluations:
        path = directory / "evaluations" / f"{line['step']}.npz"
        if not path.exists():
            raise ValueError(f"run {run.name} finished, and lacks the counts {path}")
        with np.load(path) as file:
            counts[line["step"]] = file["num_correct"]
            samples.add(int(file["num_samples"]))
    if len(samples) != 1:
        raise ValueError(f"run {run.name}: evaluations differ in num_samples, {sorted(samples)}")
    return counts, samples.pop()


def _needed(counts: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    steps = sorted(counts)
    return {step: counts[step] for step in sorted({*steps[:2], steps[-1]})}


def _training_line(row: dict[str, str]) -> dict[str, Any]:
    line: dict[str, Any] = {"step": int(row["step"])}
    line |= {key: float(row[key]) for key in CURVES if row[key]}
    if row[HISTOGRAM]:
        line[HISTOGRAM] = [int(x) for x in row[HISTOGRAM].split()]
    return line


def _evaluation_line(row: dict[str, str]) -> dict[str, Any]:
    own = ("run", "method", _RATE, "step")
    figures = {f"eval/{k}": float(v) for k, v in row.items() if k not in own and v}
    return {"step": int(row["step"])} | figures


def _by_run(rows: Iterable[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        found.setdefault(row["run"], []).append(row)
    return found


def _nested(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for field, value in fields:
        *path, last = field.split(".")
        node = config
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return config


def _csv(rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> bytes:
    columns = columns or list(dict.fromkeys(column for row in rows for column in row)) or ["run"]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
