"""What a run writes while it trains: metrics.jsonl, TensorBoard, JSON files, progress bars."""

import json
import logging
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar
from tensorboardX.writer import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tqdm import tqdm

logger = logging.getLogger(__name__)


def plain(value):
    """A JSON value: NaN and infinities become None, arrays become lists."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_lines(path: Path) -> list[dict]:
    """Reads the lines of metrics.jsonl; a file that is not there has none.

    A last line that a kill cut off is left out. Any other line that is no JSON object with an
    integer `step` is left out with a warning that names it.
    """
    if not path.exists():
        return []
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = []
    for number, text in enumerate(texts, 1):
        if not text:
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            line = None
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
        elif number < len(texts):  # a whole line ends with a newline
            logger.warning("%s: line %d is damaged and is left out", path, number)
    return lines


def scalars(line: Mapping[str, object]) -> dict[str, float]:
    """Returns the numbers of a line but its step."""
    numbers = {k: v for k, v in line.items() if k != "step"}
    return {k: v for k, v in numbers.items() if isinstance(v, (int, float))}


def write_json(path: Path, value) -> None:
    """Writes JSON so that the file is either the old one or the whole new one."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plain_tree(value), indent=2) + "\n")


@contextmanager
def naming(path: Path):
    """Adds `path` to an error of the system that names no file, as those of write and fsync."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def replacing(path: Path):
    """Yields a path to write to, which takes the place of `path` when it is whole and on disk.

    Its name is this process's own: workers and hosts of a sweep may write one file at a time.
    """
    temporary = path.with_name(f"{path.name}.{platform.node()}-{os.getpid()}.tmp")
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def plain_tree(value):
    """`plain`, through nested dicts."""
    if isinstance(value, dict):
        return {k: plain_tree(v) for k, v in value.items()}
    return plain(value)


class _Events:
    """Scalars in a file for TensorBoard, written at once: an error of the disk reaches the caller.

    tensorboardX's own writer has a thread, which ends at an error, and the next call waits for it
    forever.
    """

    def __init__(self, directory: Path, first_step: int):
        """Opens a file; TensorBoard drops what earlier files have from `first_step` on."""
        directory.mkdir(exist_ok=True)
        # TensorBoard reads files in the order of their names, and the clock may have been set back.
        stamps = [path.name.split(".")[3] for path in directory.glob("events.out.tfevents.*")]
        after = max((int(stamp) + 1 for stamp in stamps if stamp.isdigit()), default=0)
        stamp = max(int(time.time()), after)
        self._path = directory / f"events.out.tfevents.{stamp:010d}.{platform.node()}"
        with naming(self._path):
            self._file = RecordWriter(str(self._path.absolute()))
        self._write(step=first_step, file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def _write(self, **event) -> None:
        with naming(self._path):
            self._file.write(Event(wall_time=time.time(), **event).SerializeToString())

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars by name."""
        for name, value in values.items():
            self._write(step=step, summary=scalar(name, value))

    def flush(self) -> None:
        """Puts all on disk."""
        with naming(self._path):
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with naming(self._path):
            self._file.close()


class Tracker(Protocol):
    """A service that gets what a run logs, beside its files (experiments.tracking)."""

    def begin(self, kept: Sequence[dict], cut: Sequence[dict]) -> None:
        """The lines that a run goes on from, and those after them, which are to come again."""

    def log(self, line: dict) -> None:
        """A line of metrics.jsonl."""

    def log_samples(self, step: int, path: Path) -> None:
        """The completions of an evaluation, as JSON lines."""

    def flush(self) -> None:
        """All lines of the steps so far have come."""


class Logs:
    """Appends lines to metrics.jsonl, TensorBoard and trackers."""

    def __init__(
        self,
        directory: Path,
        resume_step: int | None,
        tensorboard: bool = True,
        trackers: Sequence[Tracker] = (),
    ):
        """Opens the logs of a run.

        Args:
          directory: the workdir.
          resume_step: keep the lines up to this step; None keeps nothing.
          tensorboard: whether to write files for it.
          trackers: of the run.
        """
        self._path, self._trackers = directory / "metrics.jsonl", trackers
        first_step = 0 if resume_step is None else resume_step + 1
        lines = read_lines(self._path) if trackers or resume_step is not None else []
        kept = [line for line in lines if line["step"] < first_step]
        with replacing(self._path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("a")
        self._events = _Events(directory / "tensorboard", first_step) if tensorboard else None
        for tracker in trackers:
            tracker.begin(kept, [line for line in lines if line["step"] >= first_step])

    def write(self, step: int, values: dict) -> None:
        """Writes one line; scalars also go to TensorBoard."""
        line = {"step": step} | {k: plain(v) for k, v in values.items()}
        with naming(self._path):
            self._file.write(json.dumps(line) + "\n")
        if self._events is not None:
            self._events.write(step, scalars(line))
        for tracker in self._trackers:
            tracker.log(line)

    def flush(self) -> None:
        """Puts all lines on disk."""
        with naming(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        if self._events is not None:
            self._events.flush()
        for tracker in self._trackers:
            tracker.flush()

    def close(self) -> None:
        """Flushes and closes."""
        with ExitStack() as stack:
            if self._events is not None:
                stack.callback(self._events.close)
            stack.callback(self._file.close)
            self.flush()


SHOWN = {
    "reward": "reward",
    "entropy": "entropy",
    "alpha": "alpha",
    "delta": "delta",
    "loss": "loss",
    "eval/pass@1": "pass@1",
    "tokens_per_second": "tok/s",
    "verification/unknown": "unknown",
}


class Progress(Protocol):
    """What a run reports to."""

    def say(self, what: str) -> None:
        """Says what goes on until the next update."""

    def start(self, name: str, step: int, total: int) -> None:
        """A stage begins, or goes on, at `step` of `total`."""

    def update(self, step: int, line: Mapping[str, object]) -> None:
        """The newest line of metrics."""

    def finish(self) -> None:
        """The stage has ended."""


def figures(line: Mapping[str, object]) -> dict[str, str]:
    """The figures of a metrics line that a bar shows."""
    return {
        short: f"{value:.3g}"
        for name, short in SHOWN.items()
        if isinstance(value := line.get(name), (int, float)) and value == value
    }


class Bar:
    """A progress bar on the terminal."""

    def __init__(self, prefix: str = ""):
        self._prefix = prefix
        self._bar = tqdm(disable=True)
        self._figures: dict[str, str] = {}

    def say(self, what: str) -> None:
        """Shows it beside the figures, or on a line before there is a bar."""
        if self._bar.disable:
            tqdm.write(f"{self._prefix} {what}".strip(), file=sys.stderr)
        else:
            self._bar.set_postfix(self._figures | {"now": what})

    def start(self, name: str, step: int, total: int) -> None:
        """Shows the bar."""
        self._figures = {}
        self._bar = tqdm(
            total=total,
            initial=step,
            desc=f"{self._prefix} {name}".strip(),
            unit="step",
            dynamic_ncols=True,
        )

    def update(self, step: int, line: Mapping[str, object]) -> None:
        """Moves the bar to `step`; figures stay until there are newer ones."""
        self._figures |= figures(line)
        self._bar.set_postfix(self._figures, refresh=False)
        self._bar.update(step - self._bar.n)

    def finish(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()


class Silent:
    """Shows nothing."""

    def say(self, what: str) -> None:
        """Nothing."""

    def start(self, name: str, step: int, total: int) -> None:
        """Nothing."""

    def update(self, step: int, line: Mapping[str, object]) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


class Reporter:
    """A Progress of one run of a sweep, which tells of every step: (run, step, figures)."""

    def __init__(self, run: str, tell: Callable[[str, int, dict[str, str]], None]):
        self._run, self._tell = run, tell

    def say(self, what: str) -> None:
        """Nothing: the bars of many runs have no place for it."""

    def start(self, name: str, step: int, total: int) -> None:
        """Tells where the run goes on."""
        self._tell(self._run, step, {})

    def update(self, step: int, line: Mapping[str, object]) -> None:
        """Tells the newest figures."""
        self._tell(self._run, step, figures(line))

    def finish(self) -> None:
        """Nothing: the end of a stage is not yet the end of the run."""


class Board:
    """A sweep on the terminal: one bar for all its steps, and one for each run under way."""

    _MOST_LINES = 8

    def __init__(self, totals: Mapping[str, int]):
        """Shows the bar of the sweep.

        Args:
          totals: steps of each job by name.
        """
        self._totals, self._width = dict(totals), max(map(len, totals), default=0)
        self._steps = dict.fromkeys(totals, 0)
        self._done: set[str] = set()
        self._figures: dict[str, dict[str, str]] = {}
        self._lines: dict[str, tqdm] = {}
        self._free: list[tqdm] = []
        self._all = tqdm(total=sum(totals.values()), unit="step", dynamic_ncols=True)
        self._count()

    def update(self, name: str, step: int, shown: Mapping[str, str]) -> None:
        """Moves a job to `step`; its figures stay until there are newer ones."""
        self._all.update(step - self._steps[name])
        self._steps[name] = step
        self._figures[name] = self._figures.get(name, {}) | dict(shown)
        line = self._line(name)
        if line is not None:
            line.set_postfix(self._figures[name], refresh=False)
            line.update(step - line.n)

    def done(self, name: str) -> None:
        """A job has ended; its line is free for another."""
        self._all.update(self._totals[name] - self._steps[name])
        self._steps[name] = self._totals[name]
        self._done.add(name)
        self._count()
        line = self._lines.pop(name, None)
        if line is not None:
            self._free.append(line)

    def close(self) -> None:
        """Leaves the bars as they are."""
        for bar in (*self._lines.values(), *self._free, self._all):
            bar.close()

    def _count(self) -> None:
        self._all.set_description(f"{len(self._done)} of {len(self._totals)} done".ljust(10))

    def _line(self, name: str) -> tqdm | None:
        if name in self._lines:
            return self._lines[name]
        if self._free:
            line = self._free.pop()
            line.reset(self._totals[name])
        elif len(self._lines) < self._MOST_LINES:
            line = tqdm(total=self._totals[name], unit="step", dynamic_ncols=True, leave=False)
        else:
            return None
        line.set_description(name.ljust(self._width), refresh=False)
        self._lines[name] = line
        return line
