"""One resumable stage of training: advance, log, evaluate, checkpoint.

A stage killed at any moment and started again goes on from its newest checkpoint and ends with the
same bits. All its randomness is a function of (seed, step), and its log is cut back to the
checkpoint it resumes from.
"""

import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from experiments.checkpoints import Checkpoints
from experiments.logs import Logs
from experiments.progress import Progress


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
      advance: (state, step, count) -> (state, list of `count` metrics lines).
      evaluate: (state, step) -> metrics line; None for no evaluation.
      evaluate_every: steps.
      checkpoint_every: steps.
      keep: checkpoints.
    """

    name: str
    steps: int
    steps_per_call: int
    advance: Callable[[Any, int, int], tuple[Any, list[dict]]]
    evaluate: Callable[[Any, int], dict] | None
    evaluate_every: int
    checkpoint_every: int
    keep: int


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


def run_stage(
    stage: Stage,
    directory: Path,
    start: Callable[[], Any],
    like: Any,
    progress: Progress,
) -> Any:
    """Runs a stage to its end, from its newest checkpoint if it has one.

    Args:
      stage: what to do.
      directory: of the checkpoints and the logs.
      start: returns the state before the first step; called only where there is no checkpoint.
      like: shapes, dtypes and shardings of the state, to restore into.
      progress: where to show it.

    Returns:
      The state after the last step.

    Raises:
      Stopped: after SIGTERM, with a checkpoint written.
      NonFiniteError: a loss or gradient was not finite; the last checkpoint is from before it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(directory / "checkpoints", stage.keep)
    restored = checkpoints.restore(like)
    step, state = restored if restored is not None else (0, start())
    logs = Logs(directory, None if restored is None else step)
    progress.start(stage.name, step, stage.steps)
    saved = step if restored is not None else None
    try:
        with _termination() as asked:
            if restored is None and stage.evaluate is not None:
                line = stage.evaluate(state, 0)
                logs.write(0, line)
                logs.flush()
                progress.update(0, line)
            while step < stage.steps:
                count = min(stage.steps_per_call, stage.steps - step)
                began = time.perf_counter()
                state, lines = stage.advance(state, step, count)
                seconds = (time.perf_counter() - began) / count
                _check_finite(step, lines, saved, directory)
                for offset, line in enumerate(lines, start=1):
                    logs.write(step + offset, _with_times(line, seconds))
                step += count
                progress.update(step, _with_times(lines[-1], seconds))
                last = step == stage.steps
                if stage.evaluate is not None and (last or step % stage.evaluate_every == 0):
                    line = stage.evaluate(state, step)
                    logs.write(step, line)
                    progress.update(step, line)
                logs.flush()
                if last or asked.is_set() or step % stage.checkpoint_every == 0:
                    checkpoints.save(step, state)
                    saved = step
                if asked.is_set() and not last:
                    raise Stopped(f"stopped at step {step} of {stage.steps}; checkpoint written")
        return state
    finally:
        progress.finish()
        logs.close()
        checkpoints.close()


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
