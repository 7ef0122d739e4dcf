"""Claims 1, 2, 3 and 5 on a sweep of static weights and FADE: core, and the real model's.

The criteria are those of configs/sweeps/core.py. pass@100 is the largest k that was evaluated, and
pass@10 the one before it.
"""

from collections.abc import Sequence

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
from experiments.claims.levels import matched_levels
from experiments.claims.study import Study, need
from experiments.claims.sweep_data import SweepData
from experiments.report.intervals import Estimate

BALANCED = "grpo_no_std"
EARLY = {"arithmetic": 25}  # the step that claim 2 reads, as the sweep's file says
EARLY_ELSEWHERE = 50


def success_bias(study: Study, sweep: str, methods: Sequence[str]) -> Finding:
    """Claim 1: each of some methods ends with less entropy and less pass@100 than GRPO mean-only.

    Args:
      study: all sweeps.
      sweep: of the methods.
      methods: that are biased to successes.
    """
    data, seeds = need(study, sweep, (BALANCED, *methods))
    k = data.ks[-1]
    figures = []
    for method in methods:
        pair = (data, method), (data, BALANCED)
        entropy = measures.difference(*pair, measures.final_entropy, seeds)
        diversity = measures.difference(*pair, measures.final_pass(k), seeds)
        figures += [
            Figure(f"{method} − {BALANCED}, final entropy", entropy, "nats"),
            Figure(f"{method} − {BALANCED}, final pass@{k}", diversity, "points"),
        ]
    return Finding(all_of(figures, [-1] * len(figures)), tuple(figures), "")


def failure_bias(study: Study, sweep: str) -> Finding:
    """Claim 2: AsymGRPO(0.5) is ahead early, and its head's update is closer to rank 1."""
    data, seeds = need(study, sweep, (BALANCED, "asym0.5"))
    pair = (data, "asym0.5"), (data, BALANCED)
    step = EARLY.get(sweep, EARLY_ELSEWHERE)
    early = measures.difference(*pair, measures.pass_at_step(1, step), seeds)
    rank = measures.difference(*pair, measures.final_rank_one, seeds)
    figures = (
        Figure(f"asym0.5 − {BALANCED}, pass@1 at step {_nearest(data, step)}", early, "points"),
        Figure(f"asym0.5 − {BALANCED}, final rank-one fraction", rank, "share"),
    )
    return Finding(all_of(figures, (1, 1)), figures, "")


def hard_focus(study: Study, sweep: str) -> Finding:
    """Claim 3: pass@100 of Power(2) and (3) at matched pass@1; their final pass@1 beside it."""
    methods = ("power2", "power3")
    data, seeds = need(study, sweep, (BALANCED, *methods))
    k, level = data.ks[-1], matched_levels(data, (BALANCED, *methods))[0]
    at_level, prices = [], []
    for method in methods:
        pair = (data, method), (data, BALANCED)
        gain = measures.difference(*pair, measures.matched_pass(k, level), seeds)
        price = measures.difference(*pair, measures.final_pass(1), seeds)
        label = f"{method} − {BALANCED}, pass@{k} where pass@1 = {100 * level:g}%"
        at_level.append(Figure(label, gain, "points"))
        prices.append(Figure(f"{method} − {BALANCED}, final pass@1", price, "points"))
    figures = (*at_level, *prices)
    return Finding(all_of(at_level, (1, 1)), figures, "")


def fade_first(study: Study, sweep: str, fade: str) -> Finding:
    """Claim 5: FADE passes the best static method's final pass@1 earlier, and ends no lower.

    Args:
      study: all sweeps.
      sweep: of the methods.
      fade: name of the method that is FADE.
    """
    static = [m for m in ("power2", "power3", "asym0.5", "asym2") if m in _planned(study, sweep)]
    static = [BALANCED, *static]
    data, seeds = need(study, sweep, (fade, *static))
    best = max(static, key=lambda m: measures.value((data, m), measures.final_pass(1), seeds).value)
    own, its = (_first_steps(data, m, best, seeds) for m in (best, fade))
    earlier = int(np.sum(its < own))  # a step that is never reached is infinite
    gain = np.where(np.isfinite(its), its - own, np.nan)
    reached = int(np.isfinite(its).sum())
    mean = float(np.nanmean(gain)) if reached else np.nan
    figures = [
        Figure(
            f"{fade} − {best}, step of the first evaluation at {best}'s final pass@1, mean of the "
            f"{reached} of {len(seeds)} seeds that reach it",
            Estimate(mean, np.nan, np.nan, reached),
            "steps",
        )
    ]
    behind, paired = [], []
    for k in data.ks:
        measure = measures.final_pass(k)
        every = {m: measures.value((data, m), measure, seeds) for m in static}
        top = max(every, key=lambda m: every[m].value)
        if measures.value((data, fade), measure, seeds).value < every[top].low:
            behind.append(f"pass@{k}")
        label = f"{fade} − {top}, the best static method's, final pass@{k}"
        estimate = measures.difference((data, fade), (data, top), measure, seeds)
        figures.append(Figure(label, estimate, "points"))
        if side(estimate) < 0:
            paired.append(f"pass@{k}")
    if earlier == len(seeds) and not behind:
        verdict = REPRODUCES
    elif earlier == 0 or behind:
        verdict = DOES_NOT
    else:
        verdict = UNDECIDED
    sentence = (
        f"The best static method in pass@1 is {best}. {fade} has an evaluation at or above its "
        f"final pass@1 earlier than {best} itself in {earlier} of {len(seeds)} seeds (and at all "
        f"in {reached}). It ends below the interval of the best static method in "
        f"{', '.join(behind) or 'no pass@k'}; paired, it is below by an interval that excludes 0 "
        f"in {', '.join(paired) or 'no pass@k'}."
    )
    return Finding(verdict, tuple(figures), sentence)


def ablation(study: Study, sweep: str, fade: str, name: str) -> Finding:
    """Claim 6 for one ablation: it ends below FADE in pass@1 or pass@100, and above in neither."""
    data, seeds = need(study, sweep, (fade, name))
    figures = []
    for k in (1, data.ks[-1]):
        pair = (data, name), (data, fade)
        estimate = measures.difference(*pair, measures.final_pass(k), seeds)
        figures.append(Figure(f"{name} − {fade}, final pass@{k}", estimate, "points"))
    below = any(figure.estimate.high < 0 for figure in figures)
    above = any(figure.estimate.low > 0 for figure in figures)
    verdict = DOES_NOT if above else REPRODUCES if below else UNDECIDED
    return Finding(verdict, tuple(figures), "")


def _planned(study: Study, sweep: str) -> list[str]:
    return list(study[sweep].methods) if sweep in study else []


def _nearest(data: SweepData, step: int) -> int:
    run = next(iter(data.methods[BALANCED].values()))
    return min(data.counts[run.name], key=lambda at: abs(at - step))


def _first_steps(data: SweepData, method: str, best: str, seeds: Sequence[int]) -> np.ndarray:
    """First evaluation of each seed at or above the final pass@1 of `best` in that seed."""
    levels = measures.observed((data, best), measures.final_pass(1), seeds)
    found = []
    for seed, level in zip(seeds, levels, strict=True):
        counts = data.counts[data.methods[method][seed].name]
        rates = {step: counts[step].mean() / data.num_samples for step in sorted(counts)}
        found.append(min((s for s, rate in rates.items() if rate >= level - 1e-9), default=np.inf))
    return np.array(found)
