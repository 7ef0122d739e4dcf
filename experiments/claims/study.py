"""All sweeps that there are, and what a criterion needs of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from experiments.claims.finding import NOT_RUN, Finding
from experiments.claims.sweep_data import SweepData

Study = Mapping[str, SweepData]
Criterion = Callable[[Study], Finding]

SEEDS = 5  # that a verdict needs
FEWER_SEEDS = {"isolate_delta": 3, "arithmetic": 3}  # planned so, in their files


class NotRun(Exception):
    """What a criterion needs is not there; the message says what is."""


def needed_seeds(sweep: str) -> int:
    """The seeds that a verdict on a sweep needs."""
    return FEWER_SEEDS.get(sweep, SEEDS)


def need(study: Study, sweep: str, methods: Iterable[str]) -> tuple[SweepData, list[int]]:
    """A sweep and the seeds that all of some methods have finished.

    Raises:
      NotRun: if they are fewer than a verdict needs.
    """
    if sweep not in study:
        raise NotRun(f"Sweep {sweep}: not run.")
    data, methods = study[sweep], list(methods)
    seeds, least = data.seeds(methods), needed_seeds(sweep)
    if len(seeds) < least:
        raise NotRun(
            f"Sweep {sweep}: incomplete, {len(seeds)} of the {least} seeds that a verdict needs "
            f"are finished for all of its methods ({seeds_text(data, methods)})."
        )
    return data, seeds


def seeds_text(data: SweepData, methods: Sequence[str]) -> str:
    """How many seeds each method has finished, those of one number together."""
    counts: dict[int, list[str]] = {}
    for method in methods:
        counts.setdefault(len(data.methods.get(method, {})), []).append(method)
    return "; ".join(f"{count}: {', '.join(names)}" for count, names in sorted(counts.items()))


def decide(criterion: Criterion, study: Study) -> Finding:
    """The finding of a criterion; "not run" where what it needs is not there."""
    try:
        return criterion(study)
    except NotRun as missing:
        return Finding(NOT_RUN, (), str(missing))
