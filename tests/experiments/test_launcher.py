"""Sweeps by jobs: on this machine by submitit's local executor, on SLURM by commands that stand in."""

import json
import os
import pickle
import signal
import sys
import threading
import time

import pytest

from experiments import launcher
from experiments.config import ConfigError, SweepError
from experiments.grid import axis
from experiments.launcher import Part, launch_sweep, make_executor
from experiments.loop import Stopped
from experiments.metric_writer import read_lines
from experiments.sweep import run_sweep
from tests.experiments.tiny_config import get_config as tiny_config

submitit = pytest.importorskip("submitit")

RUNS = axis("seed", (0, 1, 2), "seed")


@pytest.fixture(name="config")
def config_fixture():
    """The tiny sweep."""
    config = tiny_config()
    config.sweep.mode = "serial"
    config.launcher.minutes = 30
    return config


def result(workdir, name):
    values = json.loads((workdir / "runs" / name / "result.json").read_text())
    return {k: v for k, v in values.items() if not k.endswith(("seconds", "_per_second"))}


def rows(workdir):
    return (workdir / "results.csv").read_text().splitlines()


@pytest.mark.slow
def test_launch_sweep_locally_equals_run_sweep(config, tmp_path, capsys):
    config.warm_start.steps, config.learner.entropy.coefficient = 4, 0.1
    run_sweep(config, RUNS, tmp_path / "here")
    config.launcher.jobs = 2
    launch_sweep(config, RUNS, tmp_path / "jobs", "local", 0.1)
    for name in RUNS:
        assert result(tmp_path / "jobs", name) == result(tmp_path / "here", name)
    assert rows(tmp_path / "jobs") == rows(tmp_path / "here")
    assert "2/2" in capsys.readouterr().err
    submitted = (tmp_path / "jobs/launcher/jobs.json").read_text()
    launch_sweep(config, RUNS, tmp_path / "jobs", "local", 0.1)  # nothing is left
    assert (tmp_path / "jobs/launcher/jobs.json").read_text() == submitted


def child_of(process):
    """The process id of the task that submitit's controller runs."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with open(f"/proc/{process}/task/{process}/children") as file:
            if children := file.read().split():
                return int(children[0])
        time.sleep(0.05)
    raise AssertionError("no task")


def long_config():
    """A sweep of 40 steps without a warm start; the bonus moves the policy."""
    config = tiny_config()
    config.steps, config.checkpoint.every, config.evaluation.every = 40, 20, 40
    config.warm_start.steps, config.learner.entropy.coefficient = 0, 0.1
    config.launcher.minutes, config.sweep.workers = 30, 1
    config.sweep.mode = "serial"
    return config


TWO = axis("seed", (1, 2), "seed")


@pytest.fixture(scope="module", name="here")
def here_fixture(tmp_path_factory):
    """The long sweep, by this process."""
    workdir = tmp_path_factory.mktemp("here")
    run_sweep(long_config(), TWO, workdir)
    return workdir


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the task in /proc")
@pytest.mark.parametrize("mode", ["serial", "processes"])
def test_launch_sweep_requeues_a_preempted_job_which_ends_with_the_same_bits(here, tmp_path, mode):
    config = long_config()
    config.sweep.mode = mode
    workdir, stopped_at = tmp_path / "jobs", []

    def preempt():
        log = workdir / "runs/seed1/metrics.jsonl"
        while len(read_lines(log)) < 4:
            time.sleep(0.02)
        job = json.loads((workdir / "launcher/jobs.json").read_text())["jobs"]["0"]
        task = child_of(int(job))
        os.kill(task, signal.SIGUSR2)
        while os.path.exists(f"/proc/{task}"):
            time.sleep(0.02)
        step = read_lines(log)[-1]["step"]
        if (workdir / f"runs/seed1/checkpoints/{step}").exists():
            stopped_at.append(step)

    thread = threading.Thread(target=preempt)
    thread.start()
    launch_sweep(config, TWO, workdir, "local", 0.1)
    thread.join()
    assert 0 < stopped_at[0] < 40  # with a checkpoint, which is not due before step 20
    assert "Requeued job" in next((workdir / "launcher").glob("*_log.err")).read_text()
    for name in TWO:
        assert result(workdir, name) == result(here, name)


class Job:
    """Stands for a job of submitit that ends at once, after doing `work`."""

    def __init__(self, part, work, name):
        self.job_id, self.state = name, "FAILED"
        self.paths = type("Paths", (), {"stderr": "its.log"})
        self.error = None
        try:
            work(part)
        except Exception as error:
            self.error = error

    def done(self):
        return True

    def exception(self):
        return self.error


def launched(monkeypatch, work):
    """Makes launch_sweep do `work` for each part; returns the parts."""
    parts = []

    def submit(_, new):
        parts.extend(new)
        return [Job(part, work, f"7_{i}") for i, part in enumerate(new)]

    monkeypatch.setattr(launcher, "make_executor", lambda *_: None)
    monkeypatch.setattr(launcher, "_submit", submit)
    return parts


def finish(part, *names):
    for name in names:
        folder = part.workdir / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"steps": part.base.steps}))
        (folder / "result.json").write_text(json.dumps({"step": part.base.steps}))


def test_launch_sweep_submits_the_unfinished_parts(config, tmp_path, monkeypatch):
    parts = launched(monkeypatch, lambda part: finish(part, *part.names()))
    finish(Part(config, RUNS, tmp_path, (0, 1)), "seed0", "seed2")
    config.launcher.jobs = 2
    launch_sweep(config, RUNS, tmp_path, "slurm", 0.0)
    assert [(part.shard, part.names()) for part in parts] == [((1, 2), ["seed1"])]
    assert [line.split(",")[0] for line in rows(tmp_path)] == ["run", *RUNS]


def test_launch_sweep_says_why_runs_have_no_result(config, tmp_path, monkeypatch):
    """Of three jobs one does its part, one raises before its run, and one is killed."""
    monkeypatch.setattr(launcher, "_requeue_when_preempted", lambda: None)

    def run(base, runs, workdir, shard):
        if shard[0] == 1:
            raise ZeroDivisionError("no\nluck")
        finish(Part(base, runs, workdir, shard), "seed0")

    monkeypatch.setattr(launcher, "run_sweep", run)
    launched(monkeypatch, lambda part: part() if part.shard[0] < 2 else None)
    with pytest.raises(
        SweepError, match=r"run seed1 failed \(2 in all\): ZeroDiv.*: no luck; .*csv"
    ):
        launch_sweep(config, RUNS, tmp_path, "slurm", 0.0)
    assert not (tmp_path / "runs/seed0/error.txt").exists()
    assert (tmp_path / "runs/seed1/error.txt").read_text().startswith("ZeroDivisionError: no luck")
    assert (tmp_path / "runs/seed2/error.txt").read_text() == (
        "its job 7_2 ended in state FAILED; its log is its.log\n"
    )
    assert [line.split(",")[0] for line in rows(tmp_path)] == ["run", *RUNS]


def test_part_is_pickled_and_requeued_as_it_is(config, tmp_path):
    part = Part(config, RUNS, tmp_path, (1, 2))
    for copy in (pickle.loads(pickle.dumps(part)), part.checkpoint().function):
        assert copy.base.to_dict() == config.to_dict()
        assert copy[1:] == part[1:]
    assert part.names() == ["seed1"]


@pytest.fixture(name="slurm")
def slurm_fixture(tmp_path, monkeypatch):
    """Commands in place of SLURM's: sbatch keeps what it is given, sacct reads states from a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    commands = {
        "srun": "",
        "sbatch": f'cp "$1" {folder}/submitted.sh; echo Submitted batch job 12',
        "sacct": f"cat {folder}/states",
    }
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    (folder / "states").write_text("JobID|State|NodeList\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(submitit.SlurmJob, "watcher", type(submitit.SlurmJob.watcher)(delay_s=0))
    return folder


def interrupt(monkeypatch):
    def sleep(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(launcher.time, "sleep", sleep)


def test_launch_sweep_submits_an_array_with_the_resources(slurm, config, tmp_path, monkeypatch):
    config.launcher.update(partition="gpu", account="lab", gpus=2, cpus=8, memory_gb=64)
    config.launcher.update(minutes=90, at_once=2, requeues=7)
    with config.unlocked():
        config.launcher.parameters.slurm_qos = "high"
        config.launcher.parameters.slurm_setup = ["module load cuda"]
        config.launcher.parameters.slurm_additional_parameters = {"mail-type": "END"}
    interrupt(monkeypatch)
    with pytest.raises(Stopped, match="left the jobs 12 to slurm, where `scancel 12` ends them"):
        launch_sweep(config, RUNS, tmp_path / "lr", "slurm")
    lines = (slurm / "submitted.sh").read_text().splitlines()
    asked = dict(line[10:].partition("=")[::2] for line in lines if line.startswith("#SBATCH --"))
    expected = {
        "array": "0-2%2", "partition": "gpu", "account": "lab", "gpus-per-node": "2",
        "cpus-per-task": "8", "mem": "64GB", "time": "90", "qos": "high", "mail-type": "END",
        "job-name": "lr", "signal": "USR2@90", "open-mode": "append",
    }  # fmt: skip
    assert {name: asked[name] for name in expected} == expected
    assert "module load cuda" in lines
    folder = tmp_path / "lr/launcher"
    assert json.loads((folder / "jobs.json").read_text()) == {
        "cluster": "slurm", "parts": 3, "jobs": {"0": "12_0", "1": "12_1", "2": "12_2"},
    }  # fmt: skip
    with (folder / "12_1_submitted.pkl").open("rb") as file:
        submission = pickle.load(file)
    assert submission.function.names() == ["seed1"]
    assert submission._timeout_countdown == 7


def test_make_executor_asks_for_nothing_by_default(slurm, config, tmp_path):
    executor = make_executor(tiny_config(), tmp_path / "lr/launcher", "slurm")
    text = executor._executor._make_submission_file_text("command", "uid")
    asked = {line[10:].partition("=")[0] for line in text.splitlines() if "#SBATCH" in line}
    assert asked <= {"error", "job-name", "nodes", "open-mode", "output", "signal", "time", "wckey"}


def test_launch_sweep_again_waits_for_live_jobs_and_submits_the_others(
    slurm, config, tmp_path, monkeypatch
):
    config.launcher.jobs = 2
    interrupt(monkeypatch)
    with pytest.raises(Stopped):
        launch_sweep(config, RUNS, tmp_path / "lr", "slurm")
    (slurm / "states").write_text("JobID|State|NodeList\n12_0|RUNNING|a\n12_1|OUT_OF_MEMORY|b\n")
    submit = (slurm / "sbatch").read_text()
    (slurm / "sbatch").write_text(submit.replace("job 12", "job 13"))
    with pytest.raises(Stopped, match="left the jobs 12 13 to slurm"):
        launch_sweep(config, RUNS, tmp_path / "lr", "slurm")
    jobs = json.loads((tmp_path / "lr/launcher/jobs.json").read_text())["jobs"]
    assert jobs == {"0": "12_0", "1": "13"}
    config.launcher.jobs = 3
    with pytest.raises(ConfigError, match=r"config.launcher.jobs must be 2 while jobs .*, got 3"):
        launch_sweep(config, RUNS, tmp_path / "lr", "slurm")


def test_launch_sweep_says_why_sbatch_refuses(slurm, config, tmp_path):
    (slurm / "sbatch").write_text("#!/bin/sh\necho sbatch: error: invalid partition >&2; exit 1\n")
    with pytest.raises(ConfigError, match=r"sbatch refuses the jobs: .*invalid partition"):
        launch_sweep(config, RUNS, tmp_path / "lr", "slurm")


@pytest.mark.parametrize("name", ["slurm_qoz", "cpus", "local_signal"])
def test_make_executor_refuses_what_submitit_does_not_take(slurm, config, tmp_path, name):
    with config.unlocked():
        config.launcher.parameters[name] = "x"
    with pytest.raises(
        ConfigError, match=r"config.launcher.parameters must be arguments"
    ) as caught:
        make_executor(config, tmp_path, "slurm")
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_make_executor_without_slurm_or_submitit_is_one_line(config, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^--launcher=slurm: .*srun"):
        make_executor(config, tmp_path, "slurm")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[slurm\]'"):
        make_executor(config, tmp_path, "slurm")


@pytest.mark.parametrize(
    ("config", "flag", "message"),
    [
        ("configs/sweeps/core.py:smoke", "--shard=0/2", "--launcher=local makes every part"),
        ("tests/experiments/tiny_config.py", "--noreport", "--launcher=local is for sweeps"),
    ],
)
def test_run_command_refuses_a_launcher(command, tmp_path, config, flag, message):
    process = command(
        "experiments.run", f"--config={config}", f"--workdir={tmp_path}", "--launcher=local", flag
    )
    out, error = process.communicate(timeout=120)
    assert (out, process.returncode) == ("", 2)
    assert error.startswith(f"error: {message}")
    assert not any(tmp_path.iterdir())
