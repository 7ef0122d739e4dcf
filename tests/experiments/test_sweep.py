"""A sweep: every mode gives the same runs, finished ones are left alone, failures stay alone."""

import csv
import json
import queue
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from experiments import sweep as sweeps
from experiments.config import ConfigError
from experiments.grid import axis
from experiments.jobs import Job, copy_finished_runs, make_jobs
from experiments.metric_writer import read_lines
from experiments.results import write_results
from experiments.sweep import run_sweep
from experiments.train import train_many
from tests.experiments.tiny_config import get_config as tiny_config

# Methods in the order of tests/experiments/test_train.py, so that both find one compiled program.
RUNS = {
    "slow": {
        "advantage": {"name": "grpo", "kwargs": {}},
        "optimizer.learning_rate": 1e-4,
        "warm_start.steps": 4,
    },
    "power": {"advantage": {"name": "power", "kwargs": {"alpha": 2.0}}},
    "fade-seed1": {"seed": 1},
}


def config_of(mode, steps):
    config = tiny_config()
    config.steps = steps
    config.sweep.mode = mode
    config.sweep.workers = 1
    return config


def result(workdir, name):
    return json.loads((workdir / "runs" / name / "result.json").read_text())


def metrics(workdir, name):
    return read_lines(workdir / "runs" / name / "metrics.jsonl")


@pytest.fixture(scope="module", name="serial")
def serial_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("serial")
    run_sweep(config_of("serial", 4), RUNS, workdir)
    return workdir


def test_copy_finished_runs_copies_equal_configs(serial, tmp_path):
    (tmp_path / "sweeps").mkdir()
    shutil.copytree(serial, tmp_path / "sweeps" / "old")
    (tmp_path / "sweeps/old/runs/slow/result.json").unlink()  # not finished
    runs = {
        "equal": RUNS["fade-seed1"],
        "other": RUNS["fade-seed1"] | {"optimizer.learning_rate": 5e-4},
        "unfinished": RUNS["slow"],
    }
    jobs = make_jobs(config_of("serial", 4), runs, tmp_path / "new")
    assert copy_finished_runs(jobs, tmp_path / "sweeps") == ["equal"]
    assert [p.name for p in (tmp_path / "new/runs").iterdir()] == ["equal"]
    assert result(tmp_path / "new", "equal") == result(serial, "fade-seed1")
    longer = make_jobs(config_of("serial", 6), runs, tmp_path / "longer")
    assert copy_finished_runs(longer, tmp_path / "sweeps") == []
    with pytest.raises(ConfigError, match=r"config\.sweep\.reuse must be a directory of sweeps"):
        copy_finished_runs(jobs, tmp_path / "nowhere")


def test_run_sweep_shares_warm_starts(serial):
    assert len({result(serial, name)["params_sha256"] for name in RUNS}) == 3
    assert sorted(p.name for p in (serial / "warm_start").iterdir()) == ["steps4", "steps40"]
    assert json.loads((serial / "sweep.json").read_text())["runs"][0] == {
        "name": "slow",
        "overrides": RUNS["slow"],
    }
    assert not list(serial.glob("runs/*/warm_start"))


@pytest.mark.slow
def test_run_sweep_in_processes_equals_serial(serial, tmp_path):
    """Three runs in turns on two workers; without the other methods, so that the workers find the
    program of test_resume.py compiled."""
    config = config_of("processes", 4)
    config.sweep.workers = 2
    config.warm_start.workdir = str(serial / "warm_start" / "steps40")
    run_sweep(config, axis("seed", (1, 2, 3), "fade-seed"), tmp_path)
    ended = [result(tmp_path, f"fade-seed{seed}")["params_sha256"] for seed in (1, 2, 3)]
    assert ended[0] == result(serial, "fade-seed1")["params_sha256"]
    assert len(set(ended)) == 3
    assert metrics(tmp_path, "fade-seed1")[-1]["step"] == 4


@pytest.mark.slow
def test_run_sweep_vmapped_equals_serial_up_to_rounding(serial, tmp_path):
    """In two sessions, so that the second begins from checkpoints."""
    shutil.copytree(serial / "warm_start", tmp_path / "warm_start")
    for steps in (2, 4):
        run_sweep(config_of("vmap", steps), RUNS, tmp_path)
    for name in RUNS:
        together, alone = metrics(tmp_path, name), metrics(serial, name)
        assert [line["step"] for line in together] == [line["step"] for line in alone]
        for a, b in zip(together, alone, strict=True):
            assert a.keys() == b.keys()
            for key in a.keys() - {"step_seconds", "tokens_per_second", "eval/seconds"}:
                np.testing.assert_allclose(
                    np.asarray(a[key], float), np.asarray(b[key], float), rtol=1e-3, atol=1e-5, err_msg=f"{name} {key}"
                )  # fmt: skip
        for folder in ("checkpoints", "evaluations"):
            assert {p.name for p in (tmp_path / "runs" / name / folder).iterdir()} == {
                p.name for p in (serial / "runs" / name / folder).iterdir()
            }
        assert result(tmp_path, name).keys() == result(serial, name).keys()


def test_run_sweep_does_not_repeat_finished_runs(serial):
    logs = [serial / "runs" / name / "metrics.jsonl" for name in RUNS]
    before = [path.stat().st_mtime_ns for path in logs]
    table = (serial / "results.csv").read_text()
    for mode in ("serial", "vmap"):
        run_sweep(config_of(mode, 4), RUNS, serial)
    assert [path.stat().st_mtime_ns for path in logs] == before
    assert (serial / "results.csv").read_text() == table


def test_write_results_has_a_row_for_each_evaluation(serial):
    with (serial / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["run"], r["step"]) for r in rows] == [(n, s) for n in RUNS for s in ("0", "2", "4")]
    assert rows[0]["warm_start.steps"] == "4"
    assert rows[0]["optimizer.learning_rate"] == "0.0001"
    assert rows[0]["advantage.kwargs.alpha"] == ""
    assert rows[3]["advantage.kwargs.alpha"] == "2.0"
    assert rows[3]["seed"] == "0"  # not overridden: as in its config
    assert rows[6]["seed"] == "1"
    assert rows[6]["method"] == "fade"
    assert rows[6]["advantage.name"] == "fade"
    logged = [line for line in metrics(serial, "power") if "eval/pass@4" in line]
    assert [float(row["pass@4"]) for row in rows[3:6]] == [x["eval/pass@4"] for x in logged]
    assert [float(row["entropy"]) for row in rows[3:6]] == [x["eval/entropy"] for x in logged]
    assert {(r["status"], r["reason"]) for r in rows} == {("finished", "")}
    assert {"pass@1", "pass@1_low", "pass@1_high", "length"} <= rows[0].keys()


def test_saved_counts_give_the_logged_pass_at_1(serial):
    counts = np.load(serial / "runs/power/evaluations/4.npz")
    config = tiny_config().evaluation
    assert counts["num_correct"].shape == (config.prompts,)
    assert int(counts["num_samples"]) == config.samples
    rate = counts["num_correct"].mean() / config.samples
    np.testing.assert_allclose(rate, result(serial, "power")["eval/pass@1"], rtol=1e-6)


def test_write_results_needs_a_sweep(tmp_path):
    with pytest.raises(FileNotFoundError, match="no sweep in"):
        write_results(tmp_path)


def test_train_many_refuses_host_tasks():
    class HostExperiment:
        config = tiny_config()

        class task:
            on_device = False

    with pytest.raises(ConfigError, match=r"config.sweep.mode = 'vmap' needs a task"):
        train_many({}, HostExperiment, {}, max_runs=1)


class Worker(threading.Thread):
    """Stands for a worker process: `do` says what becomes of a job."""

    exitcode = -9

    def __init__(self, index, inbox, messages, do):
        super().__init__(daemon=True)
        self.index, self.inbox, self.messages, self.do = index, inbox, messages, do
        self.prepared = []

    def run(self):
        while (order := self.inbox.get()) is not None:
            job = order.job
            if order.prepare:
                self.prepared.append(job.name)
                continue
            outcome = self.do(job, order.most_steps)
            if outcome == "dies":
                return
            self.messages.put((self.index, job.name, *outcome))


class Silent:
    def update(self, *_):
        pass

    done = update


def deal(jobs, workers, do):
    messages = queue.Queue()
    inboxes = [queue.Queue() for _ in range(workers)]
    threads = [Worker(i, inbox, messages, do) for i, inbox in enumerate(inboxes)]
    for thread in threads:
        thread.start()
    failures = sweeps._deal(jobs, threads, inboxes, messages, Silent())
    for inbox in inboxes:
        inbox.put(None)
    return failures


def make(keys, needs=None):
    config = tiny_config()
    jobs = [Job(n, config, Path(n), keys[0], None, False) for n in dict.fromkeys(needs or ()) if n]
    needs = needs or [None] * len(keys)
    jobs += [
        Job(f"run{i}", config, Path(str(i)), shape, need, True)
        for i, (shape, need) in enumerate(zip(keys, needs, strict=True))
    ]
    return jobs


def test_deal_does_every_job_once_after_its_warm_start():
    done, lock = [], threading.Lock()

    def do(job, _):
        with lock:
            assert job.depends_on is None or job.depends_on in done
            done.append(job.name)
        return "done", None

    jobs = make("aabbc", ["w1", "w2", "w1", "w2", "w1"])
    assert deal(jobs, 3, do) == {}
    assert sorted(done) == sorted(job.name for job in jobs)


def test_deal_gives_three_runs_their_turns_on_two_workers():
    made, lock, both = [], threading.Lock(), threading.Barrier(2, timeout=60)

    def do(job, most_steps):
        with lock:
            made.append(job.name)
            steps = most_steps * made.count(job.name)
        both.wait()
        return "done" if steps >= job.config.steps else "paused", None

    assert deal(make("aaa"), 2, do) == {}
    assert sorted(made[:2]) == ["run0", "run1"]
    assert "run2" in made[2:4]
    assert sorted(made) == ["run0", "run0", "run1", "run1", "run2", "run2"]


def test_deal_has_a_worker_prepare_while_another_makes_the_warm_start():
    messages, begun = queue.Queue(), threading.Event()
    inboxes = [queue.Queue() for _ in range(2)]

    def do(job, _):
        if not job.is_run:
            assert begun.wait(60)
        return "done", None

    threads = [Worker(i, inbox, messages, do) for i, inbox in enumerate(inboxes)]
    threads[1].prepared = Prepared(begun)
    for thread in threads:
        thread.start()
    assert sweeps._deal(make("aa", ["w", "w"]), threads, inboxes, messages, Silent()) == {}
    assert threads[1].prepared == ["run0"]
    assert threads[0].prepared == []


class Prepared(list):
    """Tells that something was appended."""

    def __init__(self, event):
        super().__init__()
        self.event = event

    def append(self, item):
        super().append(item)
        self.event.set()


def test_deal_drops_the_runs_of_a_failed_warm_start():
    def do(job, _):
        return ("failed", "why") if job.name in ("run0", "w2") else ("done", None)

    failures = deal(make("aaaa", ["w1", "w2", "w1", "w2"]), 2, do)
    assert failures.pop("run0") == failures.pop("w2") == "why"
    assert set(failures) == {"run1", "run3"}
    assert failures["run1"] == "its w2 failed"


def test_deal_names_the_job_of_a_dead_worker():
    done = []

    def do(job, _):
        if job.name == "run1":
            return "dies"
        done.append(job.name)
        return "done", None

    failures = deal(make("abab"), 2, do)
    assert failures == {"run1": "its process ended with exit code -9"}
    assert sorted(done) == ["run0", "run2", "run3"]


def test_terminating_passes_ctrl_c_on_and_kills_at_the_second():
    class Process:
        pid, did = 1, []

        def is_alive(self):
            return True

        def terminate(self):
            self.did.append("terminate")

        def kill(self):
            self.did.append("kill")

        def join(self):
            self.did.append("join")

    before = signal.getsignal(signal.SIGINT)
    with sweeps._terminating([Process()]) as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked
        assert Process.did == ["terminate"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert Process.did == ["terminate", "kill", "terminate", "join"]
    assert signal.getsignal(signal.SIGINT) is before


def test_run_sweep_reports_a_failure_after_the_other_runs(tmp_path, monkeypatch):
    made = []

    def train(config, directory, **_):
        made.append(directory.name)
        if config.seed == 0:
            raise RuntimeError("no luck")

    monkeypatch.setattr(sweeps, "train", train)
    monkeypatch.setattr(sweeps, "warm_start", lambda *_: None)
    monkeypatch.setattr(sweeps, "build_experiment", lambda *_: None)
    monkeypatch.setattr(sweeps, "with_config", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"run seed0 failed \(1 in all\): (?s:.*)no luck"):
        run_sweep(config_of("serial", 4), axis("seed", range(3)), tmp_path)
    assert made == ["seed0", "seed1", "seed2"]
    (tmp_path / "runs/seed1").mkdir()
    (tmp_path / "runs/seed1/config.json").write_text('{"steps": 4}')
    (tmp_path / "runs/seed1/metrics.jsonl").write_text('{"step": 3}\n')
    with write_results(tmp_path).open() as file:  # made again from the files
        rows = list(csv.DictReader(file))
    assert [(r["run"], r["status"], r["reason"]) for r in rows] == [
        ("seed0", "failed", "RuntimeError: no luck"),
        ("seed1", "unfinished", "3 of 4 steps are logged"),
        ("seed2", "not started", "it has not begun"),
    ]


def test_run_sweep_refuses_the_workdir_of_another_sweep(tmp_path):
    written = json.dumps({"runs": [{"name": "alpha2", "overrides": {}}]})
    (tmp_path / "sweep.json").write_text(written)
    with pytest.raises(ConfigError, match="holds another sweep: choose another --workdir"):
        run_sweep(config_of("serial", 4), axis("seed", range(2)), tmp_path)
    assert (tmp_path / "sweep.json").read_text() == written
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]
