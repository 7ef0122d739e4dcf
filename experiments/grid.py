"""The algebra of sweeps: axes of overrides, and three ways to put them together.

A sweep is a dict of runs: by name, the fields of the config that a run changes.

    product(
        axis("optimizer.learning_rate", (1e-4, 3e-4), "lr"),
        axis("seed", range(2)),
    )
    == {"lr0.0001-seed0": {"optimizer.learning_rate": 1e-4, "seed": 0}, ...}   # four runs

Two runs of one name, two runs that change the same, and one run that changes a field twice are
errors: each would lose a run or its meaning without a word.
"""

import re
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

from experiments.config import Config, ConfigError

Overrides = dict[str, Any]
Sweep = dict[str, Overrides]


def axis(field: str, values: Iterable, names: str | Iterable[str] | None = None) -> Sweep:
    """One run for each value of a field.

    Args:
      field: dotted, such as "optimizer.learning_rate"; a dict as value replaces a whole subtree.
      values: of the field.
      names: of the runs; a single word is put before each value, and None takes the last part of
        the field for that word.

    Raises:
      ConfigError: if there is not one name for each value, or two runs are the same.
    """
    values = list(values)
    if names is None or isinstance(names, str):
        word = field.split(".")[-1] if names is None else names
        names = [f"{word}{_text(value)}" for value in values]
    names = list(names)
    if len(names) != len(values):
        raise ConfigError(f"axis {field}: {len(values)} values need as many names, got {names}")
    return chain(*({name: {field: value}} for name, value in zip(names, values, strict=True)))


def product(*sweeps: Mapping[str, Overrides]) -> Sweep:
    """Every combination of one run of each sweep; the first varies slowest."""

    def pair(left: Sweep, right: Mapping[str, Overrides]) -> Sweep:
        return chain(*(_both(a, b) for a in left.items() for b in right.items()))

    return reduce(pair, sweeps, {"": {}})


def zipped(*sweeps: Mapping[str, Overrides]) -> Sweep:
    """The first runs of all sweeps as one run, the second runs as one, and so on.

    Raises:
      ConfigError: if the sweeps differ in length, or two of them change the same field.
    """
    lengths = [len(sweep) for sweep in sweeps]
    if len(set(lengths)) > 1:
        raise ConfigError(f"zipped sweeps must have the same number of runs, got {lengths}")
    rows = zip(*(sweep.items() for sweep in sweeps), strict=True)
    return chain(*(dict([reduce(_merged, row)]) for row in rows))


def chain(*sweeps: Mapping[str, Overrides]) -> Sweep:
    """All runs of all sweeps.

    Raises:
      ConfigError: if two runs have the same name or change the same.
    """
    runs: Sweep = {}
    for sweep in sweeps:
        for name, overrides in sweep.items():
            if name in runs:
                raise ConfigError(f"two runs of the sweep are named {name!r}")
            runs[name] = dict(overrides)
    seen: dict[str, str] = {}
    for name, overrides in runs.items():
        other = seen.setdefault(repr(sorted(overrides.items())), name)
        if other != name:
            raise ConfigError(f"runs {other!r} and {name!r} of the sweep change the same")
    return runs


def methods(advantages: Mapping[str, tuple[str, Mapping[str, Any]]]) -> Sweep:
    """One run for each advantage: (name, kwargs) of config.advantage, by run name."""
    values = [{"name": name, "kwargs": dict(kwargs)} for name, kwargs in advantages.values()]
    return axis("advantage", values, advantages)


def seeds(config: Config) -> Sweep:
    """One run for each of `config.sweep.seeds` seeds."""
    return axis("seed", range(config.sweep.seeds))


def method_of_run(name: str) -> str:
    """Returns a run's name without its seed; runs of one method differ in their seed alone."""
    return re.sub(r"[-_,]?seed[=_-]?\d+", "", name)


def check_runs(runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks what a config file's sweep() returns.

    Raises:
      ConfigError: for a sweep without runs, or a name that cannot be a directory.
    """
    if not runs:
        raise ConfigError("the sweep has no runs")
    for name in runs:
        if not re.fullmatch(r"[\w.,=+@-]*\w[\w.,=+@-]*", name):
            raise ConfigError(f"a run's name must be a plain file name, got {name!r}")


def _both(a: tuple[str, Overrides], b: tuple[str, Overrides]) -> Sweep:
    return dict([_merged(a, b)])


def _merged(a: tuple[str, Overrides], b: tuple[str, Overrides]) -> tuple[str, Overrides]:
    name = "-".join(part for part in (a[0], b[0]) if part)
    for x in a[1]:
        for y in b[1]:
            if x == y or x.startswith(f"{y}.") or y.startswith(f"{x}."):
                raise ConfigError(f"run {name!r} of the sweep changes {x} and {y}: once is enough")
    return name, {**a[1], **b[1]}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
