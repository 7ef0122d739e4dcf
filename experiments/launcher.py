"""Makes the runs of a sweep by jobs of a cluster: `python -m experiments.run --launcher=slurm`.

Each job makes one part of the sweep, as `--shard=i/n` does, and so its own copy of a warm start: no
job waits for another, a warm start that fails takes one part with it, and runs that share a program
compile it once. A job that is preempted, or runs out of its minutes, writes its checkpoints, is
requeued by submitit and goes on. Below: sweep. Above: run.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from tqdm import tqdm

from experiments.config import Config, ConfigError, SweepError, read_object, shown
from experiments.jobs import make_jobs
from experiments.loop import Stopped
from experiments.metric_writer import write_json
from experiments.results import ERROR, write_failure, write_results
from experiments.sweep import claim_sweep, failure_text, raise_failures, run_sweep
from experiments.workdir import directory, finished_result

CLUSTERS = ("slurm", "local")
STAGES = ("pending", "running", "done", "failed")
PENDING = ("PENDING", "REQUEUED", "READY", "PREEMPTED", "UNKNOWN")


class Part(NamedTuple):
    """What one job does: a part of the sweep.

    Attributes:
      base: what the runs share.
      runs: overrides by run name, of the whole sweep.
      workdir: of the sweep.
      shard: (i, n), which part it is.
    """

    base: Config
    runs: dict[str, dict[str, Any]]
    workdir: Path
    shard: tuple[int, int]

    def __call__(self) -> None:
        """Makes the unfinished runs of the part; submitit calls it in the job."""
        stopped = _requeue_when_preempted()
        try:
            run_sweep(*self)
        except Stopped:
            stopped()
        except SweepError:
            raise
        except Exception as error:  # before the first run
            for name in self.names():
                if not (self.workdir / "runs" / name / "result.json").exists():
                    write_failure(self.workdir / "runs" / name, failure_text(error))
            raise

    def names(self) -> list[str]:
        """Returns the names of the runs of the part."""
        index, count = self.shard
        return list(self.runs)[index::count]

    def checkpoint(self) -> Any:
        """Returns what submitit requeues: the same call, which goes on from the checkpoints."""
        return _submitit().helpers.DelayedSubmission(self)


def _submitit() -> ModuleType:
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(
            f"--launcher needs the package submitit: pip install '.[slurm]' ({error})"
        ) from error
    return submitit


def _requeue_when_preempted() -> Callable[[], NoReturn]:
    """Makes the signal of submitit a SIGTERM, which a run answers with a checkpoint.

    SLURM sends a signal to every process of a job, and it would kill the workers. So it is blocked,
    which they inherit, and a thread waits for it.

    Returns:
      What to call when the runs have stopped; ends the process.
    """
    number = getattr(signal, f"SIG{_submitit().JobEnvironment.USR_SIG}")
    requeue: Any = signal.getsignal(number)  # of submitit; ends the process
    preempted = threading.Event()

    def stop(*_):
        preempted.set()
        os.kill(os.getpid(), signal.SIGTERM)

    def stop_between_loops(_, frame):
        if preempted.is_set():
            requeue(number, frame)

    def wait():
        while True:
            signal.sigwait({number})
            stop()

    def stopped() -> NoReturn:
        if preempted.is_set():
            requeue(number, None)
        # SLURM requeues a job that it preempts by itself, and lets one that was cancelled end.
        sys.exit("stopped by SIGTERM, with a checkpoint of every run")

    signal.signal(signal.SIGTERM, stop_between_loops)
    signal.signal(number, stop)  # for threads that began before it is blocked
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    threading.Thread(target=wait, daemon=True).start()
    return stopped


def launch_sweep(
    base: Config,
    runs: Mapping[str, Mapping[str, Any]],
    workdir: Path,
    cluster: str,
    poll_seconds: float = 5.0,
) -> None:
    """Submits the unfinished parts of a sweep as jobs, waits for them, and writes results.csv.

    Jobs of an earlier call that are pending or running are waited for, not submitted again.

    Args:
      base: what the runs share; `base.launcher` has the resources of a job.
      runs: overrides by run name.
      workdir: of the sweep, on a disk that the jobs see; gets launcher/ too, with the logs of jobs.
      cluster: one of CLUSTERS. On "local" all jobs run on this machine, and Ctrl-C stops them.
      poll_seconds: between two looks at the jobs.

    Raises:
      ConfigError: before any work, for a run that cannot run or a job that cannot be submitted.
      Stopped: after Ctrl-C; the jobs go on.
      SweepError: if runs failed, or their job ended without them.
    """
    workdir = directory(workdir).absolute()
    folder, wanted = workdir / "launcher", base.launcher.jobs
    made = [job for job in make_jobs(base, runs, workdir) if job.is_run]
    executor = make_executor(base, folder, cluster)
    count = min(len(runs), wanted or (len(runs) if cluster == "slurm" else 1))
    overrides = {name: dict(changed) for name, changed in runs.items()}
    parts = [Part(base, overrides, workdir, (index, count)) for index in range(count)]

    def unfinished() -> dict[str, Path]:
        left = [job for job in made if finished_result(job.config, job.directory) is None]
        return {job.name: job.directory for job in left}

    jobs = _live_jobs(folder, cluster, count)
    claim_sweep(runs, workdir)
    left = unfinished()
    new = [p for p in parts if p.shard[0] not in jobs and left.keys() & set(p.names())]
    if new:
        for name in left.keys() & {name for part in new for name in part.names()}:
            (left[name] / ERROR).unlink(missing_ok=True)
        jobs |= zip([part.shard[0] for part in new], _submit(executor, new), strict=True)
        folder.mkdir(exist_ok=True)
        ids = {str(index): job.job_id for index, job in jobs.items()}
        write_json(folder / "jobs.json", {"cluster": cluster, "parts": count, "jobs": ids})
    try:
        _wait(list(jobs.values()), poll_seconds)
    except KeyboardInterrupt:
        ids = " ".join(dict.fromkeys(job.job_id.split("_")[0] for job in jobs.values()))
        if cluster == "local":
            raise Stopped(f"stopped the jobs {ids}") from None
        raise Stopped(
            f"left the jobs {ids} to {cluster}, where `scancel {ids}` ends them"
        ) from None
    failures = {}
    for name, run in unfinished().items():
        if not (run / ERROR).exists():
            job = next(jobs[part.shard[0]] for part in parts if name in part.names())
            ended = f"its job {job.job_id} ended in state {job.state}"
            write_failure(run, f"{ended}; its log is {job.paths.stderr}")
        failures[name] = (run / ERROR).read_text(encoding="utf-8", errors="replace")
    write_results(workdir)
    raise_failures(failures, workdir)


def make_executor(base: Config, folder: Path, cluster: str) -> Any:
    """Returns the submitit executor for jobs with the resources of `base.launcher`.

    Args:
      base: what the runs share.
      folder: for the logs and pickles of jobs.
      cluster: one of CLUSTERS.

    Raises:
      ConfigError: if submitit or SLURM is not there, or config.launcher.parameters cannot be.
    """
    submitit, settings = _submitit(), base.launcher
    asked = {
        "name": folder.parent.name,
        "timeout_min": settings.minutes,
        "slurm_partition": settings.partition or None,
        "slurm_account": settings.account or None,
        "gpus_per_node": settings.gpus or None,
        "cpus_per_task": settings.cpus or None,
        "mem_gb": settings.memory_gb or None,
        "slurm_array_parallelism": settings.at_once or None,
    }
    try:
        executor = submitit.AutoExecutor(
            folder,
            cluster=cluster,
            slurm_max_num_timeout=settings.requeues,
            local_max_num_timeout=settings.requeues,
        )
    except RuntimeError as error:
        raise ConfigError(f"--launcher={cluster}: {error}") from error
    try:
        executor.update_parameters(**asked | settings.parameters.to_dict())
    except Exception as error:  # submitit raises NameError, AssertionError, TypeError, ValueError
        raise ConfigError(
            "config.launcher.parameters must be arguments of submitit's"
            f" AutoExecutor.update_parameters, got {shown(settings.parameters.to_dict())}:"
            f" {shown(str(error))}"
        ) from error
    return executor


def _live_jobs(folder: Path, cluster: str, parts: int) -> dict[int, Any]:
    """Returns the jobs of an earlier call that are pending or running, by part."""
    path = folder / "jobs.json"
    saved = read_object(path) if path.exists() else {}
    if cluster == "local" or saved.get("cluster") != cluster:
        return {}  # jobs on this machine end with the command that submitted them
    jobs = {int(i): _submitit().SlurmJob(folder, name) for i, name in saved["jobs"].items()}
    live = {index: job for index, job in jobs.items() if not job.done(force_check=True)}
    if live and saved["parts"] != parts:
        raise ConfigError(
            f"config.launcher.jobs must be {saved['parts']} while jobs of {path} are pending or"
            f" running, got {parts}; wait for them, or end them with scancel"
        )
    return live


def _submit(executor: Any, parts: Sequence[Part]) -> list[Any]:
    submitit = _submitit()
    try:
        with submitit.helpers.clean_env():  # the command may itself run in a job
            return executor.submit_array(parts)
    except submitit.core.utils.FailedJobError as error:
        last = str(error).strip().splitlines()[-1]
        raise ConfigError(f"sbatch refuses the jobs: {last}") from error


def _wait(jobs: Sequence[Any], poll_seconds: float) -> None:
    """Returns when all jobs have ended; shows how many are pending, running, done and failed."""
    ended: dict[str, str] = {}
    with tqdm(total=len(jobs), unit="job", dynamic_ncols=True) as bar:
        while True:
            counts: dict[str, int] = dict.fromkeys(STAGES, 0)
            for job in jobs:
                if job.job_id not in ended and job.done():
                    ended[job.job_id] = "failed" if job.exception() else "done"
                going = "pending" if job.state.split()[0] in PENDING else "running"
                counts[ended.get(job.job_id, going)] += 1
            bar.n = len(ended)
            bar.set_postfix(counts)
            if len(ended) == len(jobs):
                return
            time.sleep(poll_seconds)
