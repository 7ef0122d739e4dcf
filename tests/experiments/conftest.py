"""A tiny run, and commands started as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.experiment import build_experiment
from experiments.metric_writer import Silent
from experiments.warm_start import warm_start
from tests.experiments.tiny_config import get_config

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(name="tiny")
def tiny_fixture():
    return get_config()


@pytest.fixture(scope="session", name="warm")
def warm_fixture(tmp_path_factory):
    """The directory of the tiny run's warm start, finished, for config.warm_start.workdir."""
    config, directory = get_config(), tmp_path_factory.mktemp("warm_start")
    config.checkpoint.every = config.warm_start.steps
    warm_start(build_experiment(config), directory, Silent())
    return str(directory)


@pytest.fixture
def command():
    """Starts `python -m MODULE ARGS` in the repository, on one device; returns the process."""

    def start(module, *arguments, **environment):
        return subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=REPOSITORY,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
