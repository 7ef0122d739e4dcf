"""The metrics of a run on disk: JSON lines and TensorBoard, cut back to the step that resumes."""

import json
import logging
import math
import os
import platform
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter

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


def write_json(path: Path, value) -> None:
    """Writes JSON so that the file is either the old one or the whole new one."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plain_tree(value), indent=2) + "\n")


@contextmanager
def replacing(path: Path):
    """Yields a path to write to, which takes the place of `path` when it is whole.

    Its name is this process's own: workers and hosts of a sweep may write one file at a time.
    """
    temporary = path.with_name(f"{path.name}.{platform.node()}-{os.getpid()}.tmp")
    yield temporary
    os.replace(temporary, path)


def plain_tree(value):
    """`plain`, through nested dicts."""
    if isinstance(value, dict):
        return {k: plain_tree(v) for k, v in value.items()}
    return plain(value)


class Logs:
    """Appends lines to metrics.jsonl and TensorBoard."""

    def __init__(self, directory: Path, resume_step: int | None):
        """Opens the logs of a run.

        Args:
          directory: the workdir.
          resume_step: keep the lines up to this step; None keeps nothing.
        """
        path = directory / "metrics.jsonl"
        lines = [] if resume_step is None else read_lines(path)
        kept = [line for line in lines if line["step"] <= resume_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(temporary, path)
        self._file = path.open("a")
        self._board = SummaryWriter(
            str(directory / "tensorboard"),
            purge_step=None if resume_step is None else resume_step + 1,
        )

    def write(self, step: int, values: dict) -> None:
        """Writes one line; scalars also go to TensorBoard."""
        line = {"step": step} | {k: plain(v) for k, v in values.items()}
        self._file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if name != "step" and isinstance(value, (int, float)):
                self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Puts all lines on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self.flush()
        self._file.close()
        self._board.close()
