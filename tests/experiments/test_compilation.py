"""The cache of compiled programs in processes of their own, and XLA's options."""

import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from experiments import compilation
from experiments.compilation import compiler_options, default_directory, remove_oldest
from experiments.models.config import ModelConfig

# A command that compiles one program; "wide" is of the width that oneDNN is used for.
PROGRAM = """
import sys
import jax, jax.numpy as jnp
from experiments.compilation import use_cache
from experiments.models.config import ModelConfig
from experiments.models.layers import update_compiler_options
use_cache()
model = ModelConfig(8, 1, int(sys.argv[1]), 4, 2, 8, 8)
product = jax.jit(lambda x: x @ x + 1, compiler_options=update_compiler_options(model))
print(float(product(jnp.ones((int(sys.argv[1]),) * 2))[0, 0]))
"""


def run(width=8, **environment):
    """Runs PROGRAM without the cache of the tests; returns its output and its error stream."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(width)],
        env={**inherited, "JAX_PLATFORMS": "cpu", **{k: str(v) for k, v in environment.items()}},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) == width + 1
    return done.stderr


def entries(folder):
    return {path.name: path.stat().st_size for path in folder.glob("*-cache")}


def test_default_directory_is_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "fade_jax" / "compilation"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".cache" / "fade_jax" / "compilation"


def test_use_cache_writes_once_and_mends_a_cut_entry(tmp_path):
    folder = tmp_path / "fade_jax" / "compilation"
    assert run(XDG_CACHE_HOME=tmp_path) == ""
    whole = entries(folder)
    assert any(name.startswith("jit__lambda") for name in whole)
    assert run(XDG_CACHE_HOME=tmp_path) == ""
    assert entries(folder) == whole
    for path in folder.glob("*-cache"):  # as of a process that was killed, or a full disk
        path.write_bytes(path.read_bytes()[:-20])
    said = run(XDG_CACHE_HOME=tmp_path)
    assert said.count("\n") == 1
    assert f"compiling without the cache in {folder}: Error reading" in said
    assert entries(folder).keys() == whole.keys()
    assert run(XDG_CACHE_HOME=tmp_path) == ""


def test_use_cache_holds_to_what_jax_is_set_to(tmp_path):
    run(
        XDG_CACHE_HOME=tmp_path,
        JAX_COMPILATION_CACHE_DIR=tmp_path / "mine",
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0,
    )
    assert entries(tmp_path / "mine")
    run(XDG_CACHE_HOME=tmp_path, JAX_ENABLE_COMPILATION_CACHE="0")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_use_cache_without_a_directory_says_one_line(tmp_path):
    (tmp_path / "fade_jax").write_text("a file where the directory should be")
    said = run(XDG_CACHE_HOME=tmp_path)
    assert said.count("\n") == 1
    assert "compiling without the cache" in said


def test_use_cache_is_silent_on_programs_with_onednn(tmp_path):
    assert run(384, XDG_CACHE_HOME=tmp_path) == ""


def test_remove_oldest_keeps_the_newest(tmp_path):
    for age, name in enumerate(["d", "c", "b", "a"]):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(b"x" * 10)
        os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "another").write_bytes(b"x" * 100)
    remove_oldest(tmp_path, 40)
    assert len(entries(tmp_path)) == 4
    remove_oldest(tmp_path, 29)
    assert set(entries(tmp_path)) == {"d-cache", "c-cache"}
    assert (tmp_path / "another").exists()
    remove_oldest(tmp_path / "none", 0)


@pytest.mark.parametrize("quick", [False, True])
def test_compiler_options_are_taken_by_xla(monkeypatch, quick):
    config = SimpleNamespace(quick_compile=quick)
    narrow, wide = (ModelConfig(8, 1, width, 4, 2, 8, 8) for width in (64, 384))
    options = compiler_options(config, narrow)
    assert len(options) == (3 if quick else 1)
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2
    assert compiler_options(config, wide) == {}
    monkeypatch.setattr(compilation, "_OLD_EMITTERS", {"xla_cpu_of_another_year": False})
    assert compiler_options(config, narrow) == {}
    monkeypatch.undo()
    monkeypatch.setattr(compilation, "on_cpu", lambda: False)
    assert compiler_options(config, narrow) == {}


@pytest.mark.slow
def test_a_run_ends_with_the_same_bits_with_and_without_the_cache(command, warm, tmp_path):
    found = set()
    for name, on in (("none", "0"), ("cold", "1"), ("warm", "1")):
        process = command(
            "experiments.run",
            "--config=tests/experiments/tiny_config.py",
            f"--workdir={tmp_path / name}",
            "--noreport",
            f"--config.warm_start.workdir={warm}",
            "--config.steps=2",
            JAX_ENABLE_COMPILATION_CACHE=on,
            JAX_COMPILATION_CACHE_DIR=str(tmp_path / "cache"),
        )
        assert process.wait(240) == 0, process.communicate()
        found.add((tmp_path / name / "result.json").read_text().split('"params_sha256"')[1][:80])
        assert (len(entries(tmp_path / "cache")) > 20) == (name != "none")
    assert len(found) == 1
