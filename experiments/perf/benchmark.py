"""Times rollout, update, output head, whole RL step and sweep; prints Markdown tables.

    python -m experiments.perf.benchmark --peers
    python -m experiments.perf.benchmark --workload=rollout_tiny,step --repeats=9 --out=times.json
    python -m experiments.perf.benchmark --workload=step --vary=group_size=4,8,16
    python -m experiments.perf.benchmark --workload=head --vary=d_model=896 --vary=vocab_size=151936
    python -m experiments.perf.benchmark --workload=rollout_tiny_real_lengths,sweep

Each implementation runs each workload in a fresh process on one core, with one thread; the
processes take turns, repetition by repetition. --peers adds the baselines google-tunix and torch
(with transformers and TRL), in the environments that `make peers` builds. With an accelerator only
fade_jax is timed on it. --out has every sample.
"""

import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from absl import flags

from experiments.command import one_line_errors
from experiments.config import ConfigError
from experiments.perf.fade_jax_worker import time_sweep
from experiments.perf.seconds import DEVICES
from experiments.perf.worker import WORKLOADS, Shape, Worker, Workload, describe_machine

SWEEP = "sweep"  # beside the workloads, with a table of its own
CLOCKS = {"wall": "seconds", "cpu": "cpu_seconds"}
_VARIABLE = ("prompts", "group_size", "prompt", "completion", *Shape._fields)

Log = Callable[[str], None]


class Implementation(NamedTuple):
    """An implementation to time.

    Attributes:
      name: in the table.
      python: interpreter that has its packages; None if there is none.
      module: of experiments.perf.
      status: why it is not timed, if python is None.
    """

    name: str
    python: str | None
    module: str
    status: str = "not installed"

    def workload(self, workload: Workload) -> Workload:
        """Returns the workload to time in a row: a baseline shares nothing within a group."""
        return workload._replace(name="") if self.name == "fade_jax" else workload.baseline


def select_workloads(names: str, vary: Sequence[str] = ()) -> list[Workload]:
    """Returns the workloads of the flags --workload and --vary.

    Args:
      names: comma-separated names or kinds of workloads; empty for all. "sweep" is not one of them.
      vary: `field=value,value`, of the workload or its shape; several give all combinations.

    Raises:
      ConfigError: for an unknown name or field, or a value that is no whole number >= 1.
    """
    chosen = [name for name in names.split(",") if name]
    known = dict.fromkeys(name for w in WORKLOADS for name in (w.kind, w.name))
    for name in chosen:
        if name not in known and name != SWEEP:
            raise ConfigError(f"--workload: no {name!r}; there are {', '.join([*known, SWEEP])}")
    workloads = [w for w in WORKLOADS if not chosen or w.name in chosen or w.kind in chosen]
    axes = []
    for text in vary:
        field, _, values = text.partition("=")
        if field not in _VARIABLE or not all(v.isdigit() and int(v) for v in values.split(",")):
            fields = ", ".join(_VARIABLE)
            raise ConfigError(f"--vary must be like group_size=4,8, of {fields}; got {text!r}")
        axes.append([(field, int(value)) for value in values.split(",")])
    return [_with_sizes(w, sizes) for w in workloads for sizes in product(*axes)]


def _with_sizes(workload: Workload, sizes: Sequence[tuple[str, int]]) -> Workload:
    for field, value in sizes:
        changed = {field: value}
        if field in Shape._fields:
            changed = {"shape": workload.shape._replace(**changed)}
        workload = workload._replace(name=f"{workload.name} {field}={value}", **changed)
    shape = workload.shape
    if workload.kind != "head" and (
        shape.d_model % shape.num_heads or shape.num_heads % shape.num_kv_heads
    ):
        raise ConfigError(
            f"--vary: {workload.name} needs num_heads that divides d_model = {shape.d_model} and is"
            f" a multiple of num_kv_heads = {shape.num_kv_heads}, got {shape.num_heads}"
        )
    return workload


def run_interleaved(
    workloads: Sequence[Workload],
    implementations: Sequence[Implementation],
    repeats: int,
    core: int | None,
    log: Log,
) -> list[dict]:
    """Times every implementation at every workload, in fresh processes that take turns.

    A baseline that does the same for two rows does it once. A process that is killed, as for
    memory, is tried once more when the others have ended.

    Returns:
      `Worker.result` with the names, for each workload and implementation.
    """
    jobs = {(one, one.workload(w)): w.name for w in workloads for one in implementations}
    missing = {"seconds": [], "cpu_seconds": []}
    results = {job: missing | {"status": job[0].status} for job in jobs if job[0].python is None}
    workers: dict[tuple[Implementation, Workload], Worker] = {}

    def start(job) -> None:
        one, workload = job
        workers[job] = Worker(one.python, one.module, workload, core)
        log(f"{jobs[job]}: {one.name} warms up")
        workers[job].request()

    try:
        for job in [job for job in jobs if job not in results]:
            start(job)
        for number in range(repeats):
            log(f"{workloads[0].name}: repetition {number + 1} of {repeats}")
            for worker in workers.values():
                worker.request("go")
        for worker in workers.values():
            worker.request("end")
            worker.stop()
        for job in [job for job, worker in workers.items() if worker.was_killed]:
            log(f"{jobs[job]}: {job[0].name} was killed; once more, alone")
            start(job)
            for word in [*["go"] * repeats, "end"]:
                workers[job].request(word)
            workers[job].result["alone"] = True
    finally:
        for worker in workers.values():
            worker.stop()
    results |= {job: worker.result for job, worker in workers.items()}
    return [
        {"workload": w.name, "implementation": one.name} | results[one, one.workload(w)]
        for w in workloads
        for one in implementations
    ]


def families(workloads: Sequence[Workload]) -> list[list[Workload]]:
    """Groups workloads with the same baseline, whose processes are interleaved."""
    groups: dict[Workload, list[Workload]] = {}
    for workload in workloads:
        groups.setdefault(workload.baseline, []).append(workload)
    return list(groups.values())


def values(workload: Mapping, entry: Mapping, clock: str = "wall") -> list[float]:
    """Returns each repetition in the unit of the workload.

    Args:
      workload: of results["workloads"].
      entry: of results["entries"].
      clock: "wall", or "cpu" for the CPU time of the process.
    """
    samples = entry[CLOCKS[clock]]
    if workload["unit"] == "s":
        return [s / workload["steps"] for s in samples]
    return [workload["amount"] * workload["steps"] / s for s in samples]


def ratios(
    workload: Mapping, entries: Sequence[Mapping], clock: str = "wall"
) -> tuple[float, float] | None:
    """Returns our speed and our peak of memory relative to the fastest baseline; None without."""
    timed = []
    for entry in entries:
        if entry["seconds"]:
            median = statistics.median(values(workload, entry, clock))
            speed = 1 / median if workload["unit"] == "s" else median
            timed.append((entry["implementation"], speed, entry["peak_bytes"]))
    ours = next((t for t in timed if t[0] == "fade_jax"), None)
    best = max((t for t in timed if t[0] != "fade_jax"), key=lambda t: t[1], default=None)
    if ours is None or best is None:
        return None
    return ours[1] / best[1], ours[2] / best[2]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cell(workload: Mapping, entry: Mapping, clock: str = "wall") -> str:
    """Formats median [min, max], peak of memory and compile time."""
    if not entry["seconds"]:
        return entry["status"]
    samples = values(workload, entry, clock)
    compiling = entry["warm_up_s"] - 2 * statistics.median(entry["seconds"])
    text = f"**{_number(statistics.median(samples))}**"
    text += f" [{_number(min(samples))}, {_number(max(samples))}]"
    text += f"; {entry['peak_bytes'] / 1e9:.2f} GB"
    if entry.get("device_bytes"):
        text += f", device {entry['device_bytes'] / 1e9:.2f} GB"
    return f"{text}; {max(compiling, 0):.0f} s"


def peak_rate(results: Mapping, entry: Mapping, clock: str = "wall") -> tuple[float | None, str]:
    """Returns the FLOP/s that an entry is compared with, and the name of that rate."""
    for device in DEVICES:
        if device.name.lower().removesuffix(" sxm") in entry["notes"]["device"].lower():
            return device.flops, f"the bfloat16 peak of {device.name}"
    workload = next((w for w in results["workloads"] if w["name"] == "product"), None)
    for other in results["entries"]:
        if workload and (other["workload"], other["implementation"]) == ("product", "fade_jax"):
            rates = values(workload, other, clock)
            return (statistics.median(rates) * 1e9 if rates else None), "the plain product"
    return None, ""


def main_table(results: Mapping, clock: str = "wall") -> pd.DataFrame:
    """Returns the table of all workloads; its last column is the FLOP/s of fade_jax."""
    rows = []
    for workload in results["workloads"]:
        entries = {
            e["implementation"]: e for e in results["entries"] if e["workload"] == workload["name"]
        }
        row = {"workload": f"{workload['title']}, {workload['unit']}"}
        row |= {name: cell(workload, entries[name], clock) for name in results["implementations"]}
        compared = ratios(workload, list(entries.values()), clock)
        row["speed"], row["memory"] = [f"{x:.2f}" for x in compared] if compared else ("", "")
        ours, row["GFLOP/s"] = entries["fade_jax"], ""
        if ours["seconds"] and "flop" in ours["notes"]:
            rate = ours["notes"]["flop"] / statistics.median(ours[CLOCKS[clock]])
            peak, name = peak_rate(results, ours, clock)
            share = f", {rate / peak:.0%} of {name}" if peak else ""
            row["GFLOP/s"] = f"{rate / 1e9:,.0f}{share}"
        rows.append(row)
    return pd.DataFrame(rows)


def sweep_table(sweep: Mapping) -> pd.DataFrame:
    """Returns the seconds of each way to run the sweep.

    "relative" is to the pure steps; "steps for 1.1" is the length of the runs for which it would be
    1.1, if the overhead does not grow with the steps.
    """
    pure = sweep["runs"] * sweep["steps"] * sweep["step_s"]
    title = f"{sweep['runs']} runs of {sweep['steps']} steps"
    rows = [(f"pure steps, {1000 * sweep['step_s']:.0f} ms each", f"{pure:.1f}", "1", "")]
    for mode in sweep["modes"]:
        if mode["seconds"] is None:
            rows.append((mode["title"], mode["status"], "", ""))
            continue
        enough = (mode["seconds"] - pure) / (0.1 * sweep["runs"] * sweep["step_s"])
        relative = f"{mode['seconds'] / pure:.2f}"
        rows.append((mode["title"], f"{mode['seconds']:.1f}", relative, f"{max(enough, 0):,.0f}"))
    return pd.DataFrame(rows, columns=[title, "seconds", "relative", "steps for 1.1"])


def measure(
    workloads: Sequence[Workload],
    implementations: Sequence[Implementation],
    repeats: int,
    core: int | None,
    log: Log,
) -> dict:
    """Times the workloads, family by family; returns the results as JSON can hold them."""
    results = {
        "machine": describe_machine(core),
        "when": datetime.now().astimezone().isoformat(timespec="minutes"),
        "repeats": repeats,
        "implementations": [one.name for one in implementations],
        "workloads": [
            w._asdict() | {"title": w.title(), "unit": w.unit, "amount": w.amount}
            for w in workloads
        ],
        "entries": [],
    }
    groups = families(workloads)
    for number, group in enumerate(groups):

        def show(text, number=number):
            log(f"[{number + 1}/{len(groups)}] {text}")

        results["entries"] += run_interleaved(group, implementations, repeats, core, show)
    return results


def report(results: Mapping, clock: str = "wall") -> str:
    """Formats the results as Markdown."""
    about = {"device": results["device"]} | results["machine"]
    parts = [", ".join(f"{name} {value}" for name, value in about.items())]
    if results["workloads"]:
        parts.append(
            f"Median [lowest, highest] of {results['repeats']} repetitions by the {clock} clock;"
            " peak of resident memory; seconds to compile. Speed and memory are relative to the"
            " fastest baseline: above 1 in speed, below 1 in memory, is better."
        )
        parts.append(main_table(results, clock).to_markdown(index=False, disable_numparse=True))
    versions = {e["implementation"]: e["versions"] for e in results["entries"] if "versions" in e}
    for name, packages in versions.items():
        parts.append(f"{name}: " + ", ".join(f"{k} {v}" for k, v in packages.items()))
    if "sweep" in results:
        parts.append(sweep_table(results["sweep"]).to_markdown(index=False, disable_numparse=True))
    return "\n\n".join(parts)


def device_kind() -> str:
    """Returns the kind of JAX's device, asked in another process: "cpu", or an accelerator."""
    code = "import jax; print(jax.devices()[0].device_kind)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


def main(argv):
    """Times, prints and saves."""
    del argv
    FLAGS = flags.FLAGS
    workloads = select_workloads(FLAGS.workload, FLAGS.vary)
    out = Path(FLAGS.out) if FLAGS.out else None
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise ConfigError(f"--out must be a file in a directory that is there, got {str(out)!r}")
    if FLAGS.sweep_steps % 10:
        raise ConfigError(f"--sweep_steps must be a multiple of 10, got {FLAGS.sweep_steps}")
    kind = device_kind()
    core = min(os.sched_getaffinity(0)) if kind == "cpu" else None
    implementations = [Implementation("fade_jax", sys.executable, "fade_jax_worker")]
    if FLAGS.peers:
        peers = ("google-tunix", FLAGS.tunix_python), ("torch", FLAGS.torch_python)
        for (name, python), module in zip(peers, ("tunix_peer", "torch_peer")):
            if kind == "cpu":
                implementations.append(Implementation(name, shutil.which(python), module))
            else:
                status = "not timed on an accelerator"
                implementations.append(Implementation(name, None, module, status))

    def log(text):
        print(f"{datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)

    results = measure(workloads, implementations, FLAGS.repeats, core, log)
    results["command"] = "python -m experiments.perf.benchmark " + shlex.join(sys.argv[1:])
    results["device"] = kind
    if not FLAGS.workload or SWEEP in FLAGS.workload.split(","):
        results["sweep"] = time_sweep(FLAGS.sweep_steps, FLAGS.repeats, core, log)
    if out is not None:
        out.write_text(json.dumps(results, indent=1) + "\n")
    print(report(results, FLAGS.clock))


if __name__ == "__main__":
    flags.DEFINE_string("workload", "", "Names or kinds, comma-separated; or sweep.")
    flags.DEFINE_multi_string("vary", [], "Sizes, as group_size=4,8,16; may be repeated.")
    flags.DEFINE_boolean("peers", False, "Time the baselines too.")
    flags.DEFINE_integer("repeats", 5, "Measured repetitions.", lower_bound=1)
    flags.DEFINE_string("out", None, "File for all samples, as JSON.")
    flags.DEFINE_enum("clock", "wall", list(CLOCKS), "Clock of the tables.")
    flags.DEFINE_string("torch_python", ".venv-peers/bin/python", "Python that has TRL.")
    flags.DEFINE_string("tunix_python", ".venv-tunix/bin/python", "Python that has google-tunix.")
    flags.DEFINE_integer("sweep_steps", 50, "Steps of each run of the sweep.", lower_bound=10)
    one_line_errors(main)
