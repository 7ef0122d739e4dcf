"""Expands a sweep into jobs: the config of every run, and the warm starts that they begin with.

Runs share compiled programs if their program keys are equal: their configs differ only in values
that the programs trace, and in values that only the code around the programs reads.
Below: workdir, warm_start, grid. Above: sweep.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments import objective
from experiments.advantages import check_gradient
from experiments.config import Config, ConfigError, conflicts, leaves, read_object
from experiments.grid import check_runs
from experiments.validation import validate
from experiments.warm_start import warm_start_config
from experiments.workdir import as_json, finished_result

# Beside objective.compiled_fields.
TRACED = ("seed", "advantage", "optimizer.learning_rate")
READ_AROUND_PROGRAMS = (
    "steps",
    "warm_start",
    "evaluation.every",
    "evaluation.prompts",
    "evaluation.ks",
    "evaluation.seed",
    "checkpoint",
    "tracking",
    "sweep",
    "launcher",
)


class Job(NamedTuple):
    """A warm start or a run.

    Attributes:
      name: of the run; of a warm start, what the progress display shows.
      config: of the run, or of a run that begins with the warm start.
      directory: where it is written.
      program_key: equal for jobs that can share compiled programs.
      depends_on: name of the warm start that it begins with; None for none, and for a warm start.
      is_run: whether it is a run, not a warm start.
    """

    name: str
    config: Config
    directory: Path
    program_key: str
    depends_on: str | None
    is_run: bool


def run_configs(
    base: Config, runs: Mapping[str, Mapping[str, Any]], workdir: Path
) -> dict[str, Config]:
    """Returns the config of each run of a sweep, by name.

    Runs with the same warm start share it: in workdir/warm_start, or, where the runs of a sweep
    have several, in workdir/warm_start/NAME, named by what they differ in.

    Args:
      base: what the runs share.
      runs: overrides by run name; keys are dotted fields, a dict replaces a whole subtree.
      workdir: of the sweep.

    Raises:
      ConfigError: if a name is no directory name, an override names no field, or its value cannot
        be; nothing has been written then.
    """
    check_runs(runs)
    configs = {name: _overridden(base, name, overrides) for name, overrides in runs.items()}
    seen = set()
    for name, config in configs.items():
        advantage = (config.advantage.name, repr(config.advantage.kwargs), config.group_size)
        loss = repr((config.learner.loss, config.learner.kl, config.learner.entropy))
        try:
            validate(config)
            if advantage not in seen:
                check_gradient(config)
            if loss not in seen:
                objective.check_objective(config)
        except ConfigError as error:
            raise ConfigError(f"run {name}: {error}") from error
        seen |= {advantage, loss}
    _share_warm_starts(configs, workdir / "warm_start")
    return configs


def _overridden(base: Config, name: str, overrides: Mapping[str, Any]) -> Config:
    config = base.copy_and_resolve_references()
    for field, value in overrides.items():
        *path, last = field.split(".")
        node: Any = config
        for part in path:
            node = node.get(part) if isinstance(node, ConfigDict) else None
        # The keywords of a task or an advantage are checked by whoever takes them.
        if not isinstance(node, ConfigDict) or (last not in node and path[-1:] != ["kwargs"]):
            raise ConfigError(f"run {name} overrides {field}, which is no field of the config")
        with node.unlocked():
            if last in node:
                del node[last]
            node[last] = value
    return config


def _share_warm_starts(configs: Mapping[str, Config], directory: Path) -> None:
    sharing = [c for c in configs.values() if c.warm_start.steps and not c.warm_start.workdir]
    parts = [dict(leaves(warm_start_config(config).to_dict())) for config in sharing]
    # A keyword of the task or of the optimizer may be in some of them only.
    fields = dict.fromkeys(field for part in parts for field in part)
    differing = [field for field in fields if len({repr(part.get(field)) for part in parts}) > 1]
    for config, part in zip(sharing, parts, strict=True):
        name = "-".join(f"{field.split('.')[-1]}{part.get(field, '')}" for field in differing)
        config.warm_start.workdir = str(directory / name)


def program_key(config: Config) -> str:
    """Returns the part of a config that its programs are compiled for, as text."""
    fields = dict(leaves(as_json(config)))
    as_compiled = objective.compiled_fields(config)
    varying = TRACED + READ_AROUND_PROGRAMS + tuple(as_compiled)
    compiled = {
        name: value
        for name, value in fields.items()
        if not any(name == v or name.startswith(f"{v}.") for v in varying)
    }
    return json.dumps(compiled | as_compiled, sort_keys=True)


def parse_shard(text: str) -> tuple[int, int]:
    """Reads "i/n", the part i = 0..n-1 of n.

    Raises:
      ConfigError: for anything else.
    """
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ConfigError(f"--shard must be i/n with 0 <= i < n, got {text!r}")
    return int(index), int(count)


def make_jobs(
    base: Config,
    runs: Mapping[str, Mapping[str, Any]],
    workdir: Path,
    shard: tuple[int, int] = (0, 1),
) -> list[Job]:
    """Returns the warm starts and the runs of a sweep, in an order in which they can be made.

    Args:
      base: what the runs share.
      runs: overrides by run name.
      workdir: of the sweep.
      shard: (i, n) takes every n-th run from the i-th on, and the warm starts that these need. Each
        part makes its own copy of a warm start, so that hosts need not wait for each other.

    Raises:
      ConfigError: as `run_configs`.
    """
    index, count = shard
    configs = run_configs(base, runs, workdir)
    warm_starts: dict[str, Job] = {}
    jobs = []
    for name in list(configs)[index::count]:
        config, depends_on = configs[name], None
        directory, key = workdir / "runs" / name, program_key(config)
        if config.warm_start.steps:
            place = Path(config.warm_start.workdir)
            if count > 1:
                place = place.with_name(f"{place.name}-part{index}of{count}")
                config.warm_start.workdir = str(place)
            if finished_result(config, directory) is None:
                inside = place.relative_to(workdir) if place.is_relative_to(workdir) else place
                # With a space, which no run has in its name.
                depends_on = str(inside).replace("_", " ")
                warm_start = Job(depends_on, config, place, key, None, False)
                warm_starts.setdefault(depends_on, warm_start)
        jobs.append(Job(name, config, directory, key, depends_on, True))
    order = list(dict.fromkeys(job.program_key for job in jobs))
    jobs.sort(key=lambda job: order.index(job.program_key))
    return [*warm_starts.values(), *jobs]


def methods_by_program(jobs: Sequence[Job]) -> dict[str, list[tuple[str, dict]]]:
    """Returns (name, kwargs) of the advantages that the programs of each key serve."""
    methods: dict[str, list[tuple[str, dict]]] = {}
    for job in jobs:
        advantage = job.config.advantage
        methods.setdefault(job.program_key, []).append((advantage.name, advantage.kwargs.to_dict()))
    return {key: [*{repr(m): m for m in found}.values()] for key, found in methods.items()}


def next_job(ready: Sequence[Job], own: str | None, others: Sequence[str]) -> Job | None:
    """Returns the job that a worker takes next, so that few workers compile the same programs.

    Args:
      ready: the jobs that can be begun; warm starts are taken first.
      own: program key that the worker has compiled.
      others: program keys that other workers are busy with.
    """
    if not ready:
        return None
    if not ready[0].is_run:
        return ready[0]
    keys = [job.program_key for job in ready]
    if own in keys:
        return ready[keys.index(own)]
    best = min(dict.fromkeys(keys), key=lambda key: (others.count(key), -keys.count(key)))
    return ready[keys.index(best)]


def steps_in_turn(jobs: Sequence[Job], workers: int) -> int | None:
    """Returns how many steps of a run a worker makes before another run has its turn.

    None means all. A few more runs than workers would leave some idle at the end: three runs on two
    workers take as long as four. In turns they take as long as a run and a half.
    """
    steps = [job.config.steps for job in jobs if job.is_run]
    return -(-max(steps) // workers) if workers < len(steps) < 2 * workers else None


def copy_finished_runs(jobs: Sequence[Job], directory: Path) -> list[str]:
    """Copies finished runs of other sweeps whose configs are those of runs still to be made.

    The configs may differ in where things lie and how the sweep is run (FREE_TO_CHANGE); the
    checkpoints are copied too.

    Args:
      jobs: of a sweep.
      directory: of workdirs of sweeps; this sweep's own may be among them.

    Returns:
      The names of the runs that were copied.

    Raises:
      ConfigError: if the directory holds no finished run.
    """
    finished = [result.parent for result in sorted(directory.glob("*/runs/*/result.json"))]
    if not finished:
        raise ConfigError(
            f"config.sweep.reuse must be a directory of sweeps with finished runs"
            f" (DIR/SWEEP/runs/NAME/result.json), got {str(directory)!r}"
        )
    saved = {path: read_object(path / "config.json") for path in finished}
    copied = []
    for job in jobs:
        if not job.is_run or (job.directory / "config.json").exists():
            continue
        for path, config in saved.items():
            steps = read_object(path / "result.json").get("step")
            if steps == job.config.steps and not conflicts(config, as_json(job.config)):
                _copy_whole(path, job.directory)
                copied.append(job.name)
                break
    return copied


def _copy_whole(old: Path, new: Path) -> None:
    """Copies a directory so that `new` is there whole or not at all."""
    part = new.with_name(f"{new.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(old, part)
    shutil.rmtree(new, ignore_errors=True)  # the error.txt of an earlier try
    part.rename(new)
