"""Where a run was trained: its commit, versions and devices, in environment.json of its workdir.

Each process that goes on with a run adds a session. Below: metric_writer, multihost. Above: train,
report.
"""

import json
import logging
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jax
from jaxlib import version as jaxlib_version

import fade_jax
from experiments.metric_writer import write_json
from experiments.multihost import first

logger = logging.getLogger(__name__)

FILE = "environment.json"
_ROOT = Path(__file__).resolve().parents[1]


def record_session(workdir: Path) -> None:
    """Adds the session of this process to environment.json, once; of several the first one writes.

    Args:
      workdir: of a run; exists.
    """

    def write():
        sessions, session = read_sessions(workdir), describe_session()
        if session not in sessions:  # a process takes turns among the runs of a sweep
            write_json(workdir / FILE, {"sessions": [*sessions, session]})

    first(write)


def describe_session() -> dict[str, Any]:
    """Returns the entry of this process: its first use, code, versions, devices of all processes.

    `commit` is None outside a clone; `changed` says whether files that git tracks differ from it.
    """
    commit, changed = git_state(_ROOT) or (None, None)
    return {
        "started": _started(),
        "commit": commit,
        "changed": changed,
        "fade_jax": fade_jax.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib_version.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }


def read_sessions(workdir: Path) -> list[dict[str, Any]]:
    """Returns the sessions of a run, oldest first; none, with a warning, if the file is damaged.

    Args:
      workdir: of a run; one of before this file was written has none.
    """
    path = workdir / FILE
    if not path.exists():
        return []
    try:
        sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"]
        return [dict(session) for session in sessions]
    except (ValueError, KeyError, TypeError):
        logger.warning("%s is damaged and is left out", path)
        return []


@cache
def _started() -> str:
    """The time at which this process first asked for it, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def git_state(root: Path) -> tuple[str, bool] | None:
    """Returns the commit that is checked out, and whether tracked files differ from it.

    Args:
      root: directory of the code.

    Returns:
      None if `root` is not the top of a clone, as after pip install, or without git.
    """

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None
        return git("rev-parse", "HEAD"), git("status", "--porcelain", "-uno") != ""
    except (OSError, subprocess.SubprocessError):
        return None
