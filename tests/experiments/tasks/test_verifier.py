import itertools
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from experiments.tasks import arithmetic, check_processes
from experiments.tasks.text_task import Problem, text_task
from experiments.tasks.verifier import COUNTED, Verifier, count_verdicts
from tests.experiments.tasks.byte_tokenizer import ByteTokenizer


def troublesome(text, answer):
    """Sleeps, spins, dies or raises if the text says so; else scores it."""
    match text:
        case "sleep":
            time.sleep(60)
        case "nap":
            time.sleep(2.5)
            return 1.0
        case "spin":
            return float(len(str(7 ** (10**9))) > 0)  # no signal handler runs in here
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "quit":
            os._exit(0)
        case "once":
            mark = Path(os.environ["VERIFIER_TEST_MARK"])
            if not mark.exists():
                mark.touch()
                os._exit(1)
            return 1.0
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
    """Answers 1, 2, … and tokens of groups of texts; None is a completion without EOS."""
    tokens = np.full((len(groups), len(groups[0]), 8), 257, np.int32)
    for row, texts in zip(tokens, groups):
        for cell, text in zip(row, texts):
            coded = list(b"endless!" if text is None else f"{text}\n".encode())
            cell[: len(coded)] = coded
    mask = np.cumsum(tokens == 10, axis=-1) - (tokens == 10) == 0
    return np.arange(1.0, len(groups) + 1), tokens, mask.astype(np.float32)


def wait_until_ready(verifier):
    while not all(worker.ready for worker in verifier._checker._workers):
        verifier.verify(*batch([["1", "1"]]))


@pytest.fixture(scope="module")
def verifier():
    with Verifier(task_for(), workers=2, timeout_seconds=1.0) as verifier:
        yield verifier


def test_verify_keeps_order_with_and_without_workers(verifier):
    rng = np.random.default_rng(0)
    groups = [[str(n) for n in rng.integers(0, 6, 8)] + [None, ""] for _ in range(6)]
    expected = [[float(text == str(i + 1)) for text in row] for i, row in enumerate(groups)]
    rewards = verifier.verify(*batch(groups)).rewards
    assert rewards.dtype == np.float32
    assert rewards.tolist() == expected
    with Verifier(task_for(), workers=0, timeout_seconds=1.0) as alone:
        assert alone.verify(*batch(groups)).rewards.tolist() == expected


def test_verify_scores_slow_and_dying_checks_zero_and_hung_ones_unknown(verifier):
    start = time.monotonic()
    groups = [["1", "sleep", "1", "die", "1"], ["quit", "2", "spin", "2", "2"]]
    verified = verifier.verify(*batch(groups))
    np.testing.assert_array_equal(verified.rewards, [[1, np.nan, 1, 0, 1], [0, 1, 0, 1, 1]])
    kinds = [[verdict.kind for verdict in group] for group in verified.verdicts]
    assert kinds[0] == ["right", "unknown", "right", "died", "right"]
    assert kinds[1] == ["died", "right", "timeout", "right", "right"]
    expected = {"timeouts": 1, "deaths": 2, "errors": 0, "unknown": 1}
    assert count_verdicts(verified) == {**dict.fromkeys(COUNTED.values(), 0), **expected}
    assert time.monotonic() - start < 60
    assert verifier.verify(*batch([["1", "2"]])).rewards.tolist() == [[1, 0]]


def test_verify_counts_processor_time_and_not_waiting(monkeypatch):
    """On a busy machine a check of 2.5 s may have a hundredth of a second at every look."""
    clock = itertools.count()
    monkeypatch.setattr(check_processes._Worker, "_processor_seconds", lambda _: next(clock) / 100)
    with Verifier(task_for(), workers=1, timeout_seconds=0.5) as verifier:
        assert verifier.verify(*batch([["nap", "1"]])).rewards.tolist() == [[1, 1]]


def test_verify_waits_in_the_queue_without_a_limit():
    with Verifier(task_for(), workers=1, timeout_seconds=4.0) as verifier:
        assert verifier.verify(*batch([["nap", "nap"]])).rewards.tolist() == [[1, 1]]


def test_verify_ends_a_check_that_never_uses_its_time(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(check_processes._Worker, "_processor_seconds", lambda _: next(clock) / 1e6)
    monkeypatch.setattr(check_processes, "_PATIENCE", 3)
    with Verifier(task_for(), workers=1, timeout_seconds=0.3) as verifier:
        verified = verifier.verify(*batch([["sleep", "1"]]))
    np.testing.assert_array_equal(verified.rewards, [[np.nan, 1]])
    assert [verdict.kind for verdict in verified.verdicts[0]] == ["unknown", "right"]


def test_verify_tries_a_check_again_whose_worker_died(monkeypatch, tmp_path):
    monkeypatch.setenv("VERIFIER_TEST_MARK", str(tmp_path / "mark"))
    with Verifier(task_for(), workers=1, timeout_seconds=1.0) as verifier:
        assert verifier.verify(*batch([["once", "1"]])).rewards.tolist() == [[1, 1]]


def test_verify_reuses_its_processes(verifier):
    seen = [verifier.verify(*batch([["pid"] * 32])).rewards for _ in range(2)]
    assert len(np.unique(seen)) <= 2
    assert round(os.getpid() % 1000 / 1000, 3) not in np.round(np.ravel(seen), 3).tolist()


def test_verify_may_be_called_from_several_threads(verifier):
    batches = [[[str(n), "1", "2"]] for n in range(12)]
    with ThreadPoolExecutor(4) as pool:
        rewards = list(pool.map(lambda groups: verifier.verify(*batch(groups)).rewards, batches))
    assert [r.tolist() for r in rewards] == [[[float(n == 1), 1, 0]] for n in range(12)]


def test_verify_replaces_a_worker_killed_while_idle(verifier):
    wait_until_ready(verifier)
    for worker in verifier._checker._workers:
        worker.process.kill()
        worker.process.join()
    assert verifier.verify(*batch([["1", "1", "2"]])).rewards.tolist() == [[1, 1, 0]]


def test_verify_replaces_a_worker_killed_while_it_starts():
    with Verifier(task_for(), workers=1, timeout_seconds=1.0) as verifier:
        verifier._checker._workers[0].process.kill()
        assert verifier.verify(*batch([["1", "2"]])).rewards.tolist() == [[1, 0]]


@pytest.mark.parametrize("workers", [0, 1])
def test_verify_scores_a_check_that_raises_zero_and_logs_the_first(workers, caplog):
    with Verifier(task_for(), workers=workers, timeout_seconds=1.0) as verifier:
        verified = verifier.verify(*batch([["1", "raise", "raise"]]))
        assert verified.rewards.tolist() == [[1, 0, 0]]
        assert [verdict.kind for verdict in verified.verdicts[0]] == ["right", "error", "error"]
        assert verifier.verify(*batch([["raise"]])).rewards.tolist() == [[0]]
    (record,) = caplog.records
    assert "score('raise', 1.0) failed:" in record.message
    assert "a bug in the score" in record.message


@pytest.mark.parametrize("workers", [0, 1])
def test_verify_raises_if_no_check_ever_succeeds(workers):
    with (
        Verifier(task_for(), workers=workers, timeout_seconds=1.0) as verifier,
        pytest.raises(RuntimeError, match=r"none of 2 completions could be checked(?s:.*)a bug"),
    ):
        verifier.verify(*batch([["raise", "raise"]]))


@pytest.mark.parametrize("workers", [0, 1])
def test_verify_refuses_rewards_outside_the_range(workers):
    with (
        Verifier(task_for(), workers=workers, timeout_seconds=5.0) as verifier,
        pytest.raises(ValueError, match=r"rewards must lie in \[0, 1\], got 2"),
    ):
        verifier.verify(*batch([["1", "two"]]))


def test_verify_raises_if_processes_cannot_start():
    with (
        Verifier(task_for(Unloadable()), workers=1, timeout_seconds=1.0) as verifier,
        pytest.raises(RuntimeError, match="3 verification processes in a row died"),
    ):
        verifier.verify(*batch([["1"]]))


def test_close_leaves_no_process():
    verifier = Verifier(task_for(), workers=2, timeout_seconds=1.0)
    processes = [worker.process for worker in verifier._checker._workers]
    verifier.close()
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 2


def test_verify_survives_signals_to_the_process_group(verifier):
    wait_until_ready(verifier)
    pids = [worker.process.pid for worker in verifier._checker._workers]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert verifier.verify(*batch([["1", "2"]])).rewards.tolist() == [[1, 0]]
    assert [worker.process.pid for worker in verifier._checker._workers] == pids


def test_verify_equals_the_task_of_arithmetic():
    task = arithmetic.make(ByteTokenizer())
    prompts, tokens, mask = task.demonstrations(0, 0, 8)
    tokens, mask = np.repeat(tokens[:, None], 2, axis=1), np.repeat(mask[:, None], 2, axis=1)
    tokens[:, 1, 1] = ord("z")
    with Verifier(task, workers=1, timeout_seconds=5.0) as verifier:
        rewards = verifier.verify(prompts.verifier_inputs, tokens, mask).rewards
    assert rewards.tolist() == [[1, 0]] * 8
    np.testing.assert_array_equal(task.verify(prompts.verifier_inputs, tokens, mask), rewards)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"workers": -1}, r"verification\.workers must be at least 0, got -1"),
        ({"timeout_seconds": 0}, r"verification\.timeout_seconds must be positive, got 0"),
    ],
)
def test_verifier_refuses_bad_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Verifier(task_for(), **{"workers": 0, "timeout_seconds": 1.0, **kwargs})


def test_verifier_needs_a_score_for_workers():
    class Scoreless:
        def verify(self, verifier_inputs, tokens, token_mask):
            return np.full(np.shape(tokens)[:2], 0.5)

    assert Verifier(Scoreless()).verify(*batch([["1", "2"]])).rewards.tolist() == [[0.5, 0.5]]
    with pytest.raises(ValueError, match=r"verification\.workers must be 0 .* got 1"):
        Verifier(Scoreless(), workers=1)
