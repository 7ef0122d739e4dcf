"""W&B and MLflow beside the files of a run: `config.tracking = ("tensorboard", "wandb")`.

Their own clients send, and read their own environment variables: WANDB_PROJECT, WANDB_MODE,
MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and so on; both libraries are imported only where a
config names them. WORKDIR/tracking.json has the ids of the run there, in which a resumed run goes
on. Below: config, metric_writer, multihost, workdir. Above: train, run.
"""

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from experiments.config import Config, ConfigError, leaves, read_object
from experiments.metric_writer import scalars, write_json
from experiments.multihost import is_first
from experiments.workdir import as_json

logger = logging.getLogger(__name__)

PROJECT = "fade_jax"  # where no environment variable names another
_FILE = "tracking.json"


class Service(Protocol):
    """A run at a tracking service."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of a step; a step may come in several calls before `flush`."""

    def log_samples(self, step: int, path: Path) -> None:
        """The JSON lines of samples/STEP.jsonl."""

    def log_picture(self, step: int, path: Path) -> None:
        """A PNG file."""

    def flush(self) -> None:
        """No more of the steps so far will come."""

    def finish(self, done: bool) -> None:
        """Sends what is left, and whether the run has made all its steps."""


class Wandb:
    """A run of W&B; its own files are in WORKDIR/wandb."""

    def __init__(self, config: Config, workdir: Path, sweep: str | None, run_id: str | None):
        """Starts a run, or goes on with that of `run_id`; raises what wandb raises."""
        import wandb

        self._wandb, self.id = wandb, run_id or uuid.uuid4().hex[:16]
        self._step: int | None = None  # whose numbers have come, until it is ended
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.id,
            resume="allow",
            name=workdir.absolute().name,
            group=sweep,
            dir=str(workdir),
            config=as_json(config),
            allow_val_change=True,
            reinit="create_new",  # several runs in one process
            settings=wandb.Settings(console="off"),
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Sends the numbers with those of the same step."""
        self._run.log(dict(numbers), step=step)
        self._step = step

    def log_samples(self, step: int, path: Path) -> None:
        """Sends a table."""
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        data = [[_cell(row.get(name)) for name in columns] for row in rows]
        table = self._wandb.Table(columns=columns, data=data, allow_mixed_types=True)
        self._run.log({"samples": table}, step=step)

    def log_picture(self, step: int, path: Path) -> None:
        """Sends an image."""
        self._run.log({f"report/{path.stem}": self._wandb.Image(str(path))}, step=step)

    def flush(self) -> None:
        """Ends the step at hand: a killed process would else take it along."""
        if self._step is not None:
            self._run.log({}, step=self._step, commit=True)
            self._step = None

    def finish(self, done: bool) -> None:
        """Waits until all is sent."""
        self._run.finish(exit_code=0 if done else 1)


class Mlflow:
    """A run of MLflow."""

    def __init__(self, config: Config, workdir: Path, sweep: str | None, run_id: str | None):
        """Starts a run, or goes on with that of `run_id`; raises what mlflow raises."""
        import mlflow
        from mlflow.entities import Metric, Param

        self._client: Any = mlflow.MlflowClient()
        self._metric, self._waiting = Metric, []
        if run_id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = mlflow.set_experiment(name).experiment_id
            run = self._client.create_run(
                experiment,
                run_name=workdir.absolute().name,
                tags={"sweep": sweep} if sweep else {},
            )
            self.id = run.info.run_id
            params = [Param(k, str(v)[:6000]) for k, v in leaves(as_json(config))]
            for part in _parts(params, 100):
                self._client.log_batch(self.id, params=part)
        else:
            self.id = run_id
            self._client.update_run(run_id, status="RUNNING")
        self._client.log_artifact(self.id, str(workdir / "config.json"))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Keeps the numbers for `flush`; `@`, which no name may have, becomes `_at_`."""
        now = int(time.time() * 1000)
        for name, value in numbers.items():
            allowed = re.sub(r"[^\w\-. /]", "_", name.replace("@", "_at_"))
            self._waiting.append(self._metric(allowed, float(value), now, step))

    def log_samples(self, step: int, path: Path) -> None:
        """Sends the file."""
        self._client.log_artifact(self.id, str(path), "samples")

    def log_picture(self, step: int, path: Path) -> None:
        """Sends the file."""
        self._client.log_artifact(self.id, str(path), "report")

    def flush(self) -> None:
        """Sends the numbers."""
        waiting, self._waiting = self._waiting, []
        for part in _parts(waiting, 1000):
            self._client.log_batch(self.id, metrics=part)

    def finish(self, done: bool) -> None:
        """Sends what is left."""
        self.flush()
        self._client.set_terminated(self.id, "FINISHED" if done else "KILLED")


SERVICES: dict[str, Callable[[Config, Path, str | None, str | None], Any]] = {
    "wandb": Wandb,
    "mlflow": Mlflow,
}


def _cell(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else json.dumps(value)


def _parts(items: Sequence, size: int) -> list[Sequence]:
    return [items[i : i + size] for i in range(0, len(items), size)]


class TrackedRun:
    """A Tracker that sends to one service what the service does not have yet.

    An error of the service ends the sending, with a warning; the run goes on, and its files have
    everything.
    """

    def __init__(self, name: str, service: Service, is_new: bool):
        """Sends to `service`; a run that is new there gets the lines before a resumption, too."""
        self._name, self._service, self._is_new = name, service, is_new
        self._sent: set[tuple] = set()
        self._sent_before = self._failed = False

    def _try(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            return
        try:
            function(*arguments)
        except Exception as error:  # of the service or of the network
            self._failed = True
            text = " ".join(f"{type(error).__name__}: {error}".split())
            logger.warning("nothing more is sent to %s: %s", self._name, text)

    def begin(self, kept: Sequence[dict], cut: Sequence[dict]) -> None:
        """Sends the kept lines to a new run; remembers the others, which an old one has."""
        if self._is_new:
            for line in kept:
                self.log(line)
        else:
            self._sent = {(line["step"], *line) for line in cut}

    def log(self, line: dict) -> None:
        """Sends the numbers of a line."""
        self._sent_before = (line["step"], *line) in self._sent
        if not self._sent_before:
            self._try(self._service.log, line["step"], scalars(line))

    def log_samples(self, step: int, path: Path) -> None:
        """Sends the completions of the evaluation whose line came last."""
        if not self._sent_before:
            self._try(self._service.log_samples, step, path)

    def log_picture(self, step: int, path: Path) -> None:
        """Sends a PNG file."""
        self._try(self._service.log_picture, step, path)

    def flush(self) -> None:
        """Sends what waits."""
        self._try(self._service.flush)

    def finish(self, done: bool) -> None:
        """Ends the sending."""
        self._try(self._service.finish, done)


def sweep_name(workdir: Path) -> str | None:
    """Returns the name of the sweep of WORKDIR/runs/NAME; None for a run of its own."""
    whole = workdir.absolute()
    in_sweep = whole.parent.name == "runs" and (whole.parents[1] / "sweep.json").exists()
    return whole.parents[1].name if in_sweep else None


@contextmanager
def tracked(config: Config, workdir: Path) -> Iterator[list[TrackedRun]]:
    """Yields a tracker for each service of config.tracking, in the first process alone.

    Args:
      config: of the run.
      workdir: of the run, with config.json; gets tracking.json.

    Raises:
      ConfigError: if a service cannot be reached.
    """
    names = [name for name in config.tracking if name in SERVICES] if is_first() else []
    path = workdir / _FILE
    ids = read_object(path) if names and path.exists() else {}
    runs: list[TrackedRun] = []
    try:
        for name in names:
            try:
                service = SERVICES[name](config, workdir, sweep_name(workdir), ids.get(name))
            except Exception as error:  # of the library or of the network
                text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
                raise ConfigError(f"config.tracking: {name} does not start: {text}") from error
            runs.append(TrackedRun(name, service, is_new=name not in ids))
            ids[name] = service.id
            write_json(path, ids)
        yield runs
    finally:
        result = workdir / "result.json"
        done = result.exists() and read_object(result).get("step") == config.steps
        for run in runs:
            run.finish(done)


def send_pictures(config: Config, workdir: Path, directory: Path) -> None:
    """Sends the PNG files of a report to the services where the run of `workdir` is."""
    if not (workdir / _FILE).exists():
        return
    with tracked(config, workdir) as runs:
        for path in sorted(directory.glob("*.png")):
            for run in runs:
                run.log_picture(config.steps + 1, path)
