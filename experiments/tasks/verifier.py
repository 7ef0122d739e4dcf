"""Verification on the host, in processes that a hanging or dying check cannot stop.

Not `pebble.ProcessPool`: a worker that dies idle ends that pool, and its time limit is wall time.
"""

import atexit
import logging
import math
import multiprocessing
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np

_READY = "ready"
_START_SECONDS = 120.0
_MAX_FAILED_STARTS = 3
_PATIENCE = 60  # time limits that a check may wait for a processor, or sleep in short naps


class _Check(NamedTuple):
    place: int  # in the flattened batch
    text: str
    answer: float
    retried: bool = False


class Verifier:
    """Scores completions of a task that is verified on the host; a context manager.

    With workers, each completion is scored in one of several spawned processes, which are started
    once and replaced when they die. The time limit counts the processor time of the check, not the
    time that it waits on a busy machine; a check that does nothing for as long has hung. A check
    that hangs, or whose process dies, is tried once more. A completion whose check takes too long,
    raises, or ends its process twice has reward 0; one whose check hangs twice has reward NaN, for
    unknown: it may be the machine's fault. All are counted.

    Without workers, completions are scored in this process, without a time limit. Several threads
    may call `verify`; their batches are scored one after the other.

    Attributes:
      timeouts: completions whose check took too long.
      deaths: completions whose check ended its process, twice.
      errors: completions whose check raised an exception; the first is logged.
      unknown: completions whose check hung twice, or whose score is NaN.
    """

    def __init__(self, task: Any, *, workers: int = 0, timeout_seconds: float = 5.0):
        """Starts the processes.

        Args:
          task: verified on the host; with workers it needs `texts` and `score` (see base.Task).
          workers: number of processes; 0 to score in this process.
          timeout_seconds: processor time per completion; used with workers only.

        Raises:
          ValueError: if workers is negative, timeout_seconds is not positive, or the task has no
            `score` for the workers.
        """
        if workers < 0:
            raise ValueError(f"verification.workers must be at least 0, got {workers}")
        if not timeout_seconds > 0:
            raise ValueError(
                f"verification.timeout_seconds must be positive, got {timeout_seconds}"
            )
        if workers and not hasattr(task, "score"):
            raise ValueError(
                f"verification.workers must be 0 for a task without score(), got {workers}"
            )
        self.timeouts = self.deaths = self.errors = self.unknown = 0
        self._succeeded = self._failed_starts = 0
        self._first_error = ""
        self._lock = threading.Lock()
        self._task = task
        self._timeout_seconds = timeout_seconds
        self._workers = [_Worker(task.score, timeout_seconds) for _ in range(workers)]
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

    def counts(self) -> dict[str, int]:
        """Returns the numbers of completions that were not simply scored, since the start."""
        names = ("timeouts", "deaths", "errors", "unknown")
        return {name: getattr(self, name) for name in names}

    def verify(
        self, verifier_inputs: Any, tokens: np.ndarray, token_mask: np.ndarray
    ) -> np.ndarray:
        """Scores completions.

        Args:
          verifier_inputs: of P prompts.
          tokens: i32 [P, G, T].
          token_mask: [P, G, T], 1 up to and including the first EOS.

        Returns:
          f32 [P, G]; NaN where the reward is unknown.

        Raises:
          ValueError: if a reward lies outside [0, 1].
          RuntimeError: if the processes cannot start, or no check has succeeded so far.
        """
        if hasattr(self._task, "score"):
            texts = self._task.texts(tokens, token_mask)
            pairs = [(text, a) for group, a in zip(texts, verifier_inputs) for text in group]
            checks = [_Check(i, t, float(a)) for i, (t, a) in enumerate(pairs) if t is not None]
            rewards = np.zeros(np.shape(tokens)[:2], np.float32)
            with self._lock:
                for check, reward in self._score_all(checks):
                    rewards.flat[check.place] = reward
        else:
            rewards = np.asarray(self._task.verify(verifier_inputs, tokens, token_mask), np.float32)
        self.unknown += int(np.sum(np.isnan(rewards)))
        wrong = (rewards < 0) | (rewards > 1)
        if wrong.any():
            raise ValueError(f"rewards must lie in [0, 1], got {rewards[wrong][0]}")
        return rewards

    def _score_all(self, checks: list[_Check]) -> Iterator[tuple[_Check, float]]:
        """Yields the reward of every check; raises RuntimeError if no check ever succeeded."""
        if self._workers:
            yield from self._score_in_processes(checks)
        else:
            for check in checks:
                yield check, self._reward(check, *_run(self._task.score, check.text, check.answer))
        if checks and not self._succeeded:
            raise RuntimeError(
                f"none of {len(checks)} completions could be checked: {self.timeouts} timed out, "
                f"{self.unknown} hung, {self.deaths} ended their process, {self.errors} raised an"
                f" exception, the first: {self._first_error or 'none'}"
            )

    def _reward(self, check: _Check, reward: float, error: str) -> float:
        """Counts and logs an exception of a check."""
        self._succeeded += not error
        self.errors += bool(error)
        if error and not self._first_error:
            self._first_error = f"score({check.text!r}, {check.answer!r}) failed:\n{error}"
            logging.getLogger(__name__).warning(self._first_error)
        return reward

    def _score_in_processes(self, checks: list[_Check]) -> Iterator[tuple[_Check, float]]:
        waiting = deque(checks)
        try:
            while waiting or any(worker.check is not None for worker in self._workers):
                for i, worker in enumerate(self._workers):
                    if waiting and worker.ready and worker.check is None:
                        check = waiting.popleft()
                        if not worker.give(check):
                            waiting.appendleft(check)  # The worker died idle: no fault of it.
                            self._replace(i)
                self._wait()
                for i, worker in enumerate(self._workers):
                    check = worker.check
                    outcome = self._collect(i, worker)
                    if check is None or outcome is None:
                        continue
                    if isinstance(outcome, tuple):
                        yield check, self._reward(check, *outcome)
                    elif outcome == "slow" or check.retried:
                        self.deaths += outcome == "died"
                        self.timeouts += outcome == "slow"
                        yield check, math.nan if outcome == "hung" else 0.0
                    else:
                        waiting.append(check._replace(retried=True))
        finally:
            # A check still under way must not come back as the answer to a later one.
            for i, worker in enumerate(self._workers):
                if worker.check is not None:
                    self._replace(i)

    def _wait(self) -> None:
        """Waits until a worker sends something or has to be looked at."""
        soonest = min(worker.look_at for worker in self._workers)
        left = None if math.isinf(soonest) else max(0.0, soonest - time.monotonic())
        connection.wait([w.pipe for w in self._workers if not math.isinf(w.look_at)], left)

    def _collect(self, i: int, worker: "_Worker") -> tuple[float, str] | str | None:
        """Returns (reward, error) of a finished check, "slow", "hung" or "died"; else None."""
        try:
            message = worker.receive()
        except (EOFError, OSError):
            self._failed_starts += not worker.ready
            self._replace(i)
            if self._failed_starts == _MAX_FAILED_STARTS:
                raise RuntimeError(
                    f"{_MAX_FAILED_STARTS} verification processes in a row died while they "
                    "started; their error is above"
                ) from None
            return "died"
        if message == _READY:
            self._failed_starts = 0
            return None
        if message is not None:
            return message
        problem = worker.problem()
        if problem and not worker.ready:
            raise RuntimeError(f"a verification process did not start in {_START_SECONDS} s")
        if problem:
            self._replace(i)
        return problem

    def _replace(self, i: int) -> None:
        self._workers[i].kill()
        self._workers[i] = _Worker(self._task.score, self._timeout_seconds)


class _Worker:
    """A process, the pipe to it, and the check that it runs."""

    def __init__(self, score: Callable[[str, float], float], timeout_seconds: float):
        # Spawned, not forked: a fork of a process with JAX's threads can hang.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, score), daemon=True)
        self.process.start()
        theirs.close()
        self.ready = False
        self.check: _Check | None = None
        self.look_at = time.monotonic() + _START_SECONDS
        self._timeout = timeout_seconds

    def give(self, check: _Check) -> bool:
        """Sends a check; returns False if the process is dead."""
        try:
            self.pipe.send((check.text, check.answer))
        except OSError:
            return False
        self.check, self._started = check, time.monotonic()
        self._used_before = self._used = self._processor_seconds()
        self._progressed = self._started
        self.look_at = self._started + self._timeout
        return True

    def receive(self) -> Any:
        """Returns what the process sent, or None; raises EOFError or OSError if it died."""
        if math.isinf(self.look_at) or not self.pipe.poll():
            return None
        message = self.pipe.recv()
        self.ready, self.check, self.look_at = True, None, math.inf
        return message

    def problem(self) -> str | None:
        """Tells whether the check is slow or has hung; if neither, sets the next time to look."""
        now = time.monotonic()
        if now < self.look_at:
            return None
        if self.check is None:
            return "hung"  # while it starts
        used = self._processor_seconds()
        left = self._used_before + self._timeout - used
        if left <= 0:
            return "slow"
        if used > self._used:
            self._used, self._progressed = used, now
        # A process that waits for a processor on a busy machine advances a little all the same.
        if now - self._progressed >= self._timeout:
            return "hung"
        if now - self._started >= _PATIENCE * self._timeout:
            return "hung"
        self.look_at = min(now + max(left, self._timeout / 10), self._progressed + self._timeout)
        return None

    def _processor_seconds(self) -> float:
        """Returns the processor time of the process; elapsed time where the system has no clock."""
        try:
            # Linux's number for the clock of another process.
            return time.clock_gettime(~(self.process.pid or 0) << 3 | 2)
        except (AttributeError, OSError):
            return time.monotonic()

    def kill(self) -> None:
        """Ends the process."""
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
        pipe.send(_run(score, text, answer))


def _run(score: Callable[[str, float], float], text: str, answer: float) -> tuple[float, str]:
    """Returns the reward and "", or 0 and the traceback of an exception."""
    try:
        return float(score(text, answer)), ""
    except Exception:
        return 0.0, traceback.format_exc()
