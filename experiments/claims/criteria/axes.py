"""The sweeps along one axis: delta (claims 1, 2 and 4), alpha (claim 3), and FADE's target."""

import itertools
from collections.abc import Mapping

import numpy as np

from experiments.claims import measures
from experiments.claims.finding import (
    DOES_NOT,
    REPRODUCES,
    UNDECIDED,
    Figure,
    Finding,
    all_of,
    side,
)
from experiments.claims.study import Study, need
from experiments.claims.sweep_data import SweepData
from experiments.report.runs import Run, setting

DELTAS = (0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
ALPHAS = (1.0, 1.5, 2.0, 3.0, 4.0)
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
NATS = (0.5, 1.0, 1.3)


def cell(alpha: float, delta: float) -> str:
    """The name of a cell of the delta sweep."""
    return f"alpha{alpha:g}-delta{delta:g}"


def delta_success_bias(study: Study) -> Finding:
    """Claim 1: at α = 1 entropy and pass@100 both end lower at δ = 2 than at δ = 1."""
    biased, balanced = cell(1, 2), cell(1, 1)
    data, seeds = need(study, "delta", (biased, balanced))
    pair = (data, biased), (data, balanced)
    k = data.ks[-1]
    figures = (
        Figure(
            "δ = 2 − δ = 1, final entropy",
            measures.difference(*pair, measures.final_entropy, seeds),
            "nats",
        ),
        Figure(
            f"δ = 2 − δ = 1, final pass@{k}",
            measures.difference(*pair, measures.final_pass(k), seeds),
            "points",
        ),
    )
    return Finding(all_of(figures, (-1, -1)), figures, "At α = 1.")


def delta_failure_bias(study: Study) -> Finding:
    """Claim 2: at α = 1, δ = 0.5 leads at the first evaluation; rank one higher in every seed."""
    biased, balanced = cell(1, 0.5), cell(1, 1)
    data, seeds = need(study, "delta", (biased, balanced))
    pair = (data, biased), (data, balanced)
    early = measures.difference(*pair, measures.pass_after_start(1), seeds)
    rank = measures.difference(*pair, measures.final_rank_one, seeds)
    ones, others = (measures.observed(arm, measures.final_rank_one, seeds) for arm in pair)
    higher = int(np.sum(ones > others))
    figures = (
        Figure("δ = 0.5 − δ = 1, pass@1 at the first evaluation", early, "points"),
        Figure("δ = 0.5 − δ = 1, final rank-one fraction", rank, "share"),
    )
    if side(early) > 0 and higher == len(seeds):
        verdict = REPRODUCES
    elif side(early) < 0 or higher == 0:
        verdict = DOES_NOT
    else:
        verdict = UNDECIDED
    sentence = f"At α = 1. The rank-one fraction is higher in {higher} of {len(seeds)} seeds."
    return Finding(verdict, figures, sentence)


def exploration(study: Study) -> Finding:
    """Claim 4: the best pass@100 at α = 2, δ = 1, the best pass@1 at a δ < 1, each ahead."""
    cells = {cell(alpha, delta): (alpha, delta) for alpha in (1, 2) for delta in DELTAS}
    data, seeds = need(study, "delta", cells)
    k = data.ks[-1]
    wide, narrow = (
        max(cells, key=lambda c: measures.value((data, c), measures.final_pass(n), seeds).value)
        for n in (k, 1)
    )
    sentence = f"The best final pass@{k} has {_said(cells[wide])}, the best pass@1 "
    sentence += f"{_said(cells[narrow])}."
    if wide == cell(2, 1) and cells[narrow][1] < 1:
        figures = (
            _ahead(data, wide, narrow, k, seeds, cells),
            _ahead(data, narrow, wide, 1, seeds, cells),
        )
        return Finding(all_of(figures, (1, 1)), figures, sentence)
    # Another cell is the best of the two: is it ahead of the one that the claim names?
    suppressed = [c for c, (_, delta) in cells.items() if delta < 1]
    named = max(
        suppressed,
        key=lambda c: measures.value((data, c), measures.final_pass(1), seeds).value,
    )
    figures = tuple(
        _ahead(data, best, claimed, n, seeds, cells)
        for best, claimed, n in ((wide, cell(2, 1), k), (narrow, named, 1))
        if best != claimed
    )
    verdict = DOES_NOT if any(side(f.estimate) > 0 for f in figures) else UNDECIDED
    return Finding(verdict, figures, sentence)


def best_focus(study: Study) -> Finding:
    """Claim 3: the α of the best final pass@1 depends on the initial solve rate."""
    starts = _starts(study)
    methods = [f"{start}-power{alpha:g}" for start in starts for alpha in ALPHAS]
    data, seeds = need(study, "alpha", methods)
    best = {
        start: max(
            ALPHAS,
            key=lambda alpha: (
                measures.value(
                    (data, f"{start}-power{alpha:g}"), measures.final_pass(1), seeds
                ).value
            ),
        )
        for start in starts
    }
    sentence = "The best α is " + " and ".join(
        f"{alpha:g} from {start.removeprefix('start')} supervised steps"
        for start, alpha in best.items()
    )
    first, second = best.values()
    if first == second:
        return Finding(DOES_NOT, (), f"{sentence}: the same.")
    figures = tuple(
        Figure(
            f"α = {best[start]:g} − α = {other:g} from {start}, final pass@1",
            measures.difference(
                (data, f"{start}-power{best[start]:g}"),
                (data, f"{start}-power{other:g}"),
                measures.final_pass(1),
                seeds,
            ),
            "points",
        )
        for start, other in zip(starts, (second, first), strict=True)
    )
    verdict = REPRODUCES if any(side(f.estimate) > 0 for f in figures) else UNDECIDED
    return Finding(verdict, figures, f"{sentence}.")


def half_target(study: Study) -> Finding:
    """No other fraction of the initial entropy ends above one half in pass@1 or pass@100."""
    names = [f"fraction{x:g}" for x in FRACTIONS]
    data, seeds = need(study, "target_entropy", names)
    figures = tuple(
        Figure(
            f"{name} − fraction0.5, final pass@{k}",
            measures.difference((data, name), (data, "fraction0.5"), measures.final_pass(k), seeds),
            "points",
        )
        for name in names
        if name != "fraction0.5"
        for k in (1, data.ks[-1])
    )
    above = [figure.label for figure in figures if side(figure.estimate) > 0]
    sentence = f"Above one half: {'; '.join(above)}." if above else "No other fraction is above."
    return Finding(DOES_NOT if above else REPRODUCES, figures, sentence)


def earlier_bias(study: Study) -> Finding:
    """A higher target means an earlier step with δ < 1, in every seed."""
    names = [f"fraction{x:g}" for x in FRACTIONS] + [f"nats{x:g}" for x in NATS]
    data, seeds = need(study, "target_entropy", names)
    firsts: dict[str, list[float]] = {name: [] for name in names}
    breaks = 0
    for seed in seeds:
        runs = {name: data.methods[name][seed] for name in names}
        order = sorted(names, key=lambda name: _target(runs[name]))
        steps = [(runs[name].result or {}).get("first_suppressed", np.inf) for name in order]
        breaks += any(later > earlier for earlier, later in itertools.pairwise(steps))
        for name, step in zip(order, steps, strict=True):
            firsts[name].append(step)
    sentence = "First step with δ < 1, mean over seeds: " + ", ".join(
        f"{name} {np.mean(steps):.0f}"
        if np.isfinite(steps).all()
        else f"{name} not reached in {np.isinf(steps).sum()} of {len(steps)} seeds"
        for name, steps in firsts.items()
    )
    sentence += f". Seeds in which it grows with H*: {breaks} of {len(seeds)}."
    return Finding(DOES_NOT if breaks else REPRODUCES, (), sentence)


def _target(run: Run) -> float:
    """H* in nats."""
    kwargs = setting(run.config, "advantage.kwargs", {})
    if "target_entropy" in kwargs:
        return kwargs["target_entropy"]
    return kwargs["target_fraction"] * run.evaluations[0]["eval/entropy"]


def _starts(study: Study) -> list[str]:
    """The two warm starts of the alpha sweep, the shorter one first."""
    planned = study["alpha"].methods if "alpha" in study else ()
    starts = {method.split("-")[0] for method in planned}
    return sorted(starts, key=lambda start: int(start.removeprefix("start")))


def _said(pair: tuple[float, float]) -> str:
    return f"α = {pair[0]:g}, δ = {pair[1]:g}"


def _ahead(
    data: SweepData, a: str, b: str, k: int, seeds, cells: Mapping[str, tuple[float, float]]
) -> Figure:
    estimate = measures.difference((data, a), (data, b), measures.final_pass(k), seeds)
    return Figure(f"({_said(cells[a])}) − ({_said(cells[b])}), final pass@{k}", estimate, "points")
