"""The directory of a run: its config, its result, and the lock that keeps other processes out.

Validation comes before anything is written: `check` reads alone, `claim` writes config.json.
Below: config, metric_writer, multihost. Above: warm_start, train, jobs.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from experiments.config import Config, ConfigError, conflicts, read_object, shown
from experiments.metric_writer import plain_tree, read_lines, write_json
from experiments.multihost import first, is_first, same


def directory(path: str | Path) -> Path:
    """Returns the path of a workdir, with `~` expanded.

    Raises:
      ConfigError: if Orbax cannot read checkpoints below it, or might read those of other runs: it
        takes brackets, `*` and `?` for patterns, a backslash for a slash and `NAME:` for a URL.
    """
    found = Path(path).expanduser()
    whole = found.absolute()
    if any(part[-1] == ":" or set(part) & set("*?[]\\\n") for part in whole.parts):
        raise ConfigError(
            "--workdir must be a path without * ? [ ] \\, line breaks and names that end in a"
            f" colon, got {str(whole)!r}"
        )
    return found


def as_json(config: Config) -> dict:
    """Returns a config as config.json holds it."""
    return json.loads(json.dumps(plain_tree(config.to_dict())))


def check(config: Config, workdir: Path) -> None:
    """Checks that `workdir` is new, or holds a run with the same config and no more steps.

    Raises:
      ConfigError: if it holds another run, or the processes of this run have other configs.
    """
    new = as_json(config)
    same("config", new)

    def compare():
        path = workdir / "config.json"
        if path.exists():
            changed = conflicts(read_object(path), new)
            if changed:
                raise ConfigError(
                    f"{workdir} holds a run with another config ({'; '.join(changed)}):"
                    " choose another --workdir"
                )

    first(compare)


def claim(config: Config, workdir: Path) -> None:
    """Writes config.json, after `check`."""
    check(config, workdir)

    def write():
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "config.json", as_json(config))

    first(write)


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other processes out of `workdir`; the lock dies with its holder.

    Raises:
      ConfigError: if another process holds it.
    """
    lock = FileLock(workdir / ".lock", timeout=0)

    def acquire():
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise ConfigError(
                f"another process is training in {workdir}: wait for it, or choose another"
                " --workdir"
            ) from error
        for left in (*workdir.glob("*.tmp"), *workdir.glob("evaluations/*.tmp")):
            left.unlink()  # by a process that was killed

    first(acquire)
    try:
        yield
    finally:
        if is_first():
            lock.release()


def finished_result(config: Config, workdir: Path) -> dict[str, Any] | None:
    """Returns result.json if the run in `workdir` has made all its steps.

    Raises:
      ConfigError: if it has made more steps than the config asks for.
    """
    path = workdir / "result.json"
    result = first(lambda: read_object(path) if path.exists() else {"step": 0})
    if type(done := result.get("step")) is not int:
        raise ConfigError(f"{path} is damaged: step must be a whole number, got {shown(done)}")
    check_steps(config, workdir, done)
    return result if result.get("step") == config.steps else None


def check_steps(config: Config, workdir: Path, done: int) -> None:
    """Raises ConfigError if the run in `workdir` has made more steps than its config asks for."""
    if done > config.steps:
        raise ConfigError(
            f"config.steps must be at least {done}, the steps that the run in {workdir} has made,"
            f" got {config.steps}"
        )


def write_result(config: Config, workdir: Path, params_sha256: str) -> dict[str, Any]:
    """Writes result.json from the last lines of the log, and returns it."""

    def write():
        final: dict[str, Any] = {}
        for line in read_lines(workdir / "metrics.jsonl"):
            final |= {k: v for k, v in line.items() if line["step"] == config.steps}
        result = final | {"step": config.steps, "params_sha256": params_sha256}
        write_json(workdir / "result.json", result)
        return result

    return first(write)
