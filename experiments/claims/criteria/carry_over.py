"""Whether what the graph task shows of two methods holds on countdown: countdown.py's criterion."""

from collections.abc import Sequence
from itertools import combinations

from experiments.claims import measures
from experiments.claims.finding import (
    DOES_NOT,
    REPRODUCES,
    UNDECIDED,
    Figure,
    Finding,
    side,
)
from experiments.claims.measures import Measure
from experiments.claims.study import NotRun, Study, need

METHODS = ("reinforce", "grpo_no_std", "asym0.5", "asym2", "power2", "power3", "fade")


def core(study: Study) -> Finding:
    """The differences between the static methods of the core sweep and FADE."""
    return _carries_over(study, "core", METHODS)


def every_method(study: Study) -> Finding:
    """The differences between all methods that countdown has."""
    if "countdown" not in study:
        raise NotRun("Sweep countdown: not run.")
    return _carries_over(study, "methods", tuple(study["countdown"].methods))


def _carries_over(study: Study, sweep: str, methods: Sequence[str]) -> Finding:
    """Every difference of two methods that excludes 0 in a sweep does so on countdown, same sign.

    The figures are those that turn, and the differences from GRPO without std.
    """
    graph, graph_seeds = need(study, sweep, methods)
    other, other_seeds = need(study, "countdown", methods)
    read: dict[str, tuple[Measure, str]] = {
        "final pass@1": (measures.final_pass(1), "points"),
        f"final pass@{graph.ks[-1]}": (measures.final_pass(graph.ks[-1]), "points"),
        "final entropy": (measures.final_entropy, "nats"),
    }
    carried, reversed_, open_, figures = [], [], [], []
    for a, b in combinations(methods, 2):
        for name, (measure, unit) in read.items():
            here = measures.difference((graph, a), (graph, b), measure, graph_seeds)
            if not side(here):
                continue
            there = measures.difference((other, a), (other, b), measure, other_seeds)
            label = f"{a} − {b}, {name}"
            group = {1: carried, -1: reversed_}.get(side(here) * side(there), open_)
            group.append(label)
            if group is reversed_ or "grpo_no_std" in (a, b):
                figures += [Figure(f"{label}, graph", here, unit)]
                figures += [Figure(f"{label}, countdown", there, unit)]
    found = len(carried) + len(reversed_) + len(open_)
    sentence = (
        f"Of {found} differences between two methods that exclude 0 on the graph, {len(carried)} "
        f"exclude it on countdown with the same sign, {len(reversed_)} with the other, "
        f"{len(open_)} include it there."
    )
    verdict = DOES_NOT if reversed_ else REPRODUCES if found and not open_ else UNDECIDED
    return Finding(verdict, tuple(figures), sentence)
