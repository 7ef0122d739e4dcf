"""Why the sign ratio matters although h says it should not: the criteria of isolate_delta.py.

Two readings of each arm, both 0 for a method that is RLOO in all but name:

* D is the pass@100 of a method minus that of RLOO, both where pass@1 first reaches the level.
* E is what a method gains in pass@1 over the arm by what RLOO gains, minus 1; where RLOO gains
  nothing for sure, it has no value.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.claims import bootstrap, measures
from experiments.claims.finding import (
    DOES_NOT,
    REPRODUCES,
    UNDECIDED,
    Figure,
    Finding,
    side,
)
from experiments.claims.measures import Arm
from experiments.claims.study import NotRun, Study, need
from experiments.claims.sweep_data import SweepData
from experiments.report.intervals import Estimate

SWEEP = "isolate_delta"
LEVEL = 0.2
ARMS = ("adam", "batch", "sgd", "sgd_small", "reuse", "clip")
SAME_H = ("reinforce", "nsr")
REFERENCE = "rloo"
_UNITS = {"D": "points", "E": "share"}
_MOVES = {1: "farther from 0", -1: "nearer to 0", 0: "neither way for sure"}


class Gap(NamedTuple):
    """D or E of a method in an arm.

    Attributes:
      resamples: `[resamples + 1]`.
      estimate: of it; D has no value or interval where a seed does not reach the level, E none
        where RLOO does not gain.
    """

    resamples: np.ndarray
    estimate: Estimate


def gap(study: Study, arm: str, method: str, reading: str) -> Gap:
    """D or E of a method in an arm."""
    names = (f"{arm}-{method}", f"{arm}-{REFERENCE}")
    data, seeds = need(study, SWEEP, names)
    pair = (data, names[0]), (data, names[1])
    resamples = (_d if reading == "D" else _e)(*pair, seeds)
    return Gap(resamples, bootstrap.estimate(resamples, len(seeds)))


def _d(method: Arm, rloo: Arm, seeds: Sequence[int]) -> np.ndarray:
    """All NaN where one of the two misses the level in some seed."""
    measure = measures.matched_pass(method[0].ks[-1], LEVEL)
    resamples, reached = measures.difference_samples(method, rloo, measure, seeds)
    return resamples if reached == len(seeds) else np.full_like(resamples, np.nan)


def _e(method: Arm, rloo: Arm, seeds: Sequence[int]) -> np.ndarray:
    """All NaN where the interval of RLOO's gain is not above 0: loss by loss says nothing."""
    gains = [measures.samples(arm, measures.gain(1), seeds) for arm in (method, rloo)]
    if side(bootstrap.estimate(gains[1], len(seeds))) <= 0:
        return np.full_like(gains[0], np.nan)
    return gains[0] / gains[1] - 1


def beyond_h(study: Study, reading: str) -> Finding:
    """In arm adam, D or E of REINFORCE or NSR excludes 0."""
    figures = tuple(_figure("adam", m, reading, gap(study, "adam", m, reading)) for m in SAME_H)
    verdict = REPRODUCES if any(side(figure.estimate) for figure in figures) else UNDECIDED
    return Finding(verdict, figures, _without_value(study, ("adam",), reading))


def taken_out(study: Study, arm: str, reference: str, reading: str) -> Finding:
    """A cause that an arm takes out: |D| or |E| is nearer to 0 than in the arm it differs from."""
    return _change(study, arm, reference, reading, -1)


def put_in(study: Study, arm: str, reference: str, reading: str) -> Finding:
    """A cause that an arm puts in: |D| or |E| is farther from 0 than in the arm it differs from."""
    return _change(study, arm, reference, reading, 1)


def through_h(study: Study) -> Finding:
    """AsymGRPO's D keeps its sign in the arms where those of REINFORCE and NSR include 0."""
    figures, signs, quiet, missing = [], {"asym0.5": [], "asym2": []}, [], []
    for arm in ARMS:
        try:
            gaps = [gap(study, arm, method, "D").estimate for method in SAME_H]
        except NotRun:
            missing.append(arm)
            continue
        if any(side(g) or np.isnan(g.low) for g in gaps):
            continue
        quiet.append(arm)
        for method, found in signs.items():
            here = gap(study, arm, method, "D")
            found.append(side(here.estimate))
            figures.append(_figure(arm, method, "D", here))
    if missing:
        raise NotRun(f"Sweep {SWEEP}: incomplete, arms without verdict: {', '.join(missing)}.")
    if not quiet:
        text = "D of REINFORCE or NSR excludes 0, or has no value, in every arm: nothing to judge."
        return Finding(UNDECIDED, (), text)
    kept = all(len(set(found)) == 1 and found[0] != 0 for found in signs.values())
    turned = any({1, -1} <= set(found) for found in signs.values())
    verdict = REPRODUCES if kept else DOES_NOT if turned else UNDECIDED
    return Finding(verdict, tuple(figures), f"Arms where both include 0: {', '.join(quiet)}.")


def _change(study: Study, arm: str, reference: str, reading: str, wanted: int) -> Finding:
    figures, sides, moves, whole = [], [], [], []
    for method in SAME_H:
        here, there = (gap(study, a, method, reading) for a in (arm, reference))
        change = np.abs(here.resamples) - np.abs(there.resamples)
        estimate = bootstrap.estimate(change, here.estimate.count)
        label = f"{method}, |{reading}| in {arm} − |{reading}| in {reference}"
        figures += [
            _figure(arm, method, reading, here),
            Figure(label, estimate, _UNITS[reading]),
        ]
        sides.append(side(estimate))
        moves.append(f"{method} {_MOVES[sides[-1]]}")
        if wanted < 0 and sides[-1] < 0 and not side(here.estimate):
            whole.append(method)
    verdict = REPRODUCES if wanted in sides else DOES_NOT if -wanted in sides else UNDECIDED
    sentence = f"|{reading}| moves from {reference} to {arm}: {', '.join(moves)}. "
    sentence += _without_value(study, (arm, reference), reading)
    if whole:
        sentence += (
            f" As far as can be told here the whole cause of {reading} of {' and '.join(whole)}."
        )
    return Finding(verdict, tuple(figures), sentence.strip())


def _figure(arm: str, method: str, reading: str, found: Gap) -> Figure:
    return Figure(f"{reading} of {method} in {arm}", found.estimate, _UNITS[reading])


def _without_value(study: Study, arms: Sequence[str], reading: str) -> str:
    """Where a reading has no value: who misses the level of D, and where RLOO gains nothing."""
    if reading == "E":
        lost = [a for a in arms if np.isnan(gap(study, a, SAME_H[0], "E").estimate.value)]
        return f"RLOO gains nothing in arm {' and '.join(lost)}: no E there." if lost else ""
    names = [f"{arm}-{method}" for arm in arms for method in (*SAME_H, REFERENCE)]
    missed = {name: count for name in names if (count := _missed(study[SWEEP], name))}
    if not missed:
        return f"All of them reach pass@1 = {100 * LEVEL:g}%."
    return (
        f"pass@1 = {100 * LEVEL:g}% is not reached by "
        + "; ".join(f"{name} in {count} seeds" for name, count in missed.items())
        + "."
    )


def _missed(data: SweepData, name: str) -> int:
    seeds = data.seeds([name])
    steps = measures.observed((data, name), measures.steps_to([LEVEL] * len(seeds)), seeds)
    return int(np.isnan(steps).sum())
