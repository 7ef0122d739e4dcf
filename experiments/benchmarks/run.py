"""The benchmark suite: time and memory of rollout, update, head, whole RL step and sweep.

    python -m experiments.benchmarks.run --peers
    python -m experiments.benchmarks.run --only=rollout_tiny,step_tiny --repeats=9 --out=/tmp/b
    python -m experiments.benchmarks.run --render=runs/benchmarks/NAME

Each implementation does each work in a fresh process on one core, with one thread; the processes
take turns, repetition by repetition. --peers times google-tunix, torch, transformers and TRL beside
ours, in the environments that `make peers` builds. results.json has every sample; README.md, the
table, is made of it alone, as by --render. With an accelerator only ours is on it.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from experiments.benchmarks import machine, processes
from experiments.benchmarks.compare import Contender, compare, families
from experiments.benchmarks.sweep import time_sweep
from experiments.benchmarks.works import SWEEP, WORKS, Work
from experiments.perf.benchmark import CLOCKS, NAMES, page


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags; a wrong one ends the program with a line that says so."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.run", description=__doc__.splitlines()[0]
    )
    names = [work.name for work in WORKS] + [SWEEP]
    parser.add_argument("--peers", action="store_true", help="time the peers too")
    parser.add_argument("--only", default="", help=f"works, comma-separated: {', '.join(names)}")
    parser.add_argument("--repeats", type=int, default=5, help="measured repetitions")
    parser.add_argument("--out", type=Path, help="default: runs/benchmarks/DEVICE")
    parser.add_argument("--torch_python", default=".venv-peers/bin/python", help="has TRL")
    parser.add_argument("--tunix_python", default=".venv-tunix/bin/python", help="has google-tunix")
    parser.add_argument("--sweep_steps", type=int, default=50, help="of each run of the sweep")
    parser.add_argument("--render", type=Path, help="only write README.md from its results.json")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="that the page goes by")
    flags = parser.parse_args(arguments)
    flags.only = [name for name in flags.only.split(",") if name] or names
    for name in flags.only:
        if name not in names:
            parser.error(f"--only: there is no {name!r}; there are {', '.join(names)}")
    if flags.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {flags.repeats}")
    if flags.sweep_steps < 10 or flags.sweep_steps % 10:
        parser.error(f"--sweep_steps must be a multiple of 10, got {flags.sweep_steps}")
    if flags.render and not (flags.render / "results.json").is_file():
        parser.error(f"--render: there is no {flags.render / 'results.json'}")
    return flags


def device_kind() -> str:
    """What JAX runs on, asked in a process of its own: "cpu", or the name of an accelerator."""
    asked = "import jax; print(jax.devices()[0].device_kind)"
    done = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


def contenders(flags: argparse.Namespace, on_cpu: bool) -> list[Contender]:
    """Those to be timed, and those asked for that are not here.

    Args:
      flags: from `parse`.
      on_cpu: whether ours runs on the CPU; there the peers do.
    """
    found = [Contender("ours", processes.own_python(), "fade_jax_worker")]
    if not flags.peers:
        return found
    elsewhere = None if on_cpu else "not timed on an accelerator"
    tunix = flags.tunix_python if processes.works(flags.tunix_python) else None
    torch = flags.torch_python if processes.works(flags.torch_python) else None
    peers = [
        Contender("tunix", tunix, "tunix_peer"),
        Contender("torch", torch, "torch_peer"),
    ]
    if elsewhere:
        peers = [peer._replace(python=None, status=elsewhere) for peer in peers]
    return found + peers


def row(work: Work) -> dict:
    """What results.json says of a work."""
    fields = work._asdict() | {"shape": work.shape._asdict()}
    return fields | {"title": work.title(), "unit": work.unit, "amount": work.amount}


def tell(text: str) -> None:
    """Shows progress."""
    print(f"{datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


def measure(flags: argparse.Namespace, works: Sequence[Work] = WORKS) -> dict:
    """Times what the flags name; returns the contents of results.json."""
    kind = device_kind()
    on_cpu = kind == "cpu"
    core = processes.first_core() if on_cpu else None
    about = machine.describe(core)
    wanted = [work for work in works if work.name in flags.only]
    results = {
        "device": about["cpu"] if on_cpu else kind,
        "machine": about,
        "when": datetime.now().astimezone().isoformat(timespec="minutes"),
        "command": "python -m experiments.benchmarks.run " + shlex.join(flags.command),
        "repeats": flags.repeats,
        "works": [row(work) for work in wanted],
        "entries": [],
    }
    racers = contenders(flags, on_cpu)
    groups = families(wanted)
    for number, group in enumerate(groups):

        def show(text, number=number):
            tell(f"[{number + 1}/{len(groups)}] {text}")

        results["entries"] += compare(group, racers, flags.repeats, core, show)
    results["implementations"] = [n for n in NAMES if n in {c.name for c in racers}]
    if SWEEP in flags.only:
        results["sweep"] = time_sweep(flags.sweep_steps, flags.repeats, core, tell)
    return results


def write(results: dict, out: Path, clock: str) -> Path:
    """Writes results.json and README.md; returns the path of the latter."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return render(out, clock)


def render(out: Path, clock: str) -> Path:
    """Writes README.md from results.json."""
    path = out / "README.md"
    path.write_text(page(json.loads((out / "results.json").read_text()), clock))
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and writes, or writes what was measured."""
    arguments = sys.argv[1:] if arguments is None else arguments
    flags = parse(arguments)
    flags.command = arguments
    if flags.render:
        print(render(flags.render, flags.clock))
        return
    results = measure(flags)
    out = flags.out or Path("runs/benchmarks") / machine.slug(results["device"])
    path = write(results, out, flags.clock)
    print(path.read_text())
    print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
