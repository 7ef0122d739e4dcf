"""The runs of a sweep, spread over the cores by worker processes.

On a CPU, runs side by side in processes are faster than one vmapped program. Each worker compiles
once: what differs between runs (seed, learning rate, advantage) is traced. Every run is a workdir
of its own and resumes by itself.
"""

import multiprocessing
import os
import queue
import signal
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from experiments.config import ConfigError
from experiments.logs import write_json
from experiments.progress import Bar, figures
from experiments.stage import Stopped
from experiments.train import compile_for, train, warm_start

# What the runs of a sweep may differ in: the values that a compiled program takes as traced.
WARM_START = "warm start"
TRACED = ("seed", "advantage", "optimizer.learning_rate")


def run_configs(
    base: ConfigDict, runs: Mapping[str, Mapping[str, Any]], workdir: Path
) -> dict[str, ConfigDict]:
    """Returns the config of each run of a sweep, by name.

    Args:
      base: what the runs share.
      runs: overrides by run name; keys are dotted fields, a dict replaces a whole subtree.
      workdir: of the sweep; the runs share the warm start in it.

    Raises:
      ConfigError: if an override names no field, or a field that is compiled in.
    """
    configs = {}
    for name, overrides in runs.items():
        config = base.copy_and_resolve_references()
        if config.warm_start.steps and not config.warm_start.workdir:
            config.warm_start.workdir = str(workdir / "warm_start")
        for field, value in overrides.items():
            if not any(field == t or field.startswith(f"{t}.") for t in TRACED):
                raise ConfigError(f"run {name} overrides {field}; a sweep may vary {TRACED}")
            *path, last = field.split(".")
            node = config
            for part in path:
                node = node[part]
            if last not in node:
                raise ConfigError(f"run {name} overrides {field}, which is no field of the config")
            with node.unlocked():
                del node[last]
                node[last] = value
        configs[name] = config
    return configs


def run_sweep(base: ConfigDict, runs: Mapping[str, Mapping[str, Any]], workdir: Path) -> None:
    """Runs all runs of a sweep that are not finished.

    Args:
      base: what the runs share.
      runs: overrides by run name.
      workdir: gets sweep.json, warm_start/ and runs/<name>/.

    Raises:
      ConfigError: before any work, for a run that cannot run.
      Stopped: after SIGTERM; every run has written a checkpoint.
      RuntimeError: if a run failed; the others were finished first.
    """
    configs = run_configs(base, runs, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    methods = [(c.advantage.name, c.advantage.kwargs.to_dict()) for c in configs.values()]
    write_json(
        workdir / "sweep.json",
        {"runs": [{"name": name, "overrides": dict(o)} for name, o in runs.items()]},
    )
    if base.sweep.mode == "serial":
        _run_serially(configs, methods, workdir)
    else:
        _run_in_processes(configs, methods, workdir, base.sweep.workers or _cores())


def _cores() -> int:
    return len(_affinity())


def _affinity() -> list[int]:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _run_serially(configs: Mapping[str, ConfigDict], methods, workdir: Path) -> None:
    compiled = compile_for(next(iter(configs.values())), methods)
    for name, config in configs.items():
        train(config, workdir / "runs" / name, progress=Bar(name), compiled=compiled)


class _Reporter:
    """A Progress that sends what it hears to the parent process."""

    def __init__(self, name: str, messages: multiprocessing.Queue):
        self._name, self._messages = name, messages

    def start(self, name: str, step: int, total: int) -> None:
        self._messages.put((self._name, "step", (step, {})))

    def update(self, step: int, line: Mapping[str, object]) -> None:
        self._messages.put((self._name, "step", (step, figures(line))))

    def finish(self) -> None:
        """The parent hears of the end of the run, not of its stages."""


def _work(index, core, configs, methods, workdir, names, ready, messages) -> None:
    """One worker: compiles once, then takes runs until none is left."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    name = WARM_START
    try:
        first = next(iter(configs.values()))
        compiled = compile_for(first, methods)
        if first.warm_start.steps and index == 0:
            progress = _Reporter(name, messages)
            warm_start(first, compiled, progress, first.warm_start.workdir)
            messages.put((name, "done", None))
        if index == 0:
            ready.set()
        ready.wait()
        while (name := names.get()) is not None:
            progress = _Reporter(name, messages)
            train(configs[name], workdir / "runs" / name, progress=progress, compiled=compiled)
            messages.put((name, "done", None))
    except Stopped as stopped:
        messages.put((name, "stopped", str(stopped)))
    except BaseException as error:
        kind = "invalid" if isinstance(error, (ConfigError, FileNotFoundError)) else "failed"
        text = str(error) if kind == "invalid" else traceback.format_exc()
        messages.put((name, kind, text))


def _run_in_processes(
    configs: Mapping[str, ConfigDict], methods, workdir: Path, workers: int
) -> None:
    context = multiprocessing.get_context("spawn")
    names, messages, ready = context.Queue(), context.Queue(), context.Event()
    workers = min(workers, len(configs))
    for name in [*configs, *[None] * workers]:
        names.put(name)
    cores = _affinity()
    pinned = hasattr(os, "sched_setaffinity") and workers <= len(cores)
    processes = [
        context.Process(
            target=_work,
            args=(
                i,
                cores[i] if pinned else None,
                dict(configs),
                methods,
                workdir,
                names,
                ready,
                messages,
            ),
        )
        for i in range(workers)
    ]
    asked = []

    def stop(*_):
        asked.append(True)
        for process in processes:
            if process.pid and process.is_alive():
                process.terminate()

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        for process in processes:
            process.start()
        problems = _follow(configs, processes, messages)
    finally:
        for process in processes:
            process.terminate()
            process.join()
        signal.signal(signal.SIGTERM, previous)
    if asked:
        raise Stopped("sweep stopped; every run has a checkpoint")
    for name, (kind, text) in problems.items():
        if kind == "invalid":
            raise ConfigError(f"run {name}: {text}")
        raise RuntimeError(f"run {name} {kind}: {text}")


def _follow(configs: Mapping[str, ConfigDict], processes, messages) -> dict[str, tuple[str, str]]:
    """Shows one bar for each run until all workers have ended; returns what went wrong."""
    totals = {name: config.steps for name, config in configs.items()}
    first = next(iter(configs.values()))
    if first.warm_start.steps:
        totals = {WARM_START: first.warm_start.steps} | totals
    width = max(map(len, totals))
    bars: dict[str, tqdm] = {}
    shown: dict[str, dict[str, str]] = {}
    problems: dict[str, tuple[str, str]] = {}
    while True:
        # Asked before the queue is read: what a worker sent before it ended is read below.
        alive = any(process.is_alive() for process in processes)
        try:
            name, kind, content = messages.get(timeout=0.5)
        except queue.Empty:
            if alive:
                continue
            break
        if name not in bars:
            bars[name] = tqdm(
                total=totals[name], desc=name.ljust(width), unit="step", dynamic_ncols=True
            )
            shown[name] = {}
        if kind == "step":
            step, numbers = content
            shown[name] |= numbers
            bars[name].set_postfix(shown[name], refresh=False)
            bars[name].update(step - bars[name].n)
        elif kind == "done":
            bars[name].update(totals[name] - bars[name].n)
            bars[name].refresh()
        else:
            problems[name] = (kind, content)
            if name == WARM_START:  # the other workers would wait for it for ever
                break
    for bar in bars.values():
        bar.close()
    for process in processes:
        if process.exitcode not in (0, None) and not problems:
            problems["worker"] = ("died", f"exit code {process.exitcode}")
    return problems
