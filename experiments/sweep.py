"""Makes the runs of a sweep: one after another, side by side in processes, or vmapped.

On a CPU, runs side by side in processes are faster than one vmapped program; on an accelerator it
is the other way round. Every run is a workdir of its own that looks the same whichever way it was
made, so that a sweep may be begun in one mode and ended in another, and goes on run by run.

The processes are not those of a pool: each keeps the programs that it has compiled, which take as
long as many runs, and is given the jobs that share them. Below: train, jobs. Above: run.
"""

import multiprocessing
import os
import queue
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.command import print_unraisable
from experiments.compilation import warn_once
from experiments.config import Config, ConfigError, SweepError
from experiments.experiment import Experiment, build_experiment, with_config
from experiments.jobs import (
    Job,
    copy_finished_runs,
    make_jobs,
    methods_by_program,
    next_job,
    steps_in_turn,
)
from experiments.learner import hyperparameters
from experiments.loop import Paused, Stopped
from experiments.metric_writer import Board, Progress, Reporter, write_json
from experiments.precompile import first_programs, usable_cores
from experiments.results import ERROR, sweep_runs, write_failure, write_results
from experiments.train import train, train_many
from experiments.warm_start import warm_start
from experiments.workdir import directory

Failures = dict[str, str]  # by job: what went wrong, and the traceback below it


def run_sweep(
    base: Config,
    runs: Mapping[str, Mapping[str, Any]],
    workdir: Path,
    shard: tuple[int, int] = (0, 1),
) -> None:
    """Makes all unfinished runs of a sweep, and results.csv of all that are there.

    Args:
      base: what the runs share.
      runs: overrides by run name, as experiments.grid puts them together.
      workdir: gets sweep.json, warm_start/, runs/<name>/ and results.csv.
      shard: (i, n): only every n-th run, from the i-th on.

    Raises:
      ConfigError: before any work, for a run that cannot run, or a workdir of another sweep.
      Stopped: after SIGTERM or Ctrl-C; every run under way has written a checkpoint.
      SweepError: if runs failed; the others were finished first. runs/NAME/error.txt says why.
    """
    mode, workdir = base.sweep.mode, directory(workdir)
    if mode == "auto":
        mode = "processes" if jax.default_backend() == "cpu" else "vmap"
    jobs = make_jobs(base, runs, workdir, shard)
    claim_sweep(runs, workdir)
    if base.sweep.reuse:
        copied = copy_finished_runs(jobs, Path(base.sweep.reuse).expanduser())
        print(f"{len(copied)} runs copied from {base.sweep.reuse}")
    for job in jobs:
        (workdir / "runs" / job.name / ERROR).unlink(missing_ok=True)
    failures: Failures = {}
    board = Board({job.name: _steps(job) for job in jobs})
    try:
        if mode == "processes":
            failures = _run_in_processes(jobs, base.sweep.workers or len(usable_cores()), board)
        elif mode == "vmap":
            failures = _run_vmapped(jobs, base.sweep.runs_together, board)
        else:
            failures = _run_serially(jobs, board)
    finally:
        board.close()
        for job in jobs:
            if job.is_run and job.name in failures:
                write_failure(job.directory, failures[job.name])
        write_results(workdir)
    raise_failures(failures, workdir)


def claim_sweep(runs: Mapping[str, Mapping[str, Any]], workdir: Path) -> None:
    """Writes sweep.json.

    Raises:
      ConfigError: if `workdir` holds another sweep.
    """
    if (workdir / "sweep.json").exists() and not runs.keys() & sweep_runs(workdir).keys():
        raise ConfigError(f"{workdir} holds another sweep: choose another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(
        workdir / "sweep.json",
        {"runs": [{"name": name, "overrides": dict(o)} for name, o in runs.items()]},
    )


def raise_failures(failures: Failures, workdir: Path) -> None:
    """Raises a SweepError of one line if a run failed."""
    for name, text in failures.items():
        raise SweepError(
            f"run {name} failed ({len(failures)} in all): {text.splitlines()[0]};"
            f" {workdir / 'results.csv'} has the status of every run"
        )


def _steps(job: Job) -> int:
    return job.config.steps if job.is_run else job.config.warm_start.steps


class Order(NamedTuple):
    """What a worker is given.

    Attributes:
      job: to make.
      most_steps: of a run, after which another has its turn; None for all.
      prepare: only compile what it begins with; nothing is answered.
    """

    job: Job
    most_steps: int | None = None
    prepare: bool = False


class _Worker:
    """Does jobs, keeping the step functions of the latest program key."""

    def __init__(self, methods: Mapping[str, list[tuple[str, dict]]]):
        self._methods = methods
        self._cached: tuple[str, Experiment] | None = None

    def experiment(self, job: Job) -> Experiment:
        """Returns the step functions for `job.program_key`; replaces the cached ones."""
        if self._cached is None or self._cached[0] != job.program_key:
            experiment = build_experiment(job.config, self._methods[job.program_key])
            self._cached = job.program_key, experiment
        return with_config(self._cached[1], job.config)

    def prepare(self, job: Job) -> None:
        """Compiles what a run begins with."""
        experiment = self.experiment(job)
        hyper = hyperparameters(experiment.config, experiment.methods)
        for compile_one in first_programs(experiment, hyper):
            compile_one()

    def do(self, job: Job, progress: Progress, most_steps: int | None = None) -> None:
        """Makes a warm start, or a run or the next `most_steps` of it."""
        if job.is_run:
            shared = self.experiment(job)
            train(
                job.config,
                job.directory,
                progress=progress,
                experiment=shared,
                most_steps=most_steps,
            )
        else:
            warm_start(self.experiment(job), job.directory, progress)


def failure_text(error: BaseException) -> str:
    """Returns what error.txt says of an error: a line, and the traceback of what no one expects."""
    if isinstance(error, (ConfigError, OSError)):
        return str(error)
    line = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return "\n".join([line, *traceback.format_exception(error)])


def _drop_dependents(waiting: list[Job], name: str, failures: Failures) -> None:
    """Gives up the runs that need a warm start which failed."""
    for job in [job for job in waiting if job.depends_on == name]:
        waiting.remove(job)
        failures[job.name] = f"its {name} failed"


def _run_serially(jobs: Sequence[Job], board: Board) -> Failures:
    worker, waiting, failures = _Worker(methods_by_program(jobs)), list(jobs), {}
    while waiting:
        job = waiting.pop(0)
        try:
            worker.do(job, Reporter(job.name, board.update))
            board.done(job.name)
        except Stopped:
            raise
        except Exception as error:
            failures[job.name] = failure_text(error)
            _drop_dependents(waiting, job.name, failures)
    return failures


def _run_vmapped(jobs: Sequence[Job], max_runs: int, board: Board) -> Failures:
    failures = _run_serially([job for job in jobs if not job.is_run], board)
    worker, waiting = _Worker(methods_by_program(jobs)), [job for job in jobs if job.is_run]
    for name in list(failures):
        _drop_dependents(waiting, name, failures)
    for key in dict.fromkeys(job.program_key for job in waiting):
        group = [job for job in waiting if job.program_key == key]
        try:
            errors = train_many(
                {job.directory: job.config for job in group},
                worker.experiment(group[0]),
                {job.directory: Reporter(job.name, board.update) for job in group},
                max_runs=max_runs or len(group),
            )
        except Stopped:
            raise
        except Exception as error:
            errors = dict.fromkeys((job.directory for job in group), error)
        for job in group:
            if job.directory in errors:
                failures[job.name] = failure_text(errors[job.directory])
            else:
                board.done(job.name)
    return failures


def _work(index: int, core: int | None, methods, inbox, messages) -> None:
    """One worker: does the jobs it is given until it is given None."""
    if core is not None:
        os.sched_setaffinity(0, {core})

    def tell(name, step, shown):
        messages.put((index, name, "step", (step, shown)))

    sys.unraisablehook = print_unraisable
    warn_once()
    worker = _Worker(methods)
    while (order := inbox.get()) is not None:
        job = order.job
        try:
            if order.prepare:
                with suppress(Exception):  # it is the run's to tell
                    worker.prepare(job)
                continue
            worker.do(job, Reporter(job.name, tell), order.most_steps)
            messages.put((index, job.name, "done", None))
        except Paused:
            messages.put((index, job.name, "paused", None))
        except Stopped:
            return
        except Exception as error:
            messages.put((index, job.name, "failed", failure_text(error)))


def _run_in_processes(jobs: Sequence[Job], workers: int, board: Board) -> Failures:
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    workers = max(1, min(workers, len(jobs)))
    inboxes = [context.Queue() for _ in range(workers)]
    cores = usable_cores()
    pinned = hasattr(os, "sched_setaffinity") and workers <= len(cores)
    methods = methods_by_program(jobs)
    processes = [
        context.Process(
            target=_work, args=(i, cores[i] if pinned else None, methods, inboxes[i], messages)
        )
        for i in range(workers)
    ]
    with _terminating(processes) as asked:
        # The children inherit the mask: Ctrl-C reaches them as a SIGTERM of this process.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        for process in processes:
            process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        failures = _deal(jobs, processes, inboxes, messages, board)
    if asked:
        raise Stopped("sweep stopped; every run has a checkpoint")
    return failures


@contextmanager
def _terminating(processes):
    """Passes SIGTERM and Ctrl-C on to the workers; yields a list, not empty once one came.

    A second Ctrl-C kills the workers.
    """
    asked: list[int] = []

    def stop(number, _):
        again = number == signal.SIGINT in asked
        asked.append(number)
        for process in processes:
            if process.pid and process.is_alive():
                process.kill() if again else process.terminate()
        if again:
            raise KeyboardInterrupt

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for process in processes:
            if process.pid:
                process.terminate()
                process.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _deal(jobs: Sequence[Job], processes, inboxes, messages, board: Board) -> Failures:
    """Gives jobs to workers until all are done or no worker is left; returns what went wrong."""
    waiting, failures = list(jobs), {}
    unmade = {job.name for job in jobs if not job.is_run}
    holds: dict[int, Job | None] = dict.fromkeys(range(len(processes)))  # what each is at
    keys: dict[int, str | None] = dict.fromkeys(range(len(processes)))  # compiled by each
    most_steps = steps_in_turn(jobs, len(processes))
    idle = set(range(len(processes)))  # that have not been given anything
    while waiting or any(holds.values()):
        for index, job in holds.items():
            if job is None and processes[index].is_alive():
                ready = [job for job in waiting if job.depends_on not in unmade]
                others = [k for i, k in keys.items() if i != index and k and holds[i]]
                job = next_job(ready, keys[index], others)
                if job is None and waiting and index in idle:  # for a warm start that others make
                    inboxes[index].put(Order(waiting[0], prepare=True))
                idle.discard(index)
                if job is not None:
                    waiting.remove(job)
                    holds[index], keys[index] = job, job.program_key
                    inboxes[index].put(Order(job, most_steps))
        # Asked before the queue is read: what a worker sent before it ended is read below.
        alive = [process.is_alive() for process in processes]
        try:
            index, name, kind, content = messages.get(timeout=0.5)
        except queue.Empty:
            for index, job in holds.items():
                if job is not None and not alive[index]:
                    code = processes[index].exitcode
                    failures[job.name] = f"its process ended with exit code {code}"
                    holds[index] = None
                    _drop_dependents(waiting, job.name, failures)
            if not any(alive):
                break
            continue
        if kind == "step":
            board.update(name, *content)
            continue
        job, holds[index] = holds[index], None
        if kind == "paused" and job is not None:
            waiting.append(job)  # behind those that have made fewer steps
        elif kind == "done":
            board.done(name)
            unmade.discard(name)
        else:
            failures[name] = content
            _drop_dependents(waiting, name, failures)
    return failures
