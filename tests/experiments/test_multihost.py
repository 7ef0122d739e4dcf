"""Several processes are one run: the same as one process, through stops and kills."""

import json
import socket
import threading

import jax
import numpy as np
import pytest

from experiments import multihost
from experiments.config import ConfigError
from experiments.evaluation import restore_params
from experiments.experiment import build_experiment
from experiments.metric_writer import Silent
from experiments.multihost import connect
from experiments.train import train
from tests.experiments import letters_run
from tests.experiments.test_resume import checkpoint_steps, finish, metrics, result, wait_for
from tests.experiments.tiny_config import get_config as tiny_config

STEPS = 20
# Rounding stays rounding under SGD; Adam makes steps of noise where there is no gradient.
SETTINGS = {
    "steps": STEPS,
    "mesh.data": 2,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.05,
    "evaluation.every": 10,
}


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def assert_same_metrics(found, expected):
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            # The update of the head is a difference: its rank is of the differences of rounding.
            close = {"rtol": 1e-2} if name == "rank_one_fraction" else {"rtol": 2e-4, "atol": 1e-5}
            if value is None:
                assert b[name] is None
            else:
                np.testing.assert_allclose(value, b[name], **close, err_msg=f"{a['step']} {name}")


@pytest.fixture(name="started")
def started_fixture(command):
    """The fixture `command`, whose processes end with the test."""
    processes = []

    def start(*arguments, **environment):
        processes.append(command(*arguments, **environment))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module", name="single")
def single_fixture(warm, tmp_path_factory):
    """(config, workdir) of one process with two devices."""
    workdir = tmp_path_factory.mktemp("single")
    config = tiny_config()
    config.warm_start.workdir = warm
    config.update_from_flattened_dict(SETTINGS)
    train(config, workdir, progress=Silent())
    return config, workdir


@pytest.mark.slow
def test_two_processes_equal_one_through_a_kill(started, single, tmp_path):
    config, alone = single

    def start():
        flags = [f"--config.{name}={value}" for name, value in SETTINGS.items()]
        port = free_port()
        return [
            started(
                "experiments.run",
                "--config=tests/experiments/tiny_config.py",
                f"--workdir={tmp_path}",
                f"--config.warm_start.workdir={config.warm_start.workdir}",
                "--noreport",
                *flags,
                f"--coordinator=localhost:{port}",
                "--num_processes=2",
                f"--process_id={i}",
            )
            for i in range(2)
        ]

    processes = start()
    wait_for(lambda: len(checkpoint_steps(tmp_path)) > 1, processes[0])
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
    assert not (tmp_path / "result.json").exists()

    for process in start():
        finish(process)
    assert_same_metrics(metrics(tmp_path), metrics(alone))
    assert any(line.get("reward", 0) > 0 for line in metrics(alone))
    experiment = build_experiment(config)
    ends = [restore_params(experiment, directory, STEPS)[1] for directory in (tmp_path, alone)]
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_four_processes_score_their_own_prompts_and_stop_together(started, tmp_path):
    expected, _, scored = letters_run.run(tmp_path / "one")
    port = free_port()
    processes = [
        started("tests.experiments.letters_run", tmp_path / "four", port, 4, i) for i in range(4)
    ]
    said = [json.loads(finish(process, 500)[0].splitlines()[-1]) for process in processes]
    assert all(line["result"] == said[0]["result"] for line in said)
    for line in said:  # a SIGTERM to process 1
        assert line["stopped"] == "stopped at step 1 of 2; checkpoint written"

    assert_same_metrics(metrics(tmp_path / "four"), metrics(tmp_path / "one"))
    assert 0 < expected["reward"] < 1
    parts = said[0]["scored"]
    assert len(parts) == 4
    assert all(parts)
    assert max(map(len, parts)) < 0.5 * len(scored)  # an equal part is 0.25
    assert sorted(text for part in parts for text in part) == sorted(scored)
    assert result(tmp_path / "four")["params_sha256"] == said[3]["result"]["params_sha256"]

    for process, line in enumerate(said):
        assert line["heard"] == [
            "ValueError: no disk" if process == 1 else "ValueError: process 1: no disk",
            "ConfigError: process 3 has another config than process 0: {'seed': 1}",
            True,
            False,
            0,
        ]


@pytest.mark.parametrize(
    ("arguments", "detect", "message"),
    [
        (("here:1", 2, None), False, "belong together, got no --process_id"),
        ((None, 2, 1), False, "belong together, got no --coordinator"),
        (("here", 2, 0), False, "--coordinator must be host:port, got 'here'"),
        (("here:1", 0, 0), False, "--num_processes must be at least 1, got 0"),
        (("here:1", 2, 2), False, "--process_id must be in 0..1 for --num_processes=2, got 2"),
        (("here:1", 2, 0), True, "by itself: leave them out"),
    ],
)
def test_what_does_not_name_one_of_several_processes(arguments, detect, message):
    with pytest.raises(ConfigError, match=message):
        connect(*arguments, detect=detect)


def test_connect_says_for_whom_it_waits_and_ends(monkeypatch, capsys):
    ended = threading.Event()
    monkeypatch.setattr(multihost, "_SILENT_SECONDS", 0.01)
    monkeypatch.setattr(multihost, "_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(multihost.os, "_exit", lambda _: ended.set())
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: ended.wait(60))
    connect("here:1", 2, 1)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("waiting for process 0 at --coordinator=here:1 and all 2 processes")
    assert last.startswith("error: waited 0 s in vain for process 0 at --coordinator=here:1")


def test_a_sweep_points_to_shards(command, tmp_path):
    sweep = command(
        "experiments.run",
        "--config=configs/sweeps/core.py",
        f"--workdir={tmp_path / 'sweep'}",
        "--distributed",
    )
    _, err = sweep.communicate(timeout=240)
    assert sweep.returncode == 2
    assert "--shard=i/n" in err.strip().splitlines()[-1]
    assert not (tmp_path / "sweep").exists()
