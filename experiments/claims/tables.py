"""The tables of the page, in its order."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.claims import measures
from experiments.claims.claim import Claim
from experiments.claims.finding import Finding
from experiments.claims.levels import matched_levels
from experiments.claims.study import Study, needed_seeds, seeds_text
from experiments.claims.sweep_data import SweepData
from experiments.report.intervals import Estimate, mean_interval
from experiments.report.runs import series
from experiments.report.table import Table

SWEEPS = (
    "core",
    "isolate_delta",
    "arithmetic",
    "target_entropy",
    "alpha",
    "delta",
    "countdown",
    "countdown_starts",
    "methods",
    "beyond",
    "group_size",
    "learning_rate",
    "optimizer",
    "reuse",
    "clip_higher",
    "staleness",
    "scale",
)
_BALANCED = "grpo_no_std"
_SHORT = 30  # letters


def verdicts(findings: Sequence[tuple[Claim, Finding]]) -> Table:
    """A row for each claim: where it is read, and what came out."""
    rows = [
        (_number(claim), claim.statement, claim.sweep, f"{said(claim, finding)}", outcome(finding))
        for claim, finding in findings
    ]
    caption = (
        "One row for each criterion; the sections below have the criteria in full, every figure "
        "and the pictures. Figures: difference [95% interval]."
    )
    head = ("claim", "in our words", "sweep", "verdict", "what decides it")
    return Table(head, tuple(rows), caption, figures=False)


def said(claim: Claim, finding: Finding) -> str:
    """The verdict in words: the paper's claims reproduce, answers to questions of ours hold."""
    if claim.group.startswith("claim"):
        return finding.verdict
    return {"reproduces": "holds", "does not": "does not hold"}.get(
        finding.verdict, finding.verdict
    )


def _number(claim: Claim) -> str:
    return claim.group.removeprefix("claim") if claim.group.startswith("claim") else "–"


def outcome(finding: Finding) -> str:
    """The sentence; where it is short, the figures after it."""
    if len(finding.sentence) > _SHORT:
        return finding.sentence
    return " ".join([finding.sentence, "; ".join(map(str, finding.figures))]).strip()


def figures_table(findings: Sequence[tuple[Claim, Finding]]) -> Table:
    """Every figure of some findings."""
    rows = [
        (claim.sweep, figure.label, str(figure).removeprefix(f"{figure.label}: "))
        for claim, finding in findings
        for figure in finding.figures
    ]
    caption = "Mean over the seeds, with the 95% bootstrap interval over seeds and prompts."
    return Table(("sweep", "figure", "value"), tuple(rows), caption, figures=False)


def methods_table(data: SweepData) -> Table:
    """A row for each method of a sweep: its figures at the end, and its best pass@1."""
    ks = data.ks
    head = ("method", "seeds", *(f"pass@{k}, %" for k in ks), "entropy, nats", "best pass@1, %")
    rows = []
    for method, runs in data.methods.items():
        if not runs:
            rows.append((method, "0", *["–"] * (len(ks) + 2)))
            continue
        arm = (data, method)
        cells = [_percent(measures.value(arm, measures.final_pass(k))) for k in ks]
        entropy = measures.value(arm, measures.final_entropy)
        best = mean_interval(best_pass_rates(data, method))
        rows.append((method, f"{len(runs)}", *cells, _number_text(entropy, 1, 2), _percent(best)))
    caption = (
        "Last held-out evaluation of each method, in brackets the 95% bootstrap interval of the "
        "mean over seeds and held-out prompts (of the entropy: over seeds). Intervals of two "
        "methods share their prompts, so they overlap more than the methods do: the paired "
        "differences above compare. Best pass@1: the largest of a run's evaluations, with the "
        "t-interval over seeds."
    )
    return Table(head, tuple(rows), caption)


def best_pass_rates(data: SweepData, method: str) -> list[float]:
    """The largest pass@1 of all evaluations of each seed."""
    runs = data.methods[method].values()
    return [float(series(run.evaluations, "eval/pass@1")[1].max()) for run in runs]


def steps_table(data: SweepData) -> Table | None:
    """Steps of each method to the best pass@1 of the best static method."""
    static = [m for m, runs in data.methods.items() if runs and not m.startswith("fade")]
    if not static:
        return None
    peaks = {m: float(np.mean(best_pass_rates(data, m))) for m in static}
    best = max(peaks, key=lambda m: peaks[m])
    level = peaks[best]
    rows = []
    for method, runs in data.methods.items():
        if not runs:
            continue
        seeds = data.seeds([method])
        steps = measures.observed((data, method), measures.steps_to([level] * len(seeds)), seeds)
        reached = steps[np.isfinite(steps)]
        mean = mean_interval(reached.tolist()) if len(reached) else None
        missed = len(steps) - len(reached)
        rows.append(
            (
                method,
                "–" if mean is None else _number_text(mean, 1, 0),
                ", ".join("–" if math.isnan(step) else f"{step:.0f}" for step in steps),
                f"not reached in {missed} of {len(steps)}" if missed else "all reach it",
            )
        )
    caption = (
        f"Steps until pass@1 first is {100 * level:.1f}%, the mean over seeds of the best "
        f"evaluation of {best}, the best static method; interpolated between evaluations. Mean and "
        "t-interval of the seeds that reach it, which is too early where some do not."
    )
    return Table(("method", "steps", "each seed", "seeds"), tuple(rows), caption)


def matched_table(data: SweepData) -> Table | None:
    """pass@k of each method where its pass@1 first reaches a level."""
    methods = [method for method, runs in data.methods.items() if runs]
    if not methods:
        return None
    others = [k for k in data.ks if k > 1]
    levels = [level for level in matched_levels(data, methods) if np.isfinite(level)]
    if not levels:
        return None
    head = ["method"]
    for level in levels:
        head += [f"pass@{k} at {100 * level:g}%" for k in others]
        head += [f"pass@{others[-1]} − {_BALANCED}'s"]
    rows = []
    for method in methods:
        cells = [method]
        for level in levels:
            seeds = data.seeds([method])
            cells += [_matched(data, method, k, level, seeds) for k in others]
            cells.append(_matched_difference(data, method, others[-1], level))
        rows.append(tuple(cells))
    caption = (
        "pass@k, %, at the step where a run's pass@1 first reaches the level in the head, "
        "interpolated between evaluations, with 95% bootstrap intervals over seeds and prompts; "
        "the last column of a level is paired by seed and prompt, in points. (n of N): seeds that "
        "reach the level, where not all do."
    )
    return Table(tuple(head), tuple(rows), caption)


def coverage_table(study: Study) -> Table:
    """What was run and what was not, a row for each sweep that was planned."""
    rows = []
    for name in dict.fromkeys([*SWEEPS, *study]):
        command = (
            f"python -m experiments.run --config=configs/sweeps/{name}.py --workdir=DIR/{name}"
        )
        if name not in study:
            rows.append((name, "not run", "–", command))
            continue
        data = study[name]
        counts = [len(runs) for runs in data.methods.values()]
        if name == "tuning":
            state = "chose the learning rate"
        else:
            state = "complete" if min(counts) >= needed_seeds(name) else "incomplete"
        if len(data.finished) < len(data.runs):
            state += f", {len(data.runs) - len(data.finished)} runs not finished"
        seeds = seeds_text(data, list(data.methods)) if len(set(counts)) > 1 else f"{counts[0]}"
        state += f": {len(data.finished)} of {len(data.runs)} runs{_made_by(data)}"
        rows.append((name, state, seeds, command))
    caption = (
        "Seeds: finished ones of each method, or number: methods. A verdict needs 5, of "
        "isolate_delta and arithmetic 3. A run that two sweeps have, of one config, is made once."
    )
    head = ("sweep", "state", "seeds", "command")
    return Table(head, tuple(rows), caption, figures=False)


def _made_by(data: SweepData) -> str:
    """How many of a sweep's runs other sweeps made."""
    makers = Counter(run.result["made_by"] for run in data.finished if run.result["made_by"])
    texts = [f"{number} by {maker}" for maker, number in sorted(makers.items())]
    return f" ({', '.join(texts)})" if texts else ""


def _matched(data: SweepData, method: str, k: int, level: float, seeds: list[int]) -> str:
    at_level = measures.observed((data, method), measures.matched_pass(k, level), seeds)
    reached = int(np.isfinite(at_level).sum())
    if not reached:
        return "not reached"
    text = _percent(measures.value((data, method), measures.matched_pass(k, level), seeds))
    return text if reached == len(seeds) else f"{text} ({reached} of {len(seeds)})"


def _matched_difference(data: SweepData, method: str, k: int, level: float) -> str:
    seeds = data.seeds([method, _BALANCED])
    if method == _BALANCED or not seeds:
        return "–"
    arms = (data, method), (data, _BALANCED)
    estimate = measures.difference(*arms, measures.matched_pass(k, level), seeds)
    return "–" if math.isnan(estimate.value) else _number_text(estimate, 100, 1, sign="+")


def _percent(estimate: Estimate) -> str:
    return _number_text(estimate, 100, 1)


def _number_text(estimate: Estimate, scale: float, digits: int, sign: str = "") -> str:
    value, low, high = (f"{scale * x:{sign}.{digits}f}" for x in estimate[:3])
    return value if math.isnan(estimate.low) else f"{value} [{low}, {high}]"


def shown_sweeps(study: Study) -> Mapping[str, SweepData]:
    """The sweeps that have finished runs, in the order of the page."""
    names = [name for name in dict.fromkeys([*SWEEPS, *study]) if name in study]
    return {name: study[name] for name in names if study[name].finished}
