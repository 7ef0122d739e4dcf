"""Devices that sample beside those that train, against the same run in lock step on 8 fake devices."""

import socket
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Listener

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import remote, sharding
from experiments.config import ConfigError
from experiments.experiment import build_experiment
from experiments.loop import Stopped
from experiments.metric_writer import Silent, read_lines
from experiments.remote import SECRET, SamplerError
from experiments.rollout import draw
from experiments.sampler import serve_one
from experiments.train import train
from experiments.validation import validate
from tests.experiments import letters_run
from tests.experiments.tiny_config import get_config as tiny_config

ROUNDS = 2


def letters(samplers, lag, rounds=0):
    config = tiny_config()
    config.task.name, config.task.kwargs = "tests.experiments.letters_run.make", {}
    config.steps = 6
    config.steps_per_call, config.evaluation.every, config.checkpoint.every = 1, 6, 2
    config.warm_start.steps = 0
    config.learner.staleness, config.learner.resample_rounds = lag, rounds
    config.learner.head_rank = False
    config.optimizer.learning_rate = 1e-2
    config.mesh.data, config.mesh.samplers = 4, samplers
    return config


def params_and_lines(config, workdir, samplers=(), experiment=None):
    settings = {"progress": Silent(), "experiment": experiment or build_experiment(config)}
    result = train(config, workdir, samplers=samplers, **settings)
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if "reward" in line]
    timing = ("tokens_per_second", "step_seconds")
    return result["params_sha256"], [
        {k: v for k, v in line.items() if k not in timing} for line in lines
    ]


@pytest.fixture(scope="module", name="in_turn")
def in_turn_fixture(tmp_path_factory):
    """The digest and the lines of a run in lock step, which samples further groups."""
    digest, lines = params_and_lines(letters(0, 3, ROUNDS), tmp_path_factory.mktemp("in_turn"))
    assert len({line["reward"] for line in lines}) > 1
    assert any(line["resampling/rounds"] > 0 for line in lines)
    return digest, lines


def test_samplers_give_the_bits_of_lock_step_and_resume_to_them(in_turn, tmp_path, monkeypatch):
    """A stop and a failure of verification each leave batches under way, which are made again."""
    config = letters(4, 3, ROUNDS)
    experiment = build_experiment(config)
    assert params_and_lines(config, tmp_path / "beside", experiment=experiment) == in_turn
    monkeypatch.setattr(letters_run, "STOPS", [True])
    with pytest.raises(Stopped):
        params_and_lines(config, tmp_path / "stopped", experiment=experiment)
    assert params_and_lines(config, tmp_path / "stopped", experiment=experiment) == in_turn


@pytest.mark.slow
def test_samplers_score_tasks_of_the_device(warm, tmp_path):
    config = tiny_config()
    config.steps = config.evaluation.every = 3
    config.steps_per_call, config.warm_start.workdir = 1, warm
    config.learner.staleness, config.learner.head_rank = 1, False
    config.mesh.data, config.mesh.samplers = 4, 4
    _, beside = params_and_lines(config, tmp_path / "beside")
    config.mesh.samplers = 0
    _, in_turn = params_and_lines(config, tmp_path / "in_turn")
    assert [line["reward"] for line in beside] == [line["reward"] for line in in_turn]
    for a, b in zip(beside, in_turn, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], atol=1e-5)


def test_sampler_mesh_has_the_last_devices():
    sizes = {"data": -1, "fsdp": 1, "tensor": 2, "samplers": 2}
    trainer, sampler = sharding.make_mesh(sizes), sharding.sampler_mesh(sizes)
    assert trainer.shape == {"data": 3, "fsdp": 1, "tensor": 2}
    assert sampler.shape == {"data": 1, "fsdp": 1, "tensor": 2}
    assert [*trainer.devices.flat, *sampler.devices.flat] == jax.devices()


@pytest.mark.parametrize(
    ("samplers", "tensor", "message"),
    [
        (3, 2, "config.mesh.samplers must be a multiple of config.mesh.tensor = 2"),
        (8, 1, "below the number of devices, 8, got 8"),
    ],
)
def test_make_mesh_refuses_samplers_that_do_not_fit(samplers, tensor, message):
    with pytest.raises(ConfigError, match=message):
        sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": tensor, "samplers": samplers})


def test_samplers_need_a_lag():
    with pytest.raises(ConfigError, match=r"config\.learner\.staleness must be at least 1 with"):
        validate(letters(4, 0))


def test_samplers_take_whole_shares_of_the_prompts():
    config = letters(3, 1)
    with pytest.raises(ConfigError, match=r"config\.prompts must be a multiple of"):
        sharding.check_batches(sharding.make_mesh(config.mesh), config)


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.fixture(name="processes")
def processes_fixture(command, monkeypatch):
    """Starts two sampling processes of two devices each; (addresses, processes, restart)."""
    monkeypatch.setenv(SECRET, "of the test")
    addresses = [f"localhost:{free_port()}" for _ in range(2)]
    running = {}

    def start(address):
        running[address] = command(
            "experiments.sampler", f"--listen={address}", JAX_NUM_CPU_DEVICES="2"
        )

    def wait(address):
        assert "listening" in running[address].stdout.readline()

    for each in (start, wait):
        for address in addresses:
            each(address)
    yield addresses, running, lambda address: (start(address), wait(address))
    for process in running.values():
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_processes_that_sample_give_the_bits_of_lock_step(tmp_path, processes, monkeypatch):
    """A process that dies ends the run with a checkpoint, which goes on with another to the bits."""
    addresses, running, restart = processes
    in_turn = params_and_lines(letters(0, 1), tmp_path / "in_turn")
    config = letters(0, 1)

    def kill_one(text, answer):
        kills.append(1)
        if len(kills) == 100:
            running[addresses[0]].kill()
        return float(len(text) % 2 == answer)

    kills = []
    with monkeypatch.context() as patch:
        patch.setattr(letters_run, "score", kill_one)
        with pytest.raises(SamplerError, match=f"the sampler at {addresses[0]} has gone"):
            train(config, tmp_path / "beside", progress=Silent(), samplers=addresses)
    assert (tmp_path / "beside" / "checkpoints").exists()
    restart(addresses[0])
    assert params_and_lines(config, tmp_path / "beside", addresses) == in_turn


def test_train_names_a_sampler_that_is_not_there(tmp_path, monkeypatch):
    address = f"localhost:{free_port()}"
    with pytest.raises(ConfigError, match=rf"\${SECRET} must be the same text"):
        train(letters(0, 1), tmp_path / "a", progress=Silent(), samplers=[address])
    monkeypatch.setenv(SECRET, "of the test")
    with pytest.raises(SamplerError, match=f"the sampler at {address} must be there"):
        train(letters(0, 1), tmp_path / "b", progress=Silent(), samplers=[address])
    with pytest.raises(ConfigError, match="the address of a sampler must be HOST:PORT, got 'x'"):
        train(letters(0, 1), tmp_path / "b", progress=Silent(), samplers=["x"])
    with pytest.raises(ConfigError, match=r"--samplers needs config\.mesh\.samplers = 0"):
        train(letters(0, 0), tmp_path / "c", progress=Silent(), samplers=[address])
    with pytest.raises(ConfigError, match=r"must be a multiple of the 3 --samplers, got 8"):
        train(letters(0, 1), tmp_path / "d", progress=Silent(), samplers=[address] * 3)
    assert not list(tmp_path.iterdir())  # a refused command leaves nothing


def test_serve_one_refuses_a_second_trainer():
    busy = threading.Lock()
    ours, theirs = Pipe()
    remote.send(ours, {"kind": "setup"})
    with busy:
        serve_one(theirs, busy, patience=0.01)
    assert remote.receive(ours) == ({"error": "it serves another trainer"}, [])


def test_serve_names_what_a_trainer_of_another_version_lacks():
    ours, theirs = Pipe()
    remote.send(ours, {"kind": "setup", "tensor": 1})
    thread = threading.Thread(target=serve_one, args=(theirs, threading.Lock()))
    thread.start()
    assert remote.receive(ours) == ({"error": "KeyError: 'model'"}, [])
    ours.close()
    thread.join()


def test_messages_arrive_as_they_were_sent(monkeypatch):
    """Arrays of several types, an empty one and one in several parts."""
    monkeypatch.setattr(remote, "_PART", 7)
    arrays = [
        np.arange(6, dtype=np.int32).reshape(2, 3).T,
        np.asarray(jnp.arange(5, dtype=jnp.bfloat16)),
        np.zeros((0, 3), np.float32),
        np.float32(2.5),
    ]
    ours, theirs = Pipe()
    remote.send(ours, {"kind": "x", "step": 3}, arrays)
    header, found = remote.receive(theirs)
    assert header == {"kind": "x", "step": 3}
    for a, b in zip(arrays, found, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_rows_of_a_batch_get_its_draws():
    logits = np.random.default_rng(1).normal(size=(6, 4, 300)).astype(np.float32)
    of_rows = jax.jit(draw, static_argnums=2)
    whole = of_rows(jax.random.key(0), logits)
    parts = [of_rows(jax.random.key(0), logits[i : i + 3], (i, 6)) for i in (0, 3)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_close_wakes_a_thread_that_waits_and_tells_the_sampler(monkeypatch):
    """The sampler answers the setup alone; the trainer gives up while it waits for rollouts."""
    monkeypatch.setenv(remote.SECRET, "test")
    asked, gone = threading.Event(), threading.Event()
    listener = Listener(("localhost", 0), authkey=b"test")

    def sampler():
        with listener.accept() as connection:
            remote.receive(connection)
            remote.send(connection, {})
            remote.receive(connection)
            asked.set()
            with pytest.raises(EOFError):
                remote.receive(connection)
            gone.set()

    threading.Thread(target=sampler, daemon=True).start()
    trainer = remote.RemoteSamplers([f"localhost:{listener.address[1]}"], {"prompts": 1})
    waiting = threading.Thread(target=lambda: suppress_gone(trainer), daemon=True)
    waiting.start()
    assert asked.wait(60)
    trainer.close()
    assert gone.wait(60)
    waiting.join(60)
    assert not waiting.is_alive()
    listener.close()


def suppress_gone(trainer):
    with pytest.raises(SamplerError, match="has gone"):
        trainer.send_weights({})
