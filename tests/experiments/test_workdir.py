"""What a directory refuses: other configs, fewer steps, a second process."""

import json
import subprocess
import sys

import pytest

from experiments.config import FREE_TO_CHANGE, ConfigError, leaves
from experiments.metric_writer import Silent
from experiments.train import train
from experiments.workdir import check, claim, finished_result, locked

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
