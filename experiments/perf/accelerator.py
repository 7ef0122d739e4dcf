r"""The page of one accelerator: what it computes, how fast, and beside what, in some minutes.

    python -m experiments.perf.accelerator --minutes=10 --out=accelerator
    python -m experiments.perf.accelerator --rehearse --out=rehearsal   # tiny, on any device

Nothing is downloaded. Each section runs in a process of its own, which has the device for itself:
one that fails or takes too long costs its rows, not the page. DIR/accelerator.json and
DIR/accelerator.md are written after each. Sections for which no time is left are named there.
torch and TRL are compared where --torch_python has them, with the weights of the same seed.

Standard library and absl only: this process must not take the device.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

from experiments.perf.accelerator_page import page
from experiments.perf.worker import SHAPES, Shape, Workload

# Of Qwen/Qwen2.5-0.5B; its biases of queries, keys and values are left out.
_SHAPES = {
    "SmolLM2-135M": SHAPES["smollm2"],
    "Qwen2.5-0.5B": Shape(24, 896, 14, 2, 4864, 151936),
}
_KINDS = ("rollout", "update", "head")


class Section(NamedTuple):
    """One part of the page.

    Attributes:
      name: a function of accelerator_sections, or that and what it is given.
      title: on the page.
      arguments: for the function, as JSON.
      needs: seconds without which it is not begun.
      limit: seconds after which it is stopped.
    """

    name: str
    title: str
    arguments: dict
    needs: float
    limit: float


def sections(rehearse: bool) -> list[Section]:
    """Returns the sections in their order, of full or of tiny size."""
    shapes = {"tiny": Shape(2, 32, 4, 2, 64, 64)} if rehearse else _SHAPES
    found = [
        Section("roofline", "A product and a copy", {"size": 256 if rehearse else 8192}, 5, 60),
        Section("numerics", "The numerical core of the tests", {"whole": not rehearse}, 30, 120),
    ]
    for title, shape in shapes.items():
        for kind in _KINDS:
            sizes = {"rollout": (32, 8, 128, 256), "update": (8, 8, 128, 384)}
            prompts, group, prompt, completion = sizes.get(kind, (16, 1, 0, 1024))
            if rehearse:
                prompts, group, prompt, completion = 2, 2, 0 if kind == "head" else 4, 4
            work = Workload(f"{kind} {title}", kind, shape, prompts, group, prompt, completion)
            arguments = {"workload": work._asdict()}
            found.append(Section(f"{kind}:{title}", work.title(), arguments, 25, 120))
    lengths = [64, 128] if rehearse else [1024, 2048, 4096, 8192]
    runs = {"runs": 2, "steps": 2} if rehearse else {"runs": 16, "steps": 20}
    runs["commands"] = not rehearse
    found += [
        Section(
            "attention",
            "Attention by length: forward and backward",
            {"lengths": lengths, "tokens": max(lengths)},
            30,
            120,
        ),
        Section("sweep", "A sweep in one vmapped program, and run after run", runs, 40, 240),
        Section("quickstart", "The quickstart", {"mode": ":smoke" if rehearse else ""}, 30, 300),
    ]
    return found


Run = Callable[[Section, float], tuple[list[dict], str]]


def run_sections(
    chosen: Sequence[Section], seconds: float, run: Run, write: Callable[[list[dict]], None]
) -> list[dict]:
    """Runs the sections that the time allows, and writes all results after each.

    Args:
      chosen: in their order.
      seconds: for all of them.
      run: (section, seconds that it has) -> its rows, and "ok" or the reason why there are no more.
      write: takes the results so far.

    Returns:
      The results: dicts with name, title, status, seconds and rows.
    """
    end = time.monotonic() + seconds
    results = []
    for section in chosen:
        start = time.monotonic()
        left = end - start
        if left < section.needs:
            rows, status = [], f"left out: {max(left, 0):.0f} s left, {section.needs:.0f} s needed"
        else:
            try:
                rows, status = run(section, min(left, section.limit))
            except Exception as error:  # the page goes on, whatever a section does
                rows, status = [], f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
        results.append(
            {
                "name": section.name,
                "title": section.title,
                "status": status,
                "seconds": time.monotonic() - start,
                "rows": rows,
            }
        )
        write(results)
    return results


def run_process(command: list[str], seconds: float) -> tuple[list[dict], str]:
    """Runs a command that prints JSON lines; stops it with its children when the time is over.

    Returns:
      The rows that it has printed, and "ok" or the reason in one line.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        environment = os.environ | {
            "JAX_ENABLE_COMPILATION_CACHE": "0",  # compiling is timed too
            "JAX_TRACEBACK_FILTERING": "off",  # the last line is the error
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.getcwd(),
        }
        process = subprocess.Popen(
            command, stdout=out, stderr=errors, env=environment, start_new_session=True
        )
        status = "ok"
        try:
            if code := process.wait(timeout=seconds):
                errors.seek(0)
                lines = [line.strip() for line in errors.read().splitlines() if line.strip()]
                status = f"failed, exit code {code}: {lines[-1][:300] if lines else 'no message'}"
        except subprocess.TimeoutExpired:
            status = f"stopped after {seconds:.0f} s"
        finally:
            with suppress(ProcessLookupError):  # its children too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        rows = []
        for line in out:
            with suppress(ValueError):  # a line that was cut
                rows.append(json.loads(line))
        return rows, status


def run_section(section: Section, seconds: float, torch_python: str | None, folder: Path):
    """Runs a section, and its baseline of torch where there is one; see `run_sections`.

    Args:
      section: of `sections`.
      seconds: for both.
      torch_python: a Python that has torch and transformers, or None.
      folder: for weights that both read.
    """
    end = time.monotonic() + seconds
    peer = torch_python is not None and "workload" in section.arguments
    kind, _, of = section.name.partition(":")
    weights = str(folder / of) if peer and kind != "head" else ""
    arguments = json.dumps(section.arguments | {"weights": weights})
    module = "experiments.perf.accelerator_sections"
    rows, status = run_process([sys.executable, "-m", module, kind, arguments], seconds)
    left = end - time.monotonic()
    if not peer or status != "ok" or left < 5:
        return rows, status
    more, peer_status = run_process(
        [str(torch_python), "-m", "experiments.perf.accelerator_torch", kind, arguments], left
    )
    return rows + more, status if peer_status == "ok" else f"torch {peer_status}"


def describe() -> dict[str, Any]:
    """Returns the host, its driver and the commit; the device's own words come from a section."""

    def words(*command: str) -> str:
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
            return done.stdout.strip() if done.returncode == 0 else ""
        return ""

    query = "--query-gpu=name,driver_version,memory.total"
    changed = words("git", "status", "--porcelain", "--untracked-files=no")
    return {
        "driver": words("nvidia-smi", query, "--format=csv,noheader"),
        "commit": (words("git", "rev-parse", "HEAD") or "unknown")
        + (" changed" if changed else ""),
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": datetime.now().isoformat(timespec="seconds"),
    }


def has_torch(python: str | None) -> bool:
    """Returns whether a Python has torch and transformers."""
    code = "import importlib.util as u; assert u.find_spec('torch') and u.find_spec('transformers')"
    return (
        python is not None
        and not subprocess.run([python, "-c", code], capture_output=True).returncode
    )


def main(argv):
    """Runs the sections and writes the page after each."""
    del argv
    FLAGS = flags.FLAGS
    out = Path(FLAGS.out)
    if out.exists() and not out.is_dir():
        sys.exit(f"error: --out must be a directory, got the file {str(out)!r}")
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    chosen = sections(FLAGS.rehearse)
    if FLAGS.sections:
        kinds = [section.name.partition(":")[0] for section in chosen]
        unknown = set(FLAGS.sections) - set(kinds)
        if unknown:
            allowed = ", ".join(dict.fromkeys(kinds))
            sys.exit(f"error: --sections must be of {allowed}, got {sorted(unknown)[0]!r}")
        chosen = [s for s, kind in zip(chosen, kinds) if kind in FLAGS.sections]
    torch_python = shutil.which(FLAGS.torch_python)
    torch_python = torch_python if has_torch(torch_python) else None
    about = describe() | {"command": " ".join(sys.argv), "rehearsal": FLAGS.rehearse}
    about["torch"] = torch_python or f"none: {FLAGS.torch_python} has no torch with transformers"
    rows, status = run_process(
        [sys.executable, "-m", "experiments.perf.accelerator_sections", "device", "{}"], 120
    )
    about |= rows[0] if rows else {"device": f"unknown: {status}"}

    def write(results):
        for name, text in (
            ("accelerator.json", json.dumps({"about": about, "sections": results}, indent=1)),
            ("accelerator.md", page(about, results)),
        ):
            (out / f"{name}.tmp").write_text(text + "\n", encoding="utf-8")
            (out / f"{name}.tmp").replace(out / name)
        if results:
            last = results[-1]
            print(f"{last['seconds']:6.1f} s  {last['name']}: {last['status']}", flush=True)

    write([])
    with tempfile.TemporaryDirectory() as folder:
        run_sections(
            chosen,
            FLAGS.minutes * 60 - (time.monotonic() - start),
            lambda section, seconds: run_section(section, seconds, torch_python, Path(folder)),
            write,
        )
    print(out / "accelerator.md")


if __name__ == "__main__":
    flags.DEFINE_float("minutes", 10.0, "For all sections.", lower_bound=0.1)
    flags.DEFINE_string("out", "accelerator", "Directory for the page and its numbers.")
    flags.DEFINE_boolean("rehearse", False, "Tiny sizes, on any device.")
    flags.DEFINE_list("sections", [], "Only these, such as roofline,attention.")
    flags.DEFINE_string("torch_python", sys.executable, "Python that may have torch and TRL.")
    app.run(main)
