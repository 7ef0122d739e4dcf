"""One resumable training loop: step, log, evaluate, checkpoint.

It runs one experiment, or several that one program takes through the same steps; each run has a
directory of its own, the same either way. A run that is killed at any moment and started again
resumes from its newest checkpoint and ends with the same bits: all randomness is a function of
(seed, step), and the log is cut back to the checkpoint.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.checkpoints import Checkpoints
from experiments.metric_writer import Logs, Progress
from experiments.multihost import any_of, is_first


class Stopped(Exception):
    """The run was asked to stop, has written a checkpoint, and can be resumed."""


class NonFiniteError(RuntimeError):
    """The loss or the gradient is not finite; the last good checkpoint is kept."""


class Stage(NamedTuple):
    """What a stage does.

    Attributes:
      name: shown on the bar.
      steps: total.
      steps_per_call: steps of one call of `advance`.
      advance: (state, step, count) -> (state, for each run a list of `count` metrics lines).
      evaluate: (state, step) -> for each run a metrics line; None for no evaluation.
      split: state -> for each run what its checkpoints hold.
      evaluate_every: steps.
      checkpoint_every: steps.
      keep: checkpoints.
      profile: (start, stop), steps that jax.profiler traces; equal for no trace.
    """

    name: str
    steps: int
    steps_per_call: int
    advance: Callable[[Any, int, int], tuple[Any, list[list[dict]]]]
    evaluate: Callable[[Any, int], list[dict]] | None
    split: Callable[[Any], list[Any]]
    evaluate_every: int
    checkpoint_every: int
    keep: int
    profile: tuple[int, int] = (0, 0)


@contextmanager
def _termination():
    """Yields an event that SIGTERM sets; only a main thread can receive signals."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, previous)


class _ProfilerWindow:
    """A trace by jax.profiler of the steps in [start, stop), rounded out to whole calls."""

    def __init__(self, window: tuple[int, int], directory: Path):
        self._start, self._stop = window
        self._directory, self._tracing = directory / "profile", False

    def before(self, step: int, count: int) -> None:
        """Starts the trace if one of the `count` steps after `step` is in the window."""
        inside = step < self._stop and step + count > self._start
        if inside and self._start < self._stop and not self._tracing:
            jax.profiler.start_trace(self._directory)
            self._tracing = True

    def after(self, step: int, state: Any) -> None:
        """Ends the trace, once `state` is there, where the window ends at `step` or before."""
        if self._tracing and step >= self._stop:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends a trace that is still open."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False


class Record:
    """What one run leaves on disk during a stage, and the bar that it moves.

    Of several processes the first writes the log; all of them write the checkpoints.
    """

    def __init__(self, directory: Path, keep: int, progress: Progress):
        """Opens the checkpoints of the run in `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self._progress = directory, progress
        self._checkpoints = Checkpoints(directory / "checkpoints", keep)
        self._logs: Logs | None = None
        self._opened = False
        self.saved: int | None = None
        self.error: NonFiniteError | None = None

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """Reads (step, state) of the newest readable checkpoint; None where there is none."""
        restored = self._checkpoints.restore(like, set_aside=True)
        self.saved = None if restored is None else restored[0]
        return restored

    def open(self, name: str, steps: int) -> None:
        """Cuts the log back to the checkpoint, and shows the bar."""
        if is_first():
            self._logs = Logs(self.directory, self.saved)
        self._progress.start(name, self.saved or 0, steps)
        self._opened = True

    def log(self, step: int, lines: list[dict], seconds: float) -> None:
        """Writes the lines of the steps after `step`, `seconds` each; keeps a NonFiniteError."""
        try:
            _check_finite(step, lines, self.saved, self.directory)
        except NonFiniteError as error:
            self.error = error
            return
        if self._logs is not None:
            for offset, line in enumerate(lines, start=1):
                self._logs.write(step + offset, _with_times(line, seconds))
        self._progress.update(step + len(lines), _with_times(lines[-1], seconds))

    def evaluated(self, step: int, line: dict) -> None:
        """Writes the line of an evaluation."""
        if self._logs is not None:
            self._logs.write(step, line)
        self._progress.update(step, line)

    def flush(self) -> None:
        """Puts the log on disk."""
        if self._logs is not None:
            self._logs.flush()

    def save(self, step: int, state: Any) -> None:
        """Writes a checkpoint."""
        self._checkpoints.save(step, state)
        self.saved = step

    def close(self) -> None:
        """Leaves the bar as it is and releases the directory."""
        if self._opened:
            self._progress.finish()
        if self._logs is not None:
            self._logs.close()
        self._checkpoints.close()


def run_stage(
    stage: Stage,
    directory: Path,
    start: Callable[[], Any],
    like: Any,
    progress: Progress,
    whole: Callable[[Any], Any] = lambda state: state,
) -> Any:
    """Runs a stage of one run to its end, from its newest checkpoint if it has one.

    Args:
      stage: what to do.
      directory: of the checkpoints and the logs.
      start: returns the state before the first step; called only where there is no checkpoint.
      like: shapes, dtypes and shardings of what a checkpoint holds, to restore into.
      progress: where to show it.
      whole: from what a checkpoint holds to the state; the inverse of `stage.split`.

    Returns:
      The state after the last step.

    Raises:
      Stopped: after SIGTERM, with a checkpoint written.
      NonFiniteError: a loss or gradient was not finite; the last checkpoint is from before it.
    """
    record = Record(directory, stage.keep, progress)
    try:
        restored = record.restore(like)
        step, state = (0, start()) if restored is None else (restored[0], whole(restored[1]))
        return finish_stage(stage, [record], step, state)
    finally:
        record.close()


def finish_stage(stage: Stage, records: Sequence[Record], step: int, state: Any) -> Any:
    """Runs a stage from `step` to its end.

    Args:
      stage: what to do.
      records: of its runs, each restored at `step`, or not restored if that is 0; the caller closes
        them.
      step: steps done.
      state: of all runs.

    Returns:
      The state after the last step. A run whose record has an `error` is left out from there on.

    Raises:
      Stopped: after SIGTERM, with checkpoints written.
      NonFiniteError: of the first run, once no run is left.
    """
    for record in records:
        record.open(stage.name, stage.steps)

    def evaluate(step):
        for record, line in zip(records, stage.evaluate(state, step), strict=True):
            if record.error is None:
                record.evaluated(step, line)

    window = _ProfilerWindow(stage.profile, records[0].directory)
    with _termination() as asked, closing(window):
        if step == 0 and stage.evaluate is not None:
            evaluate(0)
            for record in records:
                record.flush()
        while step < stage.steps:
            count = min(stage.steps_per_call, stage.steps - step)
            window.before(step, count)
            began = time.perf_counter()
            state, lines = stage.advance(state, step, count)
            seconds = (time.perf_counter() - began) / count
            window.after(step + count, state)
            for record, own in zip(records, lines, strict=True):
                if record.error is None:
                    record.log(step, own, seconds)
            if all(record.error is not None for record in records):
                raise records[0].error
            step += count
            last = step == stage.steps
            if stage.evaluate is not None and (last or step % stage.evaluate_every == 0):
                evaluate(step)
            stop = any_of(asked.is_set())
            save = last or stop or step % stage.checkpoint_every == 0
            states = stage.split(state) if save else [None] * len(records)
            for record, own in zip(records, states, strict=True):
                if record.error is None:
                    record.flush()
                    if save:
                        record.save(step, own)
            if stop and not last:
                raise Stopped(f"stopped at step {step} of {stage.steps}; checkpoint written")
    return state


def _with_times(line: dict, seconds: float) -> dict:
    line = dict(line)
    tokens = line.pop("tokens", None)
    line["step_seconds"] = seconds
    if tokens is not None:
        line["tokens_per_second"] = tokens / seconds
    return line


def _check_finite(step: int, lines: list[dict], saved: int | None, directory: Path) -> None:
    for offset, line in enumerate(lines, start=1):
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(line[name]):
                kept = f"checkpoint {saved} is kept" if saved else "there is no checkpoint yet"
                raise NonFiniteError(
                    f"{name} is {line[name]} at step {step + offset}; {kept} in {directory}"
                )
