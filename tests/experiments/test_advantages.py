"""An advantage of one's own: named by its import path, trained, swept, and drawn."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.advantages import check_gradient, factory_of
from experiments.config import ConfigError
from experiments.report.runs import Run, to_frame
from experiments.report.statistics import exact_masses
from tests.experiments.conftest import REPOSITORY
from tests.experiments.tiny_config import get_config as tiny_config

ADVANTAGES = '''
"""Written by a user."""

import jax.numpy as jnp
import numpy as np

from fade_jax.transforms import center, chain, stateless, suppress


def scaled(rewards, factor=2.0):
    return factor * (rewards - rewards.mean(-1, keepdims=True))


def masked(rewards, where=None):
    return rewards - rewards.mean(-1, keepdims=True)


def half_blame(delta):
    return chain(center(), suppress(delta))


def moving():
    return chain(center(), suppress(lambda step: 1 / (1 + step)))


def with_entropy(weight=1.0):
    return stateless(lambda r, entropy: weight * entropy * (r - r.mean(-1, keepdims=True)), "entropy")


def with_if(rewards, factor=2.0):
    return rewards * factor if factor > 1 else rewards


def with_numpy(rewards):
    return np.sign(np.asarray(rewards) - 0.5)


def mean(rewards):
    return rewards.mean(-1)


def array():
    return np.zeros(4)


def of_group_rewards(scores):
    return scores


NUMBER = 3
'''

CONFIG = """
from experiments.grid import methods
from tests.experiments.tiny_config import get_config as tiny

def get_config():
    config = tiny()
    config.steps = 2
    config.sweep.mode = "processes"
    config.sweep.workers = 1
    return config

def sweep(config):
    return methods({
        "asym": ("asym_grpo", {"delta": 0.5}),
        "factory": ("my_advantages.half_blame", {"delta": 0.5}),
        "plain": ("my_advantages.scaled", {"factor": 1.0}),
    })
"""


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """Where a user's file is, importable as it is for `python -m` there."""
    (tmp_path / "my_advantages.py").write_text(ADVANTAGES)
    (tmp_path / "broken.py").write_text("import numpi")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_advantages", raising=False)
    return tmp_path


def config_of(name, kwargs):
    config = tiny_config()
    config.advantage = ConfigDict({"name": name, "kwargs": kwargs})
    return config


REWARDS = np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]], np.float32)


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("my_advantages.scaled", {}, [[1.5, -0.5, -0.5, -0.5], [0.5, 0.5, 0.5, -1.5]]),
        ("my_advantages.scaled", {"factor": 4.0}, [[3, -1, -1, -1], [1, 1, 1, -3]]),
        (
            "my_advantages.half_blame",
            {"delta": 2.0},
            [[0.75, -0.125, -0.125, -0.125], [0.25, 0.25, 0.25, -0.375]],
        ),
        ("fade_jax.dr_grpo", {}, [[0.75, -0.25, -0.25, -0.25], [0.25, 0.25, 0.25, -0.75]]),
        (
            "fade_jax.transforms.dr_grpo",
            {},
            [[0.75, -0.25, -0.25, -0.25], [0.25, 0.25, 0.25, -0.75]],
        ),
    ],
)
def test_functions_and_factories_are_told_apart(name, kwargs, expected):
    transformation = factory_of(name)(**kwargs)
    advantages, _ = transformation.update(REWARDS, transformation.init())
    np.testing.assert_allclose(advantages, expected, rtol=1e-6)
    check_gradient(config_of(name, kwargs))


def test_a_factory_may_read_a_statistic():
    transformation = factory_of("my_advantages.with_entropy")(weight=2.0)
    advantages, _ = transformation.update(REWARDS, transformation.init(), entropy=0.5)
    np.testing.assert_allclose(advantages, REWARDS - REWARDS.mean(-1, keepdims=True))
    check_gradient(config_of("my_advantages.with_entropy", {}))


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("grop", {}, "config.advantage.name must be one of"),
        ("grop", {}, "or a dotted import path such as 'my_advantages.mine', got 'grop'"),
        ("no_file.mine", {}, "ModuleNotFoundError: No module named 'no_file'"),
        ("broken.mine", {}, "'broken.mine' must be the import path of a function, but importing"),
        ("broken.mine", {}, "No module named 'numpi'"),
        ("my_advantages.nine", {}, "has no attribute 'nine'"),
        ("my_advantages.NUMBER", {}, "TypeError: 3 is not a callable object"),
        (".mine", {}, "config.advantage.name = '.mine' must be the import path"),
        ("my_advantages.", {}, "config.advantage.name = 'my_advantages.' must be the import path"),
        ("my_advantages.array", {}, "or return (init, update)"),
        ("my_advantages.of_group_rewards", {}, "config.advantage.kwargs lacks scores"),
        ("my_advantages.scaled", {"fator": 1.0}, "allowed: factor"),
        (
            "my_advantages.masked",
            {"where": 1.0},
            "has no field 'where' (got 1.0); allowed: nothing",
        ),
        ("my_advantages.half_blame", {}, "config.advantage.kwargs lacks delta"),
        ("my_advantages.half_blame", {"delta": -1.0}, "of my_advantages.half_blame: delta must"),
        ("my_advantages.scaled", {"factor": 0.0}, "must be large enough to give a gradient"),
        ("my_advantages.with_if", {"factor": 3.0}, "'my_advantages.with_if' must be traceable"),
        ("my_advantages.with_numpy", {}, "'my_advantages.with_numpy' must be traceable by jax"),
        ("my_advantages.mean", {}, "must return the shape of the rewards, (5, 4), got (5,)"),
    ],
)
def test_what_cannot_be_an_advantage(name, kwargs, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_gradient(config_of(name, kwargs))


def run_of(name, kwargs, train=()):
    config = {"group_size": 8, "advantage": {"name": name, "kwargs": kwargs}}
    return Run("x", "x", config, to_frame(train), to_frame(()), None)


def test_the_report_draws_its_masses():
    p = np.linspace(0, 1, 101)
    (pair,) = exact_masses([run_of("my_advantages.scaled", {"factor": 3.0})])
    for mass in pair:
        np.testing.assert_allclose(mass, 3 * p * (1 - p) * (1 - 1 / 8), atol=1e-6)
    constant = [{"step": step, "delta": 0.5} for step in (1, 2)]
    (pair,) = exact_masses([run_of("my_advantages.half_blame", {"delta": 0.5}, constant)])
    np.testing.assert_allclose(pair.failure, 2 * pair.success, atol=1e-6)


def test_the_report_leaves_out_what_it_cannot_know():
    moving = [{"step": 1, "delta": 1.0}, {"step": 2, "delta": 0.5}]
    assert exact_masses([run_of("my_advantages.moving", {}, moving)]) == []
    assert exact_masses([run_of("gone.mine", {})]) == []


def result(workdir, name):
    return json.loads((workdir / "runs" / name / "result.json").read_text())


@pytest.mark.slow
def test_a_sweep_over_processes_from_the_users_directory(directory):
    """The command is started where the user's file is, and its workers import it too."""
    (directory / "sweep.py").write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", "--config=sweep.py", "--workdir=out"],
        cwd=directory,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    out = directory / "out"
    # The same formula written anew, so the same bits; the third is another one.
    same, other = result(out, "asym")["params_sha256"], result(out, "plain")["params_sha256"]
    assert result(out, "factory")["params_sha256"] == same != other
    page = (out / "report" / "report.md").read_text()
    assert "my_advantages.half_blame(delta=0.5)" in page
    assert "masses.png" in page
    assert "Without exact curves" not in page
    table = (out / "results.csv").read_text()
    assert "my_advantages.half_blame" in table
