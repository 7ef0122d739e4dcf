"""Programs compiled beside the warm start: found by the calls that need them, and never compiled twice."""

import logging
import threading
from collections import Counter

import jax
import pytest

from experiments import precompile
from experiments.metric_writer import Silent
from experiments.precompile import compiled_beside
from experiments.train import train


def test_train_finds_what_was_compiled_beside_the_warm_start(tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(precompile, "usable_cores", lambda: [0, 1])
    tiny.steps, tiny.warm_start.steps = 2, 2
    jax.config.update("jax_log_compiles", True)
    try:
        with caplog.at_level(logging.WARNING):
            train(tiny, tmp_path, progress=Silent())
    finally:
        jax.config.update("jax_log_compiles", False)
    compiled = Counter()
    for record in caplog.records:
        for name in ("train_steps", "evaluate"):
            if record.getMessage().startswith(f"Compiling jit({name})"):
                compiled[name, record.threadName.startswith("compiler")] += 1
    # The other train_steps is the warm start's.
    assert compiled == {
        ("evaluate", True): 1,
        ("train_steps", True): 1,
        ("train_steps", False): 1,
    }


def test_compiled_beside_leaves_errors_to_the_call(monkeypatch):
    monkeypatch.setattr(precompile, "usable_cores", lambda: [0, 1])
    threads = []

    def fails():
        threads.append(threading.current_thread().name)
        raise ValueError

    with compiled_beside([fails, fails]):
        pass
    assert len(threads) == 2
    assert threading.main_thread().name not in threads


def test_compiled_beside_compiles_nothing_on_one_core(monkeypatch):
    monkeypatch.setattr(precompile, "usable_cores", lambda: [0])
    with compiled_beside([lambda: pytest.fail("compiled")]):
        pass
