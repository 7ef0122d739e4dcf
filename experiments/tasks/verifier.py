"""Verification on the host, in processes that a hanging or dying check cannot stop."""

import atexit
import math
import multiprocessing
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

import numpy as np

_READY = "ready"
_START_SECONDS = 120.0
_MAX_FAILED_STARTS = 3


class Verifier:
    """Scores completions of a task that is verified on the host; a context manager.

    With workers, every completion is scored in one of several fresh processes, started once. A
    completion that takes longer than the time limit, or whose process dies, has reward 0 and is
    counted in `timeouts` or `deaths`; its process is replaced. Results keep their order. With no
    workers, completions are scored in this process, one after the other and without a time limit:
    for checks that are known to be short.

    Attributes:
      timeouts: completions that took too long, so far.
      deaths: processes that died, so far.
    """

    def __init__(self, task: Any, *, workers: int = 0, timeout_seconds: float = 5.0):
        """Starts the processes.

        Args:
          task: of the host; with workers it needs `texts` and `score` too (base.Task).
          workers: processes; 0 for none.
          timeout_seconds: of one completion; with workers alone.

        Raises:
          ValueError: if workers is negative or timeout_seconds is not positive.
        """
        if workers < 0:
            raise ValueError(f"verification.workers must be at least 0, got {workers}")
        if not timeout_seconds > 0:
            raise ValueError(
                f"verification.timeout_seconds must be positive, got {timeout_seconds}"
            )
        self.timeouts = 0
        self.deaths = 0
        self._failed_starts = 0
        self._task = task
        self._timeout_seconds = timeout_seconds
        self._workers = [_Worker(task.score) for _ in range(workers)]
        # Without this an exit of the program would wait for workers that ignore SIGTERM.
        atexit.register(self.close)

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes."""
        atexit.unregister(self.close)
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def verify(self, facts: Any, tokens: np.ndarray, token_mask: np.ndarray) -> np.ndarray:
        """Scores completions.

        Args:
          facts: of P prompts.
          tokens: i32 [P, G, T].
          token_mask: [P, G, T], 1 up to and including the first EOS.

        Returns:
          f32 [P, G].

        Raises:
          ValueError: if a reward lies outside [0, 1].
          RuntimeError: if the task's score raises, or a process cannot start.
        """
        if not self._workers:
            rewards = np.asarray(self._task.verify(facts, tokens, token_mask), np.float32)
        else:
            texts = self._task.texts(tokens, token_mask)
            items = [
                (index, text, float(answer))
                for index, (text, answer) in enumerate(
                    (text, answer) for group, answer in zip(texts, facts) for text in group
                )
                if text is not None
            ]
            rewards = np.zeros(np.shape(tokens)[:2], np.float32)
            try:
                for index, reward in self._score_all(items):
                    rewards.flat[index] = reward
            except BaseException:
                # What is under way must not come back as the answer to a later item.
                for i, worker in enumerate(self._workers):
                    if worker.item is not None:
                        self._replace(i)
                raise
        wrong = ~((rewards >= 0) & (rewards <= 1))
        if wrong.any():
            raise ValueError(f"rewards must lie in [0, 1], got {rewards[wrong][0]}")
        return rewards

    def _score_all(self, items: list[tuple[int, str, float]]) -> list[tuple[int, float]]:
        waiting, scored = deque(items), []
        while waiting or any(worker.item is not None for worker in self._workers):
            for i, worker in enumerate(self._workers):
                if waiting and worker.ready and worker.item is None:
                    item = waiting.popleft()
                    if not worker.give(item, self._timeout_seconds):
                        waiting.appendleft(item)  # It died idle: not this item's fault.
                        self._replace(i)
                        self.deaths += 1
            self._wait()
            for i, worker in enumerate(self._workers):
                scored += self._collect(i, worker)
        return scored

    def _wait(self) -> None:
        """Waits until a worker has something to say or runs out of time."""
        soonest = min(worker.deadline for worker in self._workers)
        left = None if math.isinf(soonest) else max(0.0, soonest - time.monotonic())
        connection.wait([w.pipe for w in self._workers if not math.isinf(w.deadline)], left)

    def _collect(self, i: int, worker: "_Worker") -> list[tuple[int, float]]:
        """Returns what worker i has finished: nothing, or one (index, reward)."""
        item = worker.item
        try:
            said = worker.hear()
        except (EOFError, OSError):
            self._replace(i)
            self.deaths += 1
            self._failed_starts += not worker.ready
            if self._failed_starts == _MAX_FAILED_STARTS:
                raise RuntimeError(
                    f"{_MAX_FAILED_STARTS} verification processes in a row died while they "
                    "started; their error is above"
                ) from None
            return [] if item is None else [(item[0], 0.0)]
        if said is None:
            if time.monotonic() < worker.deadline:
                return []
            if not worker.ready:
                raise RuntimeError(f"a verification process did not start in {_START_SECONDS} s")
            self._replace(i)
            self.timeouts += 1
            return [(item[0], 0.0)]
        if said == _READY:
            self._failed_starts = 0
            return []
        reward, error = said
        if error:
            raise RuntimeError(f"score({item[1]!r}, {item[2]!r}) failed:\n{error}")
        return [(item[0], reward)]

    def _replace(self, i: int) -> None:
        self._workers[i].kill()
        self._workers[i] = _Worker(self._task.score)


class _Worker:
    """One process, the pipe to it, and the item it works on."""

    def __init__(self, score: Callable[[str, float], float]):
        # Spawned, not forked: a fork of a process with JAX's threads can hang.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, score), daemon=True)
        self.process.start()
        theirs.close()
        self.ready = False
        self.item: tuple[int, str, float] | None = None
        self.deadline = time.monotonic() + _START_SECONDS

    def give(self, item: tuple[int, str, float], timeout_seconds: float) -> bool:
        """Sends an item; False if the process is dead."""
        try:
            self.pipe.send(item[1:])
        except OSError:
            return False
        self.item, self.deadline = item, time.monotonic() + timeout_seconds
        return True

    def hear(self) -> Any:
        """Receives what the process said, if anything; raises EOFError or OSError if it died."""
        if math.isinf(self.deadline) or not self.pipe.poll():
            return None
        said = self.pipe.recv()
        self.ready, self.item, self.deadline = True, None, math.inf
        return said

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: connection.Connection, score: Callable[[str, float], float]) -> None:
    """Scores what comes through the pipe until it closes."""
    # Signals to the whole process group are the main process's to handle: it lets a step finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send(_READY)
    while True:
        try:
            text, answer = pipe.recv()
        except EOFError:
            return
        try:
            said = (float(score(text, answer)), "")
        except Exception:
            said = (0.0, traceback.format_exc())
        pipe.send(said)
