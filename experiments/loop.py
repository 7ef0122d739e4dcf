"""One resumable training loop: step, log, evaluate, checkpoint.

The loop takes one run, or several vmapped runs, through the same steps; each run has a directory of
its own, the same either way. A run that is killed at any moment resumes from its newest checkpoint
and ends with the same bits: all randomness is a function of (seed, step), and the log is cut back
to the checkpoint. Below: checkpoints, metric_writer, multihost. Above: warm_start, train.
"""

import logging
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from experiments.checkpoints import Checkpoints
from experiments.metric_writer import Logs, Progress, Tracker
from experiments.multihost import any_of, is_first
from experiments.remote import SamplerError
from experiments.tasks.verdict import VerificationError

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The run was asked to stop, has written a checkpoint, and can be resumed."""


class Paused(Exception):
    """The run has made the steps it was asked for, has written a checkpoint, and can be resumed."""


class NonFiniteError(RuntimeError):
    """The loss or the gradient is not finite; the last good checkpoint is kept."""


class Stage(NamedTuple):
    """A stage of training: SFT on demonstrations, or RL.

    Attributes:
      name: shown on the progress bar.
      steps: total.
      steps_per_call: steps of one call of `train_steps`; 1 where a step may fail with a
        SamplerError or VerificationError, which leaves the state as it was.
      train_steps: (state, step, count) -> (state, for each run a list of `count` metrics dicts).
      evaluate: (state, step) -> for each run a metrics dict; None for no evaluation.
      to_checkpoints: state -> for each run the pytree that its checkpoint holds.
      evaluate_every: steps.
      checkpoint_every: steps.
      profile: (start, stop), steps that jax.profiler traces; equal for no trace.
    """

    name: str
    steps: int
    steps_per_call: int
    train_steps: Callable[[Any, int, int], tuple[Any, list[list[dict]]]]
    evaluate: Callable[[Any, int], list[dict]] | None
    to_checkpoints: Callable[[Any], list[Any]]
    evaluate_every: int
    checkpoint_every: int
    profile: tuple[int, int] = (0, 0)


@contextmanager
def _termination():
    """Yields an event that SIGTERM and Ctrl-C set; only the main thread receives signals.

    A second Ctrl-C ends the process at once: by the system, for Python would first let a compiled
    step finish. Signals that the process ignores, as under nohup, stay ignored.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number, _):
        asked.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    handlers = {n: handler for n, handler in handlers.items() if handler is not signal.SIG_IGN}
    for number in handlers:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


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


class RunWriter:
    """Writes the checkpoints and logs of one run during a stage, and moves its progress bar.

    Of several processes the first writes the log; all of them write the checkpoints.
    """

    def __init__(
        self,
        directory: Path,
        keep: int,
        progress: Progress,
        tensorboard: bool = True,
        trackers: Sequence[Tracker] = (),
    ):
        """Opens the checkpoints of the run in `directory`; the newest `keep` are kept."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self._progress = directory, progress
        self._tensorboard, self._trackers = tensorboard, trackers
        self._checkpoints = Checkpoints(directory / "checkpoints", keep)
        self._logs: Logs | None = None
        self._opened = False
        self.saved: int | None = None
        self.error: NonFiniteError | None = None
        self._outcomes = _Outcomes()

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """Reads (step, state) of the newest readable checkpoint; None where there is none."""
        restored = self._checkpoints.restore(like, set_aside=True)
        self.saved = None if restored is None else restored[0]
        return restored

    def open(self, name: str, steps: int) -> None:
        """Cuts the log back to the checkpoint, and shows the progress bar."""
        if is_first():
            self._logs = Logs(self.directory, self.saved, self._tensorboard, self._trackers)
        self._progress.start(name, self.saved or 0, steps)
        self._opened = True

    def log(self, step: int, lines: list[dict], seconds: float) -> None:
        """Logs the metrics of the steps after `step`, `seconds` each.

        A loss or gradient that is not finite becomes the run's `error`, and nothing is logged.
        """
        self.error = _non_finite(step, lines, self.saved, self.directory)
        if self.error is not None:
            return
        if self._logs is not None:
            for offset, line in enumerate(lines, start=1):
                self._logs.write(step + offset, _with_times(line, seconds))
        self._outcomes.add(lines)
        self._progress.update(step + len(lines), _with_times(lines[-1], seconds))

    def say(self, what: str) -> None:
        """Says on the progress bar what goes on."""
        if self._opened:
            self._progress.say(what)

    def log_evaluation(self, step: int, line: dict) -> None:
        """Logs the metrics of an evaluation; warns if all rewards since the last were 0."""
        shown = self.directory / "samples" / f"{step}.jsonl"
        if (warning := self._outcomes.take()) and is_first():
            where = f"; some are in {shown}" if shown.exists() else ""
            logger.warning("%s: %s%s", self.directory, warning, where)
        if self._logs is not None:
            self._logs.write(step, line)
            for tracker in self._trackers if shown.exists() else ():
                tracker.log_samples(step, shown)
        self._progress.update(step, line)

    def flush(self) -> None:
        """Puts the log on disk."""
        if self._logs is not None:
            self._logs.flush()

    def save(self, step: int, state: Any) -> None:
        """Starts writing a checkpoint; it is complete at the next `save` or `close`."""
        self._checkpoints.save(step, state)
        self.saved = step

    def wait(self) -> None:
        """Returns when the last checkpoint is complete."""
        self._checkpoints.wait()

    def close(self) -> None:
        """Completes the last checkpoint and releases the directory, whatever goes wrong before."""
        with ExitStack() as stack:
            stack.callback(self._checkpoints.close)
            if self._logs is not None:
                stack.callback(self._logs.close)
            if self._opened:
                stack.callback(self._progress.finish)


class _Outcomes:
    """What came of the rollouts since the last evaluation, to say why there is no reward."""

    _WORDS: ClassVar[dict[str, str]] = {
        "cut_off": "were cut off",
        "no_answer": "had no answer",
        "wrong": "were wrong",
        "errors": "raised an error",
        "deaths": "ended their check's process",
        "timeouts": "ran out of time",
        "unknown": "could not be checked",
    }

    def __init__(self):
        self._reset()

    def _reset(self) -> None:
        self._steps, self._reward, self._truncated = 0, 0.0, 0.0
        self._counts: Counter[str] = Counter()

    def add(self, lines: list[dict]) -> None:
        """Adds the metrics of steps."""
        for line in lines:
            self._steps += "reward" in line
            self._reward += abs(line.get("reward", 0.0))
            self._truncated += line.get("truncated_fraction", 0.0)
            self._counts.update({name: line.get(f"verification/{name}", 0) for name in self._WORDS})

    def take(self) -> str:
        """Returns a warning if all rewards were 0, else ""; begins anew."""
        steps, reward, counts = self._steps, self._reward, self._counts
        truncated = self._truncated / max(steps, 1)
        self._reset()
        if not steps or reward:
            return ""
        parts = [f"{counts[name]} {words}" for name, words in self._WORDS.items() if counts[name]]
        told = ", ".join(parts) or f"{truncated:.0%} were cut off"
        return f"all rewards of the last {steps} steps were 0; of the completions {told}"


def run_loop(
    stage: Stage, writers: Sequence[RunWriter], step: int, state: Any, pause_at: int | None = None
) -> Any:
    """Runs a stage from `step` to its end.

    Args:
      stage: what to do.
      writers: of its runs, each restored at `step`; the caller closes them.
      step: steps done.
      state: of all runs.
      pause_at: step at which to stop before the end; None for none.

    Returns:
      The state after the last step. A run whose writer has an `error` is left out from there on.

    Raises:
      Stopped: after SIGTERM or Ctrl-C, with checkpoints written.
      Paused: at `pause_at`, likewise.
      NonFiniteError: of the first run, once no run is left.
      SamplerError, VerificationError: of the machines, with a checkpoint written.
    """
    for writer in writers:
        writer.open(stage.name, stage.steps)

    def running():
        return [(i, writer) for i, writer in enumerate(writers) if writer.error is None]

    def save(step):
        checkpoints = stage.to_checkpoints(state)
        for i, writer in running():
            writer.save(step, checkpoints[i])

    @contextmanager
    def checkpoint_on_error(step):
        """Saves where no further batch can be made; it comes before the update of a step."""
        try:
            yield
        except (SamplerError, VerificationError):
            if step > (writers[0].saved or 0):
                save(step)
            raise

    def evaluate(step):
        if stage.evaluate is None:
            return
        for _, writer in running():
            writer.say("evaluating")
        with checkpoint_on_error(step):
            lines = stage.evaluate(state, step)
        for i, writer in running():
            writer.log_evaluation(step, lines[i])

    window = _ProfilerWindow(stage.profile, writers[0].directory)
    with _termination() as stop_asked, closing(window):
        if step == 0:
            evaluate(0)
            for writer in writers:
                writer.flush()
        for writer in writers:
            writer.say("compiling the first steps")
        while step < stage.steps:
            count = min(stage.steps_per_call, stage.steps - step)
            window.before(step, count)
            began = time.perf_counter()
            with checkpoint_on_error(step):
                state, lines = stage.train_steps(state, step, count)
            seconds = (time.perf_counter() - began) / count
            window.after(step + count, state)
            for i, writer in running():
                writer.log(step, lines[i], seconds)
            if (error := writers[0].error) and not running():
                raise error
            step += count
            last = step == stage.steps
            if last or step % stage.evaluate_every == 0:
                evaluate(step)
            for _, writer in running():
                writer.flush()
            stop = any_of(stop_asked.is_set())
            pause = pause_at is not None and step >= pause_at
            if last or stop or pause or step % stage.checkpoint_every == 0:
                save(step)
            if stop and not last:
                raise Stopped(f"stopped at step {step} of {stage.steps}; checkpoint written")
            if pause and not last:
                raise Paused(f"paused at step {step} of {stage.steps}; checkpoint written")
    return state


def per_step(metrics: dict) -> list[dict]:
    """Splits metrics stacked over steps into one dict per step, on the host.

    A metric without the axis of steps belongs to the last step.
    """
    metrics = jax.device_get(metrics)
    last = {name: value.item() for name, value in metrics.items() if np.ndim(value) == 0}
    stacked = {name: value.tolist() for name, value in metrics.items() if np.ndim(value) > 0}
    lines = [dict(zip(stacked, values)) for values in zip(*stacked.values(), strict=True)]
    lines[-1] |= last
    return lines


def _with_times(line: dict, seconds: float) -> dict:
    line = dict(line)
    tokens = line.pop("tokens", None)
    line["step_seconds"] = seconds
    if tokens is not None:
        line["tokens_per_second"] = tokens / seconds
    return line


def _non_finite(
    step: int, lines: list[dict], saved: int | None, directory: Path
) -> NonFiniteError | None:
    """The error of the first line whose loss or gradient norm is not finite, if there is one."""
    for offset, line in enumerate(lines, start=1):
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(line[name]):
                kept = f"checkpoint {saved} is kept" if saved else "there is no checkpoint yet"
                return NonFiniteError(
                    f"{name} is {line[name]} at step {step + offset}; {kept} in {directory}"
                )
    return None
