"""A run small enough for a test: 16 nodes, one layer, a few steps, on one fake device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.config import default_config, smoke_run
from tests.conftest import COMPILATION_CACHE

REPOSITORY = Path(__file__).resolve().parents[2]


def tiny_config():
    config = smoke_run(default_config())
    config.task.kwargs = {
        "nodes": 16,
        "forbidden": 2,
        "min_distance": 1,
        "max_distance": 3,
        "max_path": 5,
        "max_walk": 4,
        "min_walk": 1,
    }
    config.model.num_layers = 1
    config.model.d_model = 16
    config.model.d_ff = 32
    config.model.num_heads = 2
    config.model.num_kv_heads = 1
    config.prompts = 8
    config.group_size = 4
    config.optimizer.learning_rate = 1e-2
    config.warm_start.learning_rate = 1e-2
    config.mesh.data = 1
    return config


@pytest.fixture(name="tiny")
def tiny_fixture():
    return tiny_config()


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
                "JAX_COMPILATION_CACHE_DIR": str(COMPILATION_CACHE),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
