"""Several processes as one run: how they connect, and how they agree.

Every process runs the same program on its part of the mesh. The first process alone touches the
disk and tells the others what it finds; an error on one process is raised on all. No-ops if
`jax.process_count() == 1`.
"""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.config import ConfigError

# Messages are gathered in whole blocks, so that few shapes are compiled.
_BLOCK = 4096


_PATIENCE_SECONDS = 300  # with processes that have not been started
_SILENT_SECONDS = 5  # before it is said for whom this process waits


@contextmanager
def _saying(what: str) -> Iterator[None]:
    """Says after 5 s, and every minute, that this process waits for `what`; ends it after 300 s.

    In a thread: JAX waits in C++, and would then end the process with a dump of its stack.
    """
    done = threading.Event()

    def say():
        began, waited, pause = time.monotonic(), 0.0, _SILENT_SECONDS
        while waited < _PATIENCE_SECONDS:
            if done.wait(pause):
                return
            waited, pause = time.monotonic() - began, 60
            sys.stderr.write(f"waiting for {what} ({waited:.0f} s)\n")
        sys.stderr.write(f"error: waited {waited:.0f} s in vain for {what}\n")
        os._exit(2)

    threading.Thread(target=say, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    detect: bool = False,
) -> None:
    """Joins this process to the others; to be called before any other use of JAX.

    Args:
      coordinator: host:port of process 0, which listens there.
      num_processes: how many there are.
      process_id: which of them this is, from 0 on.
      detect: find all of these in the environment, as on TPU pods, under SLURM or Open MPI.

    Raises:
      ConfigError: if they do not describe a process among several, or nothing is detected.
    """
    given = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if detect and len(missing) < len(given):
        raise ConfigError(f"--distributed finds {', '.join(given)} by itself: leave them out")
    if not detect:
        if len(missing) == len(given):
            return
        if missing:
            raise ConfigError(f"{', '.join(given)} belong together, got no {', '.join(missing)}")
        if coordinator is None or not re.fullmatch(r"\S+:\d+", coordinator):
            raise ConfigError(f"--coordinator must be host:port, got {coordinator!r}")
        if num_processes is None or num_processes < 1:
            raise ConfigError(f"--num_processes must be at least 1, got {num_processes}")
        if process_id is None or not 0 <= process_id < num_processes:
            raise ConfigError(
                f"--process_id must be in 0..{num_processes - 1} for --num_processes="
                f"{num_processes}, got {process_id}"
            )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if detect:
        what = "all processes of this job"
    elif process_id == 0:
        what = f"all {num_processes} processes at {coordinator}, where process 0 listens"
    else:
        what = f"process 0 at --coordinator={coordinator} and all {num_processes} processes"
    try:
        with _saying(what):
            jax.distributed.initialize(
                coordinator, num_processes, process_id, initialization_timeout=2 * _PATIENCE_SECONDS
            )
    except ValueError as error:
        raise ConfigError(
            f"--distributed found no TPU pod, SLURM or Open MPI ({error}): give {', '.join(given)}"
        ) from error


def is_first() -> bool:
    """Whether this process writes what all of them have in common."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Returns the JSON values of all processes, in their order; to be called by all of them."""
    if jax.process_count() == 1:
        return [value]
    message = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(message.size)).reshape(-1)
    padded = np.zeros(-(-int(sizes.max()) // _BLOCK) * _BLOCK, np.uint8)
    padded[: message.size] = message
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def everywhere(function: Callable[[], Any], *kinds: type[Exception]) -> Any:
    """Calls `function` on every process; returns its own value.

    Raises:
      What `function` raises here. Where it raises on other processes alone: an error of the same
        type, if it is one of `kinds`, ConfigError, ValueError or FileNotFoundError, and otherwise
        RuntimeError, with the message of the first of them.
    """
    if jax.process_count() == 1:
        return function()
    value, error = None, None
    try:
        value = function()
    except Exception as caught:
        error = caught
    outcomes = gather(None if error is None else [type(error).__name__, str(error)])
    if error is not None:
        raise error
    for process, outcome in enumerate(outcomes):
        if outcome is not None:
            kind, message = outcome
            known = {k.__name__: k for k in (ConfigError, ValueError, FileNotFoundError, *kinds)}
            raise known.get(kind, RuntimeError)(f"process {process}: {message}")
    return value


def first(function: Callable[[], Any]) -> Any:
    """Calls `function` on the first process alone; returns its JSON value on all of them.

    Raises:
      What it raises, on all of them: see `everywhere`.
    """
    if jax.process_count() == 1:
        return function()
    return gather(everywhere(lambda: function() if is_first() else None))[0]


def any_of(flag: bool) -> bool:
    """Whether the flag is set on any process."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def same(name: str, value: Any) -> None:
    """Raises ConfigError on all processes unless they all have the same JSON value."""
    values = gather(value)
    for process, other in enumerate(values):
        if other != values[0]:
            raise ConfigError(f"process {process} has another {name} than process 0: {other!r}")


def blocks(array: jax.Array | np.ndarray, max_bytes: int = 2**28) -> Iterator[np.ndarray]:
    """Yields the array on the host, in order, in blocks along its first axis.

    To be called by all processes. A block of an array that no process holds whole is gathered; it
    has at most `max_bytes`, or one row.
    """
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        yield np.asarray(array)
        return
    rows = max(1, max_bytes * array.shape[0] // max(array.nbytes, 1))
    for start in range(0, array.shape[0], rows):
        yield multihost_utils.process_allgather(array[start : start + rows], tiled=True)


def rows_of(array: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """This process's part of an array with a leading axis of prompts: (indices, rows).

    Each row is a part of exactly one process, also where several hold it.
    """
    count = array.shape[0]
    if array.is_fully_replicated:
        indices = np.array_split(np.arange(count), jax.process_count())[jax.process_index()]
        return indices, np.asarray(array)[indices]
    shards = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    indices = [np.arange(count)[shard.index[0]] for shard in shards]
    rows = [np.asarray(shard.data) for shard in shards]
    if not shards:
        return np.arange(0), np.zeros((0, *array.shape[1:]), array.dtype)
    return np.concatenate(indices), np.concatenate(rows)


def join_rows(indices: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Puts the `rows` of all processes together; the inverse of `rows_of`."""
    whole = np.zeros((count, *rows.shape[1:]), rows.dtype)
    whole[indices] = rows
    if jax.process_count() == 1:
        return whole
    # Every row is 0 on all processes but one.
    return np.sum(multihost_utils.process_allgather(whole), axis=0, dtype=rows.dtype)
