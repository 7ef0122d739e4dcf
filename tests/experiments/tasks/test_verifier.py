import os
import signal
import time

import numpy as np
import pytest

from experiments.tasks import arithmetic
from experiments.tasks.text_task import Problem, text_task
from experiments.tasks.verifier import Verifier
from tests.experiments.tasks.byte_tokenizer import ByteTokenizer


def troublesome(text, answer):
    """Does what the text says: sleep, spin, die, raise; else scores it."""
    match text:
        case "sleep":
            time.sleep(60)
        case "spin":
            return float(len(str(7 ** (10**9))) > 0)  # no signal handler runs in here
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "quit":
            os._exit(0)
        case "raise":
            raise KeyError("a bug in the score")
        case "two":
            return 2.0
        case "pid":
            return os.getpid() % 1000 / 1000
    return float(text == str(int(answer)))


def refuses_to_load(*_):
    raise AssertionError("never called")


class Unloadable:
    """Fails when a process reads it."""

    def __reduce__(self):
        return (refuses_to_load, ())


def task_for(score=troublesome):
    problems = [Problem("a", 1, "1")]
    return text_task(
        ByteTokenizer(), train=[problems], evaluation=[problems], pattern=(0,),
        evaluation_pattern=(0,), score=score, eos_id=10, max_prompt=8, max_completion=8, seed=0,
        dropped={},
    )  # fmt: skip


def batch(groups):
    """Facts 1, 2, … and tokens of groups of texts; None is an answer without its end."""
    tokens = np.full((len(groups), len(groups[0]), 8), 257, np.int32)
    for row, texts in zip(tokens, groups):
        for cell, text in zip(row, texts):
            coded = list(b"endless!" if text is None else f"{text}\n".encode())
            cell[: len(coded)] = coded
    mask = np.cumsum(tokens == 10, axis=-1) - (tokens == 10) == 0
    return np.arange(1.0, len(groups) + 1), tokens, mask.astype(np.float32)


def wait_until_ready(verifier):
    while not all(worker.ready for worker in verifier._workers):
        verifier.verify(*batch([["1", "1"]]))


@pytest.fixture(scope="module")
def verifier():
    with Verifier(task_for(), workers=2, timeout_seconds=1.0) as verifier:
        yield verifier


def test_order_and_values_as_in_one_process(verifier):
    rng = np.random.default_rng(0)
    groups = [[str(n) for n in rng.integers(0, 6, 8)] + [None, ""] for _ in range(6)]
    expected = [[float(text == str(i + 1)) for text in row] for i, row in enumerate(groups)]
    rewards = verifier.verify(*batch(groups))
    assert rewards.dtype == np.float32
    assert rewards.tolist() == expected
    with Verifier(task_for(), workers=0, timeout_seconds=1.0) as alone:
        assert alone.verify(*batch(groups)).tolist() == expected


def test_slow_and_dying_checks_have_reward_zero_and_are_counted(verifier):
    timeouts, deaths = verifier.timeouts, verifier.deaths
    start = time.monotonic()
    groups = [["1", "sleep", "1", "die", "1"], ["quit", "2", "spin", "2", "2"]]
    rewards = verifier.verify(*batch(groups))
    assert rewards.tolist() == [[1, 0, 1, 0, 1], [0, 1, 0, 1, 1]]
    assert (verifier.timeouts - timeouts, verifier.deaths - deaths) == (2, 2)
    assert time.monotonic() - start < 45
    # And it goes on.
    assert verifier.verify(*batch([["1", "2"]])).tolist() == [[1, 0]]


def test_processes_stay_and_share_the_work(verifier):
    seen = [verifier.verify(*batch([["pid"] * 32])) for _ in range(2)]
    assert len(np.unique(seen)) <= 2
    assert round(os.getpid() % 1000 / 1000, 3) not in np.round(np.ravel(seen), 3).tolist()


def test_a_worker_killed_while_idle_is_replaced(verifier):
    wait_until_ready(verifier)
    deaths = verifier.deaths
    for worker in verifier._workers:
        worker.process.kill()
        worker.process.join()
    assert verifier.verify(*batch([["1", "1", "2"]])).tolist() == [[1, 1, 0]]
    assert verifier.deaths > deaths


def test_a_worker_killed_while_it_starts_is_replaced():
    with Verifier(task_for(), workers=1, timeout_seconds=1.0) as verifier:
        verifier._workers[0].process.kill()
        assert verifier.verify(*batch([["1", "2"]])).tolist() == [[1, 0]]


def test_a_bug_in_the_score_stops_the_run(verifier):
    with pytest.raises(RuntimeError, match=r"score\('raise', 1\.0\) failed:(?s:.*)a bug in the"):
        verifier.verify(*batch([["raise", "sleep"]]))
    # What was under way then does not come back as the answer to something else.
    assert verifier.verify(*batch([["1", "1", "2"]])).tolist() == [[1, 1, 0]]


@pytest.mark.parametrize("workers", [0, 1])
def test_rewards_outside_the_range_are_refused(workers):
    with (
        Verifier(task_for(), workers=workers, timeout_seconds=5.0) as verifier,
        pytest.raises(ValueError, match=r"rewards must lie in \[0, 1\], got 2"),
    ):
        verifier.verify(*batch([["1", "two"]]))


def test_a_process_that_cannot_start_stops_the_run():
    with (
        Verifier(task_for(Unloadable()), workers=1, timeout_seconds=1.0) as verifier,
        pytest.raises(RuntimeError, match="3 verification processes in a row died"),
    ):
        verifier.verify(*batch([["1"]]))


def test_closing_leaves_no_process():
    verifier = Verifier(task_for(), workers=2, timeout_seconds=1.0)
    processes = [worker.process for worker in verifier._workers]
    verifier.close()
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 2


def test_signals_to_the_process_group_do_not_end_workers(verifier):
    wait_until_ready(verifier)
    pids = [worker.process.pid for worker in verifier._workers]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert verifier.verify(*batch([["1", "2"]])).tolist() == [[1, 0]]
    assert [worker.process.pid for worker in verifier._workers] == pids


def test_a_real_task_in_processes():
    task = arithmetic.make(ByteTokenizer())
    prompts, tokens, mask = task.demonstrations(0, 0, 8)
    tokens, mask = np.repeat(tokens[:, None], 2, axis=1), np.repeat(mask[:, None], 2, axis=1)
    tokens[:, 1, 1] = ord("z")
    with Verifier(task, workers=1, timeout_seconds=5.0) as verifier:
        rewards = verifier.verify(prompts.verifier_inputs, tokens, mask)
    assert rewards.tolist() == [[1, 0]] * 8
    np.testing.assert_array_equal(task.verify(prompts.verifier_inputs, tokens, mask), rewards)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"workers": -1}, r"verification\.workers must be at least 0, got -1"),
        ({"timeout_seconds": 0}, r"verification\.timeout_seconds must be positive, got 0"),
    ],
)
def test_bad_values_are_refused_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Verifier(task_for(), **{"workers": 0, "timeout_seconds": 1.0, **kwargs})
