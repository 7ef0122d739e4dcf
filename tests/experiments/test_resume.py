"""A run that is killed, stopped or damaged goes on and ends with the same bits."""

import json
import shutil
import signal
import tarfile
import time
from pathlib import Path

import orbax.checkpoint as ocp
import pytest

from experiments.checkpoints import tree_sha256
from experiments.evaluation import restore_params
from experiments.experiment import build_experiment
from experiments.metric_writer import read_lines
from experiments.train import train
from tests.experiments.conftest import REPOSITORY
from tests.experiments.tiny_config import get_config as tiny_config

CONFIG = "tests/experiments/tiny_config.py"
OVERRIDES = (
    "--config.steps=40",
    "--config.evaluation.every=20",
    "--config.evaluation.prompts=4",
    "--config.evaluation.prompts_per_call=4",
)


def arguments(workdir, warm):
    start = f"--config.warm_start.workdir={warm}"
    flags = (f"--config={CONFIG}", f"--workdir={workdir}", "--noreport", start)
    return ("experiments.run", *flags, *OVERRIDES)


def metrics(workdir):
    """The log without wall-clock fields."""
    return [
        {k: v for k, v in line.items() if not k.endswith(("seconds", "_per_second"))}
        for line in read_lines(workdir / "metrics.jsonl")
    ]


def result(workdir):
    values = json.loads((workdir / "result.json").read_text())
    return {k: v for k, v in values.items() if not k.endswith(("seconds", "_per_second"))}


def wait_for(condition, process, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def finish(process, seconds=240):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return out, err


def checkpoint_steps(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*") if p.name.isdigit())


@pytest.mark.slow
def test_killed_run_resumes_bit_for_bit(command, warm, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(command(*arguments(straight, warm)))

    process = command(*arguments(killed, warm))
    wait_for(lambda: checkpoint_steps(killed) and max(checkpoint_steps(killed)) >= 4, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "result.json").exists()
    with (killed / "metrics.jsonl").open("a") as log:
        log.write('{"step": 38, "rewa')  # a line that the kill cut off
    finish(command(*arguments(killed, warm)))

    assert result(killed) == result(straight)
    start = json.loads((Path(warm) / "result.json").read_text())
    assert result(straight)["params_sha256"] != start["params_sha256"]  # there was much to lose
    assert metrics(killed) == metrics(straight)
    assert [line["step"] for line in metrics(straight) if "reward" in line] == list(range(1, 41))


@pytest.mark.slow
def test_terminated_run_checkpoints_exits_cleanly_and_goes_on(command, warm, tmp_path):
    process = command(*arguments(tmp_path, warm))
    wait_for(lambda: len(read_lines(tmp_path / "metrics.jsonl")) > 1, process)
    process.send_signal(signal.SIGTERM)
    _, err = finish(process)
    assert "the same command goes on" in err
    steps = checkpoint_steps(tmp_path)
    assert max(steps) == max(line["step"] for line in metrics(tmp_path))
    assert max(steps) < 40


@pytest.fixture(scope="module", name="finished")
def finished_fixture(tmp_path_factory):
    """(workdir, result, experiment) of the tiny run."""
    workdir = tmp_path_factory.mktemp("finished")
    experiment = build_experiment(tiny_config())
    return workdir, train(tiny_config(), workdir, experiment=experiment), experiment


def damage(path):
    """Overwrites the middle of every array file of a checkpoint."""
    files = [f for f in path.rglob("*") if f.is_file() and f.stat().st_size > 512]
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 64] = bytes(64)
        file.write_bytes(content)


@pytest.mark.parametrize("how", ["damaged", "emptied"])
def test_unreadable_newest_checkpoint_falls_back_to_the_one_before(finished, tmp_path, how, caplog):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    (workdir / "result.json").unlink()
    newest = workdir / "checkpoints" / "4"
    if how == "damaged":
        damage(newest)
    else:
        for file in newest.rglob("*"):
            if file.is_file():
                file.write_bytes(b"")
    again = train(tiny_config(), workdir, experiment=finished[2])
    assert again["params_sha256"] == finished[1]["params_sha256"]
    assert "falling back" in caplog.text
    assert (workdir / "unreadable_checkpoints" / "4").exists()


def test_finished_run_is_not_repeated(finished):
    before = (finished[0] / "metrics.jsonl").stat().st_mtime_ns
    assert train(tiny_config(), finished[0]) == finished[1]
    assert (finished[0] / "metrics.jsonl").stat().st_mtime_ns == before


def test_more_steps_extend_a_finished_run(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    config = tiny_config()
    config.steps = 6
    extended = train(config, workdir, experiment=finished[2])
    config.warm_start.workdir = str(workdir / "warm_start")
    fresh = train(config, tmp_path / "fresh", experiment=finished[2])
    assert extended["params_sha256"] == fresh["params_sha256"]
    assert metrics(workdir) != []


def test_train_resumes_a_run_of_an_earlier_version(finished, tmp_path):
    """Two steps of tiny_config by commit 36771d6, whose checkpoints hold a hash of the arrays."""
    with tarfile.open(REPOSITORY / "tests/experiments/data/run_of_36771d6.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    before = read_lines(tmp_path / "metrics.jsonl")
    saved = json.loads((tmp_path / "result.json").read_text())["params_sha256"]
    step, params = restore_params(finished[2], tmp_path)
    assert (step, tree_sha256(params)) == (2, saved)
    result = train(tiny_config(), tmp_path, experiment=finished[2])
    after = read_lines(tmp_path / "metrics.jsonl")
    assert after[: len(before)] == before
    assert [line["step"] for line in after if "reward" in line] == [1, 2, 3, 4]
    assert result["params_sha256"] != saved


def test_restore_params_of_another_config_moves_nothing(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    config = tiny_config()
    config.model.d_ff = 64
    with pytest.raises(ValueError, match="is of a run with another config"):
        restore_params(build_experiment(config), workdir)
    assert checkpoint_steps(workdir) == checkpoint_steps(finished[0])
    assert not (workdir / "unreadable_checkpoints").exists()


def test_restore_params_passes_over_a_damaged_checkpoint_and_moves_nothing(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    damage(workdir / "checkpoints" / "4")
    step, _ = restore_params(finished[2], workdir)
    assert step == 2
    assert checkpoint_steps(workdir) == checkpoint_steps(finished[0])


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), OSError(5, "I/O error")])
def test_training_moves_no_checkpoint_for_an_error_of_the_system(
    finished, tmp_path, error, monkeypatch
):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    (workdir / "result.json").unlink()

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
    with pytest.raises(OSError, match=error.strerror):
        train(tiny_config(), workdir, experiment=finished[2])
    assert checkpoint_steps(workdir) == checkpoint_steps(finished[0])
