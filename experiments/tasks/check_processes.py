"""Checks of completions by a function, in processes that a hanging or dying check cannot stop.

Not `pebble.ProcessPool`: a worker that dies idle ends that pool, and its time limit is wall time.
Below: verdict. Above: verifier.
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
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, NamedTuple

from experiments.tasks.verdict import Verdict, VerificationError, of_reward

_READY = "ready"
_START_SECONDS = 120.0
_MAX_FAILED_STARTS = 3
_PATIENCE = 60  # time limits that a check may wait for a processor, or sleep in short naps

Score = Callable[[str, Any], "float | Verdict"]

_HUNG = Verdict(math.nan, "unknown", "the check hung, twice")
_SLOW = Verdict(0.0, "timeout", "the check took too long")
_DIED = Verdict(0.0, "died", "the check ended its process, twice")


class _Check(NamedTuple):
    place: int  # in the batch
    text: str
    answer: Any
    retried: bool = False


class CheckProcesses:
    """Scores completions by a function (text, answer) -> reward or Verdict; a context manager.

    With workers, each completion is scored in one of several spawned processes, which are started
    once and replaced when they die. The time limit counts the processor time of the check, not the
    time that it waits on a busy machine; a check that does nothing for as long has hung. A check
    that hangs, or whose process dies, is tried once more. A completion whose check takes too long,
    raises, or ends its process twice has reward 0; one whose check hangs twice is unknown: it may
    be the machine's fault.

    Without workers, completions are scored in this process, without a time limit. Several threads
    may call `verify`; their batches are scored one after the other.
    """

    def __init__(self, score: Score, *, workers: int = 0, timeout_seconds: float = 5.0):
        """Starts the processes.

        Args:
          score: a function of a module, so that processes find it.
          workers: number of processes; 0 to score in this process.
          timeout_seconds: processor time per completion; used with workers only.
        """
        self._succeeded = self._failed_starts = 0
        self._first_error = ""
        self._lock = threading.Lock()
        self._score = score
        self._timeout_seconds = timeout_seconds
        self._workers = [_Worker(score, timeout_seconds) for _ in range(workers)]
        # Without this an exit of the program would wait for workers that ignore SIGTERM.
        atexit.register(self.close)

    def __enter__(self) -> "CheckProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes."""
        atexit.unregister(self.close)
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def verify(self, texts: Sequence[str], answers: Sequence[Any]) -> list[Verdict]:
        """Scores completions.

        Args:
          texts: N completions.
          answers: N, one to each.

        Returns:
          N verdicts.

        Raises:
          VerificationError: if the processes cannot start, or no check has succeeded so far.
        """
        checks = [_Check(i, text, answer) for i, (text, answer) in enumerate(zip(texts, answers))]
        verdicts: list[Any] = [None] * len(checks)
        with self._lock:
            if self._workers:
                for check, verdict in self._score_in_processes(checks):
                    verdicts[check.place] = verdict
            else:
                for check in checks:
                    outcome = _run(self._score, check.text, check.answer)
                    verdicts[check.place] = self._noted(check, *outcome)
        if checks and not self._succeeded:
            kinds = [verdict.kind for verdict in verdicts]
            raise VerificationError(
                f"none of {len(checks)} completions could be checked: {kinds.count('timeout')}"
                f" timed out, {kinds.count('unknown')} hung, {kinds.count('died')} ended their"
                f" process, {kinds.count('error')} raised an exception, the first:"
                f" {self._first_error or 'none'}"
            )
        return verdicts

    def _noted(self, check: _Check, verdict: Verdict, error: str) -> Verdict:
        """Counts a check that succeeded, and logs the first exception of a check."""
        self._succeeded += not error
        if error and not self._first_error:
            self._first_error = f"score({check.text!r}, {check.answer!r}) failed:\n{error}"
            logging.getLogger(__name__).warning(self._first_error)
        return verdict

    def _score_in_processes(self, checks: list[_Check]) -> Iterator[tuple[_Check, Verdict]]:
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
                        yield check, self._noted(check, *outcome)
                    elif outcome == "slow" or check.retried:
                        yield check, {"hung": _HUNG, "slow": _SLOW, "died": _DIED}[outcome]
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

    def _collect(self, i: int, worker: "_Worker") -> tuple[Verdict, str] | str | None:
        """Returns (verdict, error) of a finished check, "slow", "hung" or "died"; else None."""
        try:
            message = worker.receive()
        except (EOFError, OSError):
            self._failed_starts += not worker.ready
            self._replace(i)
            if self._failed_starts == _MAX_FAILED_STARTS:
                raise VerificationError(
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
            raise VerificationError(f"a verification process did not start in {_START_SECONDS} s")
        if problem:
            self._replace(i)
        return problem

    def _replace(self, i: int) -> None:
        self._workers[i].kill()
        self._workers[i] = _Worker(self._score, self._timeout_seconds)


class _Worker:
    """A process, the pipe to it, and the check that it runs."""

    def __init__(self, score: Score, timeout_seconds: float):
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


def _serve(pipe: connection.Connection, score: Score) -> None:
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


def _run(score: Score, text: str, answer: Any) -> tuple[Verdict, str]:
    """Returns the verdict and ""; with an exception, a verdict and its traceback."""
    began = time.process_time()
    try:
        found = score(text, answer)
        verdict, error = found if isinstance(found, Verdict) else of_reward(float(found)), ""
    except Exception as raised:
        verdict = Verdict(0.0, "error", f"{type(raised).__name__}: {raised}"[:500])
        error = traceback.format_exc()
    return verdict._replace(seconds=time.process_time() - began), error
