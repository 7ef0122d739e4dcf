"""Ctrl-C, full disks and wrong clocks in a tiny run of this process."""

import errno
import os
import signal
import time

import pytest

from experiments import metric_writer
from experiments.loop import Stopped, run_loop
from experiments.metric_writer import read_lines
from tests.experiments.faults import tiny_run
from tests.experiments.faults.test_faults import outcome


@pytest.fixture(scope="module", name="straight")
def straight_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    tiny_run.run(workdir)
    return outcome(workdir)


def before_step(monkeypatch, step, do):
    """Lets the next run call `do` before it makes the step after `step`."""

    def with_call(stage, writers, start, state):
        def train_steps(state, at, count):
            if at == step:
                do()
            return stage.train_steps(state, at, count)

        return run_loop(stage._replace(train_steps=train_steps), writers, start, state)

    monkeypatch.setattr(tiny_run, "run_loop", with_call)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_loop_stops_at_a_signal_and_goes_on(monkeypatch, tmp_path, straight, number):
    before, during = signal.getsignal(number), []

    def send():
        os.kill(os.getpid(), number)
        during.append(signal.getsignal(signal.SIGINT))

    before_step(monkeypatch, 2, send)
    with pytest.raises(Stopped, match="stopped at step 3 of 4; checkpoint written"):
        tiny_run.run(tmp_path)
    # A second Ctrl-C is the system's: it ends the process in the middle of a step.
    assert (during[0] == signal.SIG_DFL) == (number == signal.SIGINT)
    assert signal.getsignal(number) == before
    monkeypatch.undo()
    tiny_run.run(tmp_path)
    found = outcome(tmp_path)
    assert found.pop("checkpoints") == ["3", "4"]
    assert found == {k: v for k, v in straight.items() if k != "checkpoints"}


def test_run_loop_leaves_an_ignored_ctrl_c_ignored(monkeypatch, tmp_path, straight):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        before_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        tiny_run.run(tmp_path)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert outcome(tmp_path) == straight


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.out.tfevents"])
def test_full_disk_in_a_log_names_the_file_and_completes_the_checkpoint(
    monkeypatch, tmp_path, straight, name
):
    full = []

    def fsync(file):
        if full and name in os.readlink(f"/proc/self/fd/{file}"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    before_step(monkeypatch, 2, lambda: full.append(True))
    with pytest.raises(OSError, match=f"No space left on device.*{name}"):
        tiny_run.run(tmp_path)
    assert (tmp_path / "checkpoints/2").exists()
    monkeypatch.undo()
    tiny_run.run(tmp_path)
    assert outcome(tmp_path) == straight


def test_write_json_keeps_the_old_file_on_a_full_disk(monkeypatch, tmp_path):
    path = tmp_path / "result.json"
    metric_writer.write_json(path, {"step": 1})

    def fsync(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"result\.json"):
        metric_writer.write_json(path, {"step": 2})
    assert path.read_text() == '{\n  "step": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_run_with_the_clock_set_back_goes_on(monkeypatch, tmp_path, straight):
    before_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        tiny_run.run(tmp_path)
    monkeypatch.undo()
    (first,) = os.listdir(tmp_path / "tensorboard")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 1e7)
    tiny_run.run(tmp_path)
    assert outcome(tmp_path)["log"] == straight["log"]
    assert outcome(tmp_path)["result"] == straight["result"]
    # TensorBoard reads files in the order of their names.
    assert sorted(os.listdir(tmp_path / "tensorboard"))[0] == first
    assert len(os.listdir(tmp_path / "tensorboard")) == 2


def test_tensorboard_drops_what_was_logged_after_the_checkpoint(monkeypatch, tmp_path):
    from tensorboardX.writer import Event

    logs = metric_writer.Logs(tmp_path, 3)
    logs.write(4, {"loss": 0.5, "eval/pass@1": 1.0})
    logs.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    content, events = path.read_bytes(), []
    while content:  # length, its checksum, the event, its checksum
        size = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    assert [event.step for event in events] == [4, 4, 4, 4]
    assert events[1].session_log.status == 1  # START
    scalars = [(v.tag, v.simple_value) for event in events for v in event.summary.value]
    assert scalars == [("loss", 0.5), ("eval/pass_1", 1.0)]
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 4, "loss": 0.5, "eval/pass@1": 1.0}]
