"""What a sweep comes to: the config of every run, its shape, and the warm starts it needs.

Runs have the same shape if they can share compiled programs: their configs are equal but for values
that the programs take as traced, and values that only the code around the programs reads.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.config import ConfigError, leaves, validate
from experiments.grid import check_runs
from experiments.metric_writer import plain_tree
from experiments.train import check_gives_gradient, finished_result, warm_start_part

TRACED = ("seed", "advantage", "optimizer.learning_rate")
READ_AROUND_PROGRAMS = (
    "steps",
    "warm_start",
    "evaluation.every",
    "evaluation.prompts",
    "evaluation.ks",
    "evaluation.seed",
    "checkpoint",
    "sweep",
)


class Job(NamedTuple):
    """A warm start or a run.

    Attributes:
      name: of the run; of a warm start, what the progress display shows.
      config: of the run, or of a run that begins with the warm start.
      directory: where it is written.
      shape: equal for jobs that can share compiled programs.
      needs: name of the warm start that it begins with; None for none, and for a warm start.
      trains: whether it is a run, not a warm start.
    """

    name: str
    config: ConfigDict
    directory: Path
    shape: str
    needs: str | None
    trains: bool


def run_configs(
    base: ConfigDict, runs: Mapping[str, Mapping[str, Any]], workdir: Path
) -> dict[str, ConfigDict]:
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
        try:
            validate(config)
            if advantage not in seen:
                check_gives_gradient(config)
        except ConfigError as error:
            raise ConfigError(f"run {name}: {error}") from error
        seen.add(advantage)
    _share_warm_starts(configs, workdir / "warm_start")
    return configs


def _overridden(base: ConfigDict, name: str, overrides: Mapping[str, Any]) -> ConfigDict:
    config = base.copy_and_resolve_references()
    for field, value in overrides.items():
        *path, last = field.split(".")
        node = config
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


def _share_warm_starts(configs: Mapping[str, ConfigDict], directory: Path) -> None:
    sharing = [c for c in configs.values() if c.warm_start.steps and not c.warm_start.workdir]
    parts = [dict(leaves(warm_start_part(config).to_dict())) for config in sharing]
    # A keyword of the task or of the optimiser may be in some of them only.
    fields = dict.fromkeys(field for part in parts for field in part)
    differing = [field for field in fields if len({repr(part.get(field)) for part in parts}) > 1]
    for config, part in zip(sharing, parts, strict=True):
        name = "-".join(f"{field.split('.')[-1]}{part.get(field, '')}" for field in differing)
        config.warm_start.workdir = str(directory / name)


def shape(config: ConfigDict) -> str:
    """What a config's programs are compiled for; runs of one shape share them."""
    fields = dict(leaves(plain_tree(config.to_dict())))
    varying = TRACED + READ_AROUND_PROGRAMS
    kept = {
        name: value
        for name, value in fields.items()
        if not any(name == v or name.startswith(f"{v}.") for v in varying)
    }
    return json.dumps(kept, sort_keys=True)


def parse_shard(text: str) -> tuple[int, int]:
    """Reads "i/n", the part i = 0..n-1 of n.

    Raises:
      ConfigError: for anything else.
    """
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ConfigError(f"--shard must be i/n with 0 <= i < n, got {text!r}")
    return int(index), int(count)


def jobs_of(
    base: ConfigDict,
    runs: Mapping[str, Mapping[str, Any]],
    workdir: Path,
    shard: tuple[int, int] = (0, 1),
) -> list[Job]:
    """The warm starts and the runs to be made, in an order in which they can be.

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
    taken = {name: configs[name] for name in list(configs)[index::count]}
    warm_starts: dict[str, Job] = {}
    trained = []
    for name, config in taken.items():
        own_shape, needs = shape(config), None
        directory = workdir / "runs" / name
        if config.warm_start.steps:
            place = Path(config.warm_start.workdir)
            if count > 1:
                place = place.with_name(f"{place.name}-part{index}of{count}")
                config.warm_start.workdir = str(place)
            inside = place.relative_to(workdir) if place.is_relative_to(workdir) else place
            needs = str(inside).replace("_", " ")  # a space, which no run has in its name
            if finished_result(config, directory) is None:
                warm_starts.setdefault(needs, Job(needs, config, place, own_shape, None, False))
        trained.append(Job(name, config, directory, own_shape, needs, True))
    unmade = [job if job.needs in warm_starts else job._replace(needs=None) for job in trained]
    order = list(dict.fromkeys(job.shape for job in unmade))
    unmade.sort(key=lambda job: order.index(job.shape))
    return [*warm_starts.values(), *unmade]


def methods_of(jobs: list[Job]) -> dict[str, list[tuple[str, dict]]]:
    """(name, kwargs) of the advantages that the programs of each shape serve."""
    methods: dict[str, list[tuple[str, dict]]] = {}
    for job in jobs:
        advantage = job.config.advantage
        methods.setdefault(job.shape, []).append((advantage.name, advantage.kwargs.to_dict()))
    return {s: [*{repr(m): m for m in found}.values()] for s, found in methods.items()}


def next_job(ready: list[Job], own: str | None, others: list[str]) -> Job | None:
    """The job that a worker takes next, so that each shape is compiled by as few as possible.

    Args:
      ready: the jobs that can be begun; warm starts are taken first.
      own: the shape that the worker has compiled.
      others: the shapes that other workers are at.
    """
    if not ready:
        return None
    if not ready[0].trains:
        return ready[0]
    shapes = [job.shape for job in ready]
    if own in shapes:
        return ready[shapes.index(own)]
    best = min(dict.fromkeys(shapes), key=lambda s: (others.count(s), -shapes.count(s)))
    return ready[shapes.index(best)]
