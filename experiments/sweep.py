"""The runs of a sweep: one after another, side by side in processes, or in one vmapped program.

On a CPU, runs side by side in processes are faster than one vmapped program; on an accelerator it
is the other way round. Every run is a workdir of its own that looks the same whichever way it was
made, so that a sweep may be begun in one mode and ended in another, and goes on run by run.
"""

import multiprocessing
import os
import queue
import signal
import traceback
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from experiments.config import ConfigError
from experiments.jobs import Job, jobs_of, methods_of, next_job
from experiments.loop import Stopped
from experiments.metric_writer import Board, Progress, Reporter, write_json
from experiments.reuse import take_over
from experiments.together import train_together
from experiments.train import Compiled, compile_for, train, warm_start

Problems = dict[str, tuple[str, str]]  # by job: "invalid" or "failed", and the message


def run_sweep(
    base: ConfigDict,
    runs: Mapping[str, Mapping[str, Any]],
    workdir: Path,
    shard: tuple[int, int] = (0, 1),
) -> None:
    """Makes all runs of a sweep that are not finished, and the table of all that are there.

    Args:
      base: what the runs share.
      runs: overrides by run name, as experiments.grid puts them together.
      workdir: gets sweep.json, warm_start/, runs/<name>/ and results.csv.
      shard: (i, n): only every n-th run, from the i-th on.

    Raises:
      ConfigError: before any work, for a run that cannot run.
      Stopped: after SIGTERM; every run has written a checkpoint.
      RuntimeError: if a run failed; the others were finished first.
    """
    mode = base.sweep.mode
    if mode == "auto":
        mode = "processes" if jax.default_backend() == "cpu" else "vmap"
    jobs = jobs_of(base, runs, workdir, shard)
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(
        workdir / "sweep.json",
        {"runs": [{"name": name, "overrides": dict(o)} for name, o in runs.items()]},
    )
    if base.sweep.reuse:
        taken = take_over(jobs, Path(base.sweep.reuse).expanduser())
        print(f"{len(taken)} runs copied from {base.sweep.reuse}")
    board = Board({job.name: _steps(job) for job in jobs})
    try:
        if mode == "processes":
            problems = _run_in_processes(jobs, base.sweep.workers or len(_affinity()), board)
        elif mode == "vmap":
            problems = _run_together(jobs, base.sweep.runs_together, board)
        else:
            problems = _run_serially(jobs, board)
    finally:
        board.close()
        _write_table(workdir)
    for name, (kind, text) in problems.items():
        if kind == "invalid":
            raise ConfigError(f"run {name}: {text}")
        raise RuntimeError(f"run {name} failed ({len(problems)} in all): {text}")


def _write_table(workdir: Path) -> None:
    # Imported here: it brings the pictures of the report with it, which no worker needs.
    from experiments.results import write_results

    if any(workdir.glob("runs/*/metrics.jsonl")):
        write_results(workdir)


def _steps(job: Job) -> int:
    return job.config.steps if job.trains else job.config.warm_start.steps


class _Workshop:
    """Does jobs, with the programs of the latest shape at hand."""

    def __init__(self, methods: Mapping[str, list[tuple[str, dict]]]):
        self._methods = methods
        self._compiled: Compiled | None = None
        self.shape: str | None = None

    def compiled(self, job: Job) -> Compiled:
        """The programs of a job's shape; those of the shape before are let go."""
        if job.shape != self.shape:
            self._compiled = compile_for(job.config, self._methods[job.shape])
            self.shape = job.shape
        return self._compiled

    def do(self, job: Job, progress: Progress) -> None:
        """Makes a warm start or a run."""
        if job.trains:
            train(job.config, job.directory, progress=progress, compiled=self.compiled(job))
        else:
            warm_start(job.config, self.compiled(job), progress, job.directory)


def _problem(error: BaseException) -> tuple[str, str]:
    if isinstance(error, (ConfigError, FileNotFoundError)):
        return "invalid", str(error)
    return "failed", "".join(traceback.format_exception(error))


def _drop_dependents(waiting: list[Job], name: str, problems: Problems) -> None:
    """Gives up the runs that need a warm start which failed."""
    for job in [job for job in waiting if job.needs == name]:
        waiting.remove(job)
        problems[job.name] = ("failed", f"its {name} failed")


def _run_serially(jobs: Sequence[Job], board: Board) -> Problems:
    workshop, waiting, problems = _Workshop(methods_of(jobs)), list(jobs), {}
    while waiting:
        job = waiting.pop(0)
        try:
            workshop.do(job, Reporter(job.name, board.update))
            board.done(job.name)
        except Stopped:
            raise
        except Exception as error:
            problems[job.name] = _problem(error)
            _drop_dependents(waiting, job.name, problems)
    return problems


def _run_together(jobs: Sequence[Job], most: int, board: Board) -> Problems:
    problems = _run_serially([job for job in jobs if not job.trains], board)
    workshop, waiting = _Workshop(methods_of(jobs)), [job for job in jobs if job.trains]
    for name in list(problems):
        _drop_dependents(waiting, name, problems)
    for shape in dict.fromkeys(job.shape for job in waiting):
        group = [job for job in waiting if job.shape == shape]
        errors = train_together(
            {job.directory: job.config for job in group},
            workshop.compiled(group[0]),
            {job.directory: Reporter(job.name, board.update) for job in group},
            most=most or len(group),
        )
        for job in group:
            if job.directory in errors:
                problems[job.name] = _problem(errors[job.directory])
            else:
                board.done(job.name)
    return problems


def _affinity() -> list[int]:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _work(index: int, core: int | None, methods, inbox, messages) -> None:
    """One worker: does the jobs it is given until it is given None."""
    if core is not None:
        os.sched_setaffinity(0, {core})

    def tell(name, step, shown):
        messages.put((index, name, "step", (step, shown)))

    workshop = _Workshop(methods)
    while (job := inbox.get()) is not None:
        try:
            workshop.do(job, Reporter(job.name, tell))
            messages.put((index, job.name, "done", None))
        except Stopped:
            return
        except Exception as error:
            messages.put((index, job.name, *_problem(error)))


def _run_in_processes(jobs: Sequence[Job], workers: int, board: Board) -> Problems:
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    workers = max(1, min(workers, len(jobs)))
    inboxes = [context.Queue() for _ in range(workers)]
    cores = _affinity()
    pinned = hasattr(os, "sched_setaffinity") and workers <= len(cores)
    methods = methods_of(jobs)
    processes = [
        context.Process(
            target=_work, args=(i, cores[i] if pinned else None, methods, inboxes[i], messages)
        )
        for i in range(workers)
    ]
    with _terminating(processes) as asked:
        for process in processes:
            process.start()
        problems = _deal(jobs, processes, inboxes, messages, board)
    if asked:
        raise Stopped("sweep stopped; every run has a checkpoint")
    return problems


@contextmanager
def _terminating(processes):
    """Passes SIGTERM on to the workers; yields a list that holds something once it came."""
    asked: list[bool] = []

    def stop(*_):
        asked.append(True)
        for process in processes:
            if process.pid and process.is_alive():
                process.terminate()

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield asked
    finally:
        for process in processes:
            if process.pid:
                process.terminate()
                process.join()
        signal.signal(signal.SIGTERM, previous)


def _deal(jobs: Sequence[Job], processes, inboxes, messages, board: Board) -> Problems:
    """Gives jobs to workers until all are done or no worker is left; returns what went wrong."""
    waiting, problems = list(jobs), {}
    unmade = {job.name for job in jobs if not job.trains}
    holds: dict[int, Job | None] = dict.fromkeys(range(len(processes)))  # what each is at
    shapes: dict[int, str | None] = dict.fromkeys(range(len(processes)))
    while waiting or any(holds.values()):
        for index, job in holds.items():
            if job is None and processes[index].is_alive():
                ready = [job for job in waiting if job.needs not in unmade]
                others = [s for i, s in shapes.items() if i != index and s and holds[i]]
                job = next_job(ready, shapes[index], others)
                if job is not None:
                    waiting.remove(job)
                    holds[index], shapes[index] = job, job.shape
                    inboxes[index].put(job)
        # Asked before the queue is read: what a worker sent before it ended is read below.
        alive = [process.is_alive() for process in processes]
        try:
            index, name, kind, content = messages.get(timeout=0.5)
        except queue.Empty:
            for index, job in holds.items():
                if job is not None and not alive[index]:
                    text = f"its process ended with exit code {processes[index].exitcode}"
                    problems[job.name] = ("failed", text)
                    holds[index] = None
                    _drop_dependents(waiting, job.name, problems)
            if not any(alive):
                break
            continue
        if kind == "step":
            board.update(name, *content)
            continue
        holds[index] = None
        if kind == "done":
            board.done(name)
            unmade.discard(name)
        else:
            problems[name] = (kind, content)
            _drop_dependents(waiting, name, problems)
    return problems
