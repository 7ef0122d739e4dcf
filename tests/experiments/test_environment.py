"""What a run records of the machine and the code that trained it."""

import json
import platform
import socket
import subprocess

import jax
import jaxlib
import pytest

import fade_jax
from experiments import environment
from experiments.environment import describe_session, git_state, read_sessions, record_session
from experiments.loop import Paused
from experiments.metric_writer import Silent
from experiments.train import train


def git(directory, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(directory), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(name="clone")
def clone_fixture(tmp_path):
    git_state.cache_clear()
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message=one")
    return tmp_path


def test_describe_session_has_the_versions_and_the_devices_of_this_process():
    session = describe_session()
    assert session["python"] == platform.python_version()
    assert (session["jax"], session["jaxlib"]) == (jax.__version__, jaxlib.__version__)
    assert session["fade_jax"] == fade_jax.__version__
    assert session["device"] == jax.devices()[0].device_kind
    assert (session["devices"], session["processes"]) == (len(jax.devices()), 1)
    assert socket.gethostname() not in session.values()


def test_git_state_is_the_commit_and_whether_tracked_files_differ(clone):
    commit = git(clone, "rev-parse", "HEAD")
    (clone / "untracked").write_text("b")
    assert git_state(clone) == (commit, False)
    (clone / "file").write_text("b")
    git_state.cache_clear()
    assert git_state(clone) == (commit, True)


def test_git_state_is_none_outside_a_clone_and_inside_another(clone, tmp_path_factory):
    installed = clone / "site-packages" / "experiments"
    installed.mkdir(parents=True)
    assert git_state(installed) is None
    assert git_state(tmp_path_factory.mktemp("no_clone")) is None
    assert git_state(clone / "missing") is None


def test_record_session_adds_one_session_for_each_process(tmp_path, monkeypatch):
    record_session(tmp_path)
    record_session(tmp_path)
    assert read_sessions(tmp_path) == [describe_session()]
    monkeypatch.setattr(environment, "_started", lambda: "2030-01-01T00:00:00+00:00")
    record_session(tmp_path)
    first, second = read_sessions(tmp_path)
    assert first["started"] != second["started"] == "2030-01-01T00:00:00+00:00"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sessions": 1}', '{"sessions": [1]}'])
def test_a_damaged_file_is_left_out_with_a_warning_that_names_it(tmp_path, text, caplog):
    (tmp_path / "environment.json").write_text(text)
    assert read_sessions(tmp_path) == []
    assert "environment.json is damaged" in caplog.text
    record_session(tmp_path)
    assert read_sessions(tmp_path) == [describe_session()]


def test_train_records_its_session_before_the_first_step(tiny, tmp_path):
    tiny.warm_start.steps = 0
    with pytest.raises(Paused):
        train(tiny, tmp_path, progress=Silent(), most_steps=1)
    content = json.loads((tmp_path / "environment.json").read_text())
    assert content == {"sessions": [describe_session()]}
