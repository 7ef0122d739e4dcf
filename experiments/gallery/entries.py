"""Every advantage of the gallery: its hyperparameters, its closed forms and what to say of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

import fade_jax
from experiments.gallery.curves import LARGE, AdvantageFunction, Curves, exact
from experiments.gallery.curves import of_kept_groups as exact_of_kept_groups
from fade_jax import synthesis
from fade_jax.decomposition import GradientMasses, implied_objective, large_group, objectives

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Entry:
    """One advantage; texts are formulas of a large group, with K successes and r̄ = K/G."""

    name: str  # of its picture
    title: str
    call: str
    formula: str
    ratio: str
    weight: str  # h(p)
    objective: str  # F(p)
    arxiv: str
    note: str
    advantage: Callable[[int], AdvantageFunction]  # by the group size
    masses: Callable[[np.ndarray], GradientMasses]  # of a large group, by the solve rates
    implied_objective: Callable[[np.ndarray], jax.Array]  # the same
    exact: Callable[[AdvantageFunction, int, np.ndarray], Curves] = exact
    degenerate: str = ""  # in place of the advantage of all-failed and all-solved groups


def entries() -> tuple[Entry, ...]:
    """All advantages, from those of a constant baseline to those of a whole batch."""
    return (
        *_constant_baselines(),
        *_group_relative(),
        *_focal(),
        *_best_of_k(),
        *_other_baselines(),
        *_whole_batch(),
    )


def _entry(
    function: str,
    keywords: Mapping[str, Any] = _NONE,
    *,
    masses: Mapping[str, Any] | None = None,
    objective_of: Mapping[str, Any] | None = None,
    name: str = "",
    **texts: str,
) -> Entry:
    """An entry whose advantage, masses and objective go by one name.

    Args:
      function: the name in `fade_jax`, `large_group` and `objectives`.
      keywords: of the advantage.
      masses: keywords of the masses where they differ from those of the advantage.
      objective_of: the same of the objective.
      name: of the picture where it differs.
      **texts: the other fields.
    """
    masses = keywords if masses is None else masses
    objective_of = keywords if objective_of is None else objective_of
    advantage = partial(getattr(fade_jax, function), **keywords)
    return Entry(
        name=name or function,
        call=_call(function, keywords),
        advantage=lambda group_size: advantage,
        masses=partial(getattr(large_group, function), **masses),
        implied_objective=partial(getattr(objectives, function), **objective_of),
        **texts,
    )


def _call(function: str, keywords: Mapping[str, Any]) -> str:
    inside = "".join(f", {key}={value!r}" for key, value in keywords.items())
    return f"fade_jax.{function}(rewards{inside})"


def _constant_baselines() -> tuple[Entry, ...]:
    return (
        _entry(
            "psr",
            title="REINFORCE, PSR",
            formula="A = r",
            ratio="∞",
            weight="1",
            objective="p",
            arxiv="2506.01347",
            note="Pushes successes up and leaves failures alone; most where all is solved.",
        ),
        _entry(
            "nsr",
            title="NSR",
            formula="A = r - 1",
            ratio="0",
            weight="1",
            objective="p",
            arxiv="2506.01347",
            note="The same expected gradient as PSR, all of it taken from failures.",
        ),
        _entry(
            "reinforce",
            {"baseline": 0.3},
            objective_of={},
            title="REINFORCE, b = 0.3",
            formula="A = r - b",
            ratio="p(1-b) / (qb)",
            weight="1",
            objective="p",
            arxiv="",
            note="A constant baseline moves mass from successes to failures and changes no "
            "expectation.",
        ),
        _entry(
            "w_reinforce",
            {"positive_weight": 0.1},
            title="W-REINFORCE, λ = 0.1",
            formula="A = λ of a success, -1 of a failure",
            ratio="λp/q",
            weight="1+λ",
            objective="(1+λ) p",
            arxiv="2506.01347",
            note="In expectation REINFORCE times 1+λ: the sign ratio acts through variance, "
            "clipping and finite steps alone.",
        ),
        _entry(
            "rloo",
            title="RLOO",
            formula="A = G/(G-1) (r - r̄)",
            ratio="1",
            weight="1",
            objective="p",
            arxiv="2402.14740",
            note="Balanced at every p and silent in groups without variance; unbiased for p at "
            "every G.",
        ),
    )


def _group_relative() -> tuple[Entry, ...]:
    grpo = _entry(
        "grpo",
        title="GRPO",
        formula="A = (r - r̄) / (s + ε)",
        ratio="1",
        weight="1/√(pq)",
        objective="2 arcsin √p",
        arxiv="2402.03300",
        note="The standard deviation flattens the mass, so that h grows without bound towards "
        "both ends as G grows.",
    )
    return (
        _entry(
            "dr_grpo",
            title="Dr. GRPO",
            formula="A = r - r̄",
            ratio="1",
            weight="1 - 1/G",
            objective="(1 - 1/G) p",
            arxiv="2503.20783",
            note="RLOO times 1 - 1/G.",
        ),
        grpo,
        Entry(
            name="dapo",
            title="DAPO, kept groups",
            call="fade_jax.grpo(rewards, where=fade_jax.varied_groups(rewards))",
            formula="GRPO's A where 0 < K < G; other groups are dropped and drawn anew",
            ratio="1",
            weight="1/√(pq)",
            objective="2 arcsin √p",
            arxiv="2503.14476",
            note="Masses and h are those of a kept group, GRPO's over 1 - p^G - q^G. That share "
            "cancels in the batch, in which more prompts are drawn where fewer are kept: F is "
            "GRPO's.",
            advantage=grpo.advantage,
            masses=grpo.masses,
            implied_objective=grpo.implied_objective,
            exact=exact_of_kept_groups,
            degenerate="dropped",
        ),
        _entry(
            "f_grpo",
            {"gamma": 1.0},
            title="F-GRPO, γ = 1",
            formula="A = (1 - r̄)^γ (r - r̄) / (s + ε)",
            ratio="1",
            weight="q^γ / √(pq)",
            objective="B(p; ½, γ+½)",
            arxiv="2602.06717",
            note="GRPO leaned towards hard prompts; B is the incomplete beta function.",
        ),
    )


def _focal() -> tuple[Entry, ...]:
    asym = {
        "formula": "A = a if a ≥ 0 else a/δ, with a = r - r̄",
        "ratio": "δ",
        "weight": "q + p/δ",
        "objective": "p - p²/2 + p²/(2δ)",
        "arxiv": "2607.01490",
    }
    power = {
        "formula": "A = (1 - r̄)^{α-1} (r - r̄)",
        "ratio": "1",
        "weight": "q^{α-1}",
        "objective": "pass@α / α",
        "arxiv": "2607.01490",
    }
    fade = {
        "formula": "A = (1 - r̄)^{α-1} (r - r̄), divided by δ where it is negative",
        "ratio": "δ",
        "weight": "q^{α-1} (q + p/δ)",
        "objective": "pass@(α+1)/(α+1) + (pass@α/α - pass@(α+1)/(α+1)) / δ",
        "arxiv": "2607.01490",
    }
    return (
        _entry(
            "asym_grpo",
            {"delta": 0.5},
            name="asym_grpo_half",
            title="AsymGRPO, δ = ½",
            note="Biased to failures. h rises with p: not only the sign, the difficulty moves too.",
            **asym,
        ),
        _entry(
            "asym_grpo",
            {"delta": 2.0},
            name="asym_grpo_two",
            title="AsymGRPO, δ = 2",
            note="Biased to successes, the side on which the paper sees entropy collapse.",
            **asym,
        ),
        _entry(
            "power",
            {"alpha": 2.0},
            name="power_two",
            title="Power, α = 2",
            note="Half of pass@2, with the mass at p = ⅓.",
            **power,
        ),
        _entry(
            "power",
            {"alpha": 3.0},
            name="power_three",
            title="Power, α = 3",
            note="A third of pass@3, with the mass at p = ¼: the hard end of FADE's range.",
            **power,
        ),
        _entry(
            "fade",
            {"alpha": 2.0, "delta": 2.0},
            name="power_asym",
            title="Power-asym(2, 2)",
            note="Focal and biased to successes, one of the paper's static weights; "
            "transforms.power_asym is the same as a transformation.",
            **fade,
        ),
        _entry(
            "fade",
            {"alpha": 1.5, "delta": 0.7},
            name="fade",
            title="FADE at α = 1.5, δ = 0.7",
            note="A moment of FADE: transforms.fade moves α between 3 and 1 with the solve rate "
            "and δ between 1 and 0.3 with the entropy.",
            **fade,
        ),
    )


def _best_of_k() -> tuple[Entry, ...]:
    pkpo = {
        "objective_of": {"k": 4},
        "weight": "k q^{k-1}",
        "objective": "pass@k",
        "arxiv": "2505.15201",
    }
    return (
        _entry(
            "pkpo",
            {"k": 4},
            name="pkpo_loo_minus_one",
            title="PKPO, k = 4",
            formula="A = k C(G-K, k-1) / C(G-1, k-1) of a success, 0 of a failure",
            ratio="∞",
            note="The default baseline, leave one out of k-1: only successes count, and nothing "
            "once fewer than k-1 of the others fail.",
            **pkpo,
        ),
        _entry(
            "pkpo",
            {"k": 4, "baseline": "loo"},
            name="pkpo_loo",
            title="PKPO, k = 4, loo",
            formula="A = G s - Gk/(G-1) times the mean best of k others, s as without baseline",
            ratio="1",
            note="Balanced in a large group. At G = 8 successes of easy prompts are pushed down.",
            **pkpo,
        ),
        _entry(
            "pkpo",
            {"k": 4, "baseline": "none"},
            name="pkpo_none",
            title="PKPO, k = 4, no baseline",
            formula="A = G s; for binary rewards k of a success, k (1 - C(G-1-K, k-1) / "
            "C(G-1, k-1)) of a failure",
            ratio="-p / (q (1 - q^{k-1}))",
            note="Failures are pushed up along with the successes of their subsets, and only the "
            "difference teaches: the same objective at a high price in variance.",
            **pkpo,
        ),
        Entry(
            name="synthesized_pass_at_k",
            title="synthesized pass@4",
            call="fade_jax.synthesis.synthesize(synthesis.pass_at_k(4), group_size)(rewards)",
            formula="A = b_k (G-k) / (G+1) of a success, -b_k (k+1) / (G+1) of a failure, with k "
            "successes among the others and b_k the Bernstein coefficients of h",
            ratio="1",
            weight="4 q³",
            objective="pass@4",
            arxiv="",
            note="Made from its objective: PKPO's gradient, with the split between successes and "
            "failures that has the least variance over uniform solve rates. An all-failed group "
            "still pushes down.",
            advantage=lambda group_size: synthesis.synthesize(synthesis.pass_at_k(4), group_size),
            masses=partial(large_group.pkpo, k=4, baseline="loo"),
            implied_objective=partial(objectives.pkpo, k=4),
        ),
        _entry(
            "pass_at_k_training",
            {"k": 4},
            title="Pass@k Training, k = 4",
            formula="A = (1-R)/σ of a success, (1 - R - C(N-1, k-1) / C(G-1, k-1))/σ of a failure, "
            "with N = G-K, R = 1 - C(N, k)/C(G, k), σ = √(R(1-R))",
            ratio="1",
            weight="q^{k/2-1} / √(1-q^k)",
            objective="(2/k) arcsin √(pass@k)",
            arxiv="2508.10751",
            note="GRPO's standardisation on the level of k-subsets; silent whenever fewer than k "
            "rollouts fail.",
        ),
        _entry(
            "leave_one_out_pass_at_g",
            masses={"group_size": LARGE},
            objective_of={"group_size": LARGE},
            title="leave-one-out pass@G",
            formula="A = the best reward minus the second best, of the best rollout",
            ratio="∞",
            weight="q^{G-1}",
            objective="pass@G / G",
            arxiv="2503.19595",
            note=f"Pays a lone success only. Its mass shrinks like 1/G: large G is {LARGE}.",
        ),
        _entry(
            "max_rl",
            objective_of={"group_size": LARGE},
            title="MaxRL",
            formula="A = (r - r̄) / r̄",
            ratio="1",
            weight="Σ_{k=0}^{G-2} q^k",
            objective="Σ_{k=1}^{G-1} pass@k / k",
            arxiv="2602.02710",
            note=f"On the way to log p, which F reaches as G grows: F of a large group is drawn "
            f"at G = {LARGE}.",
        ),
        _entry(
            "log_mean_exp",
            {"beta": 2.0},
            title="log-mean-exp, β = 2",
            formula="A = (e^{βr} / mean e^{βr} - 1) / β",
            ratio="1",
            weight="κ / (β (1+κp)), κ = e^β - 1",
            objective="log(1+κp) / β",
            arxiv="2509.24261",
            note="Between the mean reward (β → 0) and MaxRL's log p (β → ∞).",
        ),
    )


def _other_baselines() -> tuple[Entry, ...]:
    omega = 0.7
    lengths = {"success_length": 1.0, "failure_length": 2.0}
    return (
        _entry(
            "quantile",
            {"level": 0.4},
            objective_of={},
            title="quantile (QAE), level 0.4",
            formula="A = (r - Q) / (s + ε), Q = sorted(r)[⌈0.4 G⌉ - 1]",
            ratio="∞ to p = 0.6, then 0",
            weight="1/√(pq)",
            objective="2 arcsin √p",
            arxiv="2509.22611",
            note="Either side of the switch only one outcome counts; in expectation it is GRPO.",
        ),
        Entry(
            name="a_grae",
            title="A-GRAE, ω = 0.7",
            call=_call("a_grae", {"omega": omega}),
            formula="A = ½ (ω z/√r̄ + (1-ω) z/√(1-r̄)), times min(1, ω) where positive, z = GRPO's A",
            ratio="min(1, ω)",
            weight="½ (ω√q + (1-ω)√p) (min(1, ω)/p + 1/q)",
            objective="falls to -∞ at p = 0",
            arxiv="2602.05548",
            note=f"At threshold 1. Its mass does not vanish at the ends, so that F has no limit "
            f"with F(0) = 0: F of a large group is drawn at G = {LARGE}.",
            advantage=lambda group_size: partial(fade_jax.a_grae, omega=omega),
            masses=partial(large_group.a_grae, omega=omega),
            implied_objective=lambda p: implied_objective(
                partial(fade_jax.a_grae, omega=omega), p, LARGE
            ),
        ),
        Entry(
            name="opo",
            title="OPO, L_F = 2 L_S",
            call="fade_jax.opo(rewards, lengths=lengths)",
            formula="A = r - Σ L r / Σ L",
            ratio="L_F / L_S",
            weight="1",
            objective="p",
            arxiv="2505.23585",
            note="Assumed: every failure has twice the tokens of a success (L_F / L_S = 2). "
            "Whatever the lengths, a large group ascends p.",
            advantage=lambda group_size: lambda rewards: fade_jax.opo(rewards, lengths=2 - rewards),
            masses=partial(large_group.opo, **lengths),
            implied_objective=objectives.opo,
        ),
    )


def _whole_batch() -> tuple[Entry, ...]:
    mean = 0.25
    deviation = (mean * (1 - mean)) ** 0.5

    def varied_share(group_size: int) -> float:
        return (group_size - 1) / (group_size + 1)

    return (
        Entry(
            name="reinforce_plus_plus",
            title="REINFORCE++, μ = ¼",
            call="fade_jax.reinforce_plus_plus(rewards)",
            formula="A = (r - μ) / σ, μ and σ of the whole batch",
            ratio="p (1-μ) / (qμ)",
            weight="1 / √(μ(1-μ))",
            objective="p / √(μ(1-μ))",
            arxiv="2501.03262",
            note="Assumed: a large batch, whose mean reward stays at μ = ¼. Within a prompt that "
            "is a constant baseline.",
            advantage=lambda group_size: lambda rewards: (rewards - mean) / deviation,
            masses=partial(large_group.reinforce_plus_plus, batch_mean=mean),
            implied_objective=partial(objectives.reinforce_plus_plus, batch_mean=mean),
        ),
        Entry(
            name="gpg",
            title="GPG",
            call="fade_jax.gpg(rewards)",
            formula="A = α_B (r - r̄), α_B = groups / groups with variance",
            ratio="1",
            weight="α_B (1 - 1/G)",
            objective="α_B (1 - 1/G) p",
            arxiv="2504.02546",
            note="Assumed: a large batch with solve rates spread evenly from 0 to 1, in which "
            "α_B = (G+1)/(G-1).",
            advantage=lambda group_size: (
                lambda rewards: fade_jax.dr_grpo(rewards) / varied_share(group_size)
            ),
            masses=large_group.gpg,
            implied_objective=objectives.gpg,
        ),
    )
