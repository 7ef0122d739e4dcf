"""The metrics of a run on disk: JSON lines and TensorBoard, cut back to the step that resumes."""

import json
import math
import os
import platform
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter


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
    """Reads a JSON lines file; a last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
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
