"""What a directory refuses: other configs, fewer steps, a second process."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.checkpoints import Checkpoints
from experiments.config import FREE_TO_CHANGE, ConfigError, leaves
from experiments.metric_writer import Silent
from experiments.train import train
from experiments.workdir import check, claim, directory, finished_result, locked

HOLDER = """
import sys, time
from pathlib import Path
from experiments.workdir import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_train_refuses_a_workdir_in_use_and_takes_it_when_its_holder_is_killed(tiny, tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another process is training in"):
            train(tiny, tmp_path, progress=Silent())
        assert not (tmp_path / "config.json").exists()
    finally:
        holder.kill()
        holder.wait()
    with locked(tmp_path):
        pass


def test_train_refuses_fewer_steps_than_were_made(tiny, tmp_path):
    tiny.warm_start.steps = 0
    train(tiny, tmp_path, progress=Silent())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for result in (True, False):
        if not result:
            (tmp_path / "result.json").unlink()
        fewer = tiny.copy_and_resolve_references()
        fewer.steps = 2
        with pytest.raises(ConfigError, match=r"config.steps must be at least 4, .* got 2"):
            train(fewer, tmp_path, progress=Silent())
    assert (tmp_path / "checkpoints/4").exists()
    log = tmp_path / "metrics.jsonl"
    assert log.stat().st_mtime_ns == before[log]


def test_train_that_is_refused_writes_nothing(tiny, tmp_path):
    tiny.advantage.kwargs = {"alfa": 1.0}
    with pytest.raises(ConfigError, match="alfa"):
        train(tiny, tmp_path / "run", progress=Silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["a[b]", "a*", "a?b", "a\\b", "gs:", "a\nb"])
def test_train_refuses_a_workdir_that_checkpoints_cannot_have(tiny, tmp_path, name):
    with pytest.raises(ConfigError, match="--workdir must be a path without"):
        train(tiny, tmp_path / name / "run", progress=Silent())
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a b", "ü", "a{b}", "a#b%20", "a:b", "~a", "a'b", "5"])
def test_directory_allows_names_whose_checkpoints_can_be_read(tmp_path, name):
    path = directory(tmp_path / name)
    for _ in range(2):
        store = Checkpoints(path / "checkpoints", keep=1)
        restored = store.restore({"x": jnp.zeros(3)})
        store.save(1 if restored is None else 2, {"x": jnp.ones(3)})
        store.close()
    assert restored is not None
    np.testing.assert_array_equal(restored[1]["x"], np.ones(3))


def test_directory_expands_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert directory("~/runs/a") == tmp_path / "runs/a"


def test_locked_removes_what_a_killed_process_was_writing(tmp_path):
    (tmp_path / "evaluations").mkdir()
    for name in ("config.json.host-7.tmp", "evaluations/4.npz.host-7.tmp", "result.json"):
        (tmp_path / name).touch()
    with locked(tmp_path):
        assert not [*tmp_path.rglob("*.tmp")]
        assert (tmp_path / "result.json").exists()


def test_check_allows_the_free_fields_alone(tiny, tmp_path):
    claim(tiny, tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    for field, value in leaves(tiny.to_dict()):
        config = tiny.copy_and_resolve_references()
        *path, last = field.split(".")
        section = config
        for part in path:
            section = section[part]
        with config.unlocked(), config.ignore_type():
            section[last] = f"{value}-other"
        if field in FREE_TO_CHANGE:
            check(config, tmp_path)
        else:
            with pytest.raises(ConfigError, match=f"another config \\({field}: "):
                check(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == saved


def test_finished_result_of_a_damaged_file_is_one_line(tiny, tmp_path):
    (tmp_path / "result.json").write_text('{"step": 4')
    with pytest.raises(ConfigError, match=r"result.json is damaged"):
        finished_result(tiny, tmp_path)
