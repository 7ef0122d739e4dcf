"""The rows of the page: every claim of the paper and every ablation, with its criterion."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from experiments.claims.criteria import (
    axes,
    beyond,
    carry_over,
    isolate_delta,
    orders,
    static_weights,
)
from experiments.claims.finding import Finding
from experiments.claims.study import Study

ABLATIONS = {
    "fade_no_focal": "without the focus α",
    "fade_no_suppression": "without the suppression δ",
    "fade_from_entropy": "with α and δ both from the entropy",
    "fade_log_decay": "with α and δ by a clock instead of feedback",
    "fade_rate0.98": "with averages that keep 2% of the past instead of 98%",
}


@dataclass(frozen=True)
class Claim:
    """A row.

    Attributes:
      group: rows of one group share a picture of this name: claim1 to claim6, and our questions.
      statement: the claim in our words.
      sweep: that it is read from.
      criterion: of the docstring of the sweep's config file.
      decide: the criterion as a function.
    """

    group: str
    statement: str
    sweep: str
    criterion: str
    decide: Callable[[Study], Finding]


TITLES = {
    "claim1": "Claim 1: success-biased weights collapse entropy and pass@100",
    "claim2": "Claim 2: failure-biased weights learn fast early, at a rank close to 1",
    "claim3": "Claim 3: hard focus sharpens the signal; the best α depends on the solve rates",
    "claim4": "Claim 4: exploration wants balance and hard focus, exploitation suppression",
    "claim5": "Claim 5: FADE is earlier and has the best trade-off",
    "claim6": "Claim 6: each ablation of FADE is worse",
    "target": "FADE's target entropy",
    "isolate": "Why the sign ratio matters although h says it should not",
    "carry": "From the graph task to countdown",
    "beyond": "Beyond the paper: a shrinkage baseline, and a schedule of objectives",
    "settings": "Start, group size, rate, optimiser, reuse, staleness, clip and scale",
}

_SUCCESS = (
    "{} each end with less entropy and less pass@100 than GRPO without std, every interval of the "
    "differences excluding 0; fails if one excludes it on the other side."
)
_FAILURE = (
    "AsymGRPO(0.5) has more pass@1 than GRPO without std at step 50 (arithmetic: 25) and a larger "
    "rank-one fraction of the head's update at the end, both intervals excluding 0; fails if one "
    "excludes it on the other side."
)
_FIRST = (
    "FADE's first evaluation at or above the final pass@1 of the best of GRPO without std, "
    "AsymGRPO and Power comes earlier than that method's own in every seed, and its final pass@1, "
    "pass@10 and pass@100 are each within the interval of the best of them or above."
)
_ABLATION = (
    "Its final pass@1 or pass@100 is below FADE's, the interval excluding 0, and neither is above "
    "so."
)


def _success(sweep: str) -> Callable[[Study], Finding]:
    return lambda study: static_weights.success_bias(study, sweep, ("reinforce", "asym2"))


def _methods_success(study: Study) -> Finding:
    planned = study["methods"].methods if "methods" in study else ()
    pkpo = next((name for name in planned if name.startswith("pkpo")), "pkpo")
    return static_weights.success_bias(study, "methods", ("reinforce", "psr", pkpo, "asym2"))


def _failure(sweep: str) -> Callable[[Study], Finding]:
    return lambda study: static_weights.failure_bias(study, sweep)


def _first(sweep: str, fade: str) -> Callable[[Study], Finding]:
    return lambda study: static_weights.fade_first(study, sweep, fade)


def _ablation(name: str) -> Callable[[Study], Finding]:
    return lambda study: static_weights.ablation(study, "core", "fade", name)


def _causes(reading: str, what: str) -> list[Claim]:
    """The rows of isolate_delta for one reading of its arms."""

    def cause(name: str, text: str, arm: str, reference: str, *, put_in: bool) -> Claim:
        change = isolate_delta.put_in if put_in else isolate_delta.taken_out
        moves = (
            f"put in, takes |{reading}| farther from"
            if put_in
            else f"taken out, brings |{reading}| nearer to"
        )
        return Claim(
            "isolate",
            f"{name} a cause of what it does to {what}.",
            "isolate_delta",
            f"{text}, {moves} 0 for REINFORCE or NSR (arm {arm} against {reference}), the interval "
            "of the change excluding 0.",
            lambda study: change(study, arm, reference, reading),
        )

    return [
        Claim(
            "isolate",
            f"The sign ratio matters beyond h to {what}.",
            "isolate_delta",
            f"In arm adam the interval of {reading} of REINFORCE or NSR excludes 0. "
            f"{_READINGS[reading]} All three have h = 1.",
            lambda study: isolate_delta.beyond_h(study, reading),
        ),
        cause("The gradient's noise is", "Noise", "batch", "adam", put_in=False),
        cause("Adam is", "Adam", "sgd", "adam", put_in=False),
        cause("Finite steps are", "Finite steps", "sgd_small", "sgd", put_in=False),
        cause("Reuse is", "Reuse", "reuse", "adam", put_in=True),
        cause("Clipping is", "Clipping", "clip", "reuse", put_in=True),
        cause("Reuse with clipping is", "Both together", "clip", "adam", put_in=True),
    ]


_READINGS = {
    "D": f"D: pass@100 minus that of RLOO, both where pass@1 first reaches "
    f"{100 * isolate_delta.LEVEL:g}%.",
    "E": "E: the gain in pass@1 over the arm by that of RLOO, minus 1; no value where RLOO gains "
    "nothing for sure.",
}
_SIGN = "Success-biased weights collapse entropy and pass@100."
_RANK = "Failure-biased weights learn fast early; the head's update stays close to rank 1."
_FOCUS = "Hard focus sharpens the signal and costs effective sample size."
_FADE = "FADE reaches the best pass@1 earlier than the best static weight, with the best trade-off."

CLAIMS: tuple[Claim, ...] = (
    Claim("claim1", _SIGN, "core", _SUCCESS.format("REINFORCE and AsymGRPO(2)"), _success("core")),
    Claim(
        "claim1",
        _SIGN,
        "methods",
        _SUCCESS.format("REINFORCE = PSR, PKPO and AsymGRPO(2)"),
        _methods_success,
    ),
    Claim(
        "claim1",
        _SIGN,
        "delta",
        "At α = 1 entropy and pass@100 both end lower at δ = 2 than at δ = 1, the intervals of the "
        "differences excluding 0.",
        axes.delta_success_bias,
    ),
    Claim(
        "claim1",
        f"{_SIGN} On a pre-trained model.",
        "arithmetic",
        _SUCCESS.format("REINFORCE and AsymGRPO(2)"),
        _success("arithmetic"),
    ),
    Claim("claim2", _RANK, "core", _FAILURE, _failure("core")),
    Claim(
        "claim2",
        _RANK,
        "delta",
        "At α = 1, pass@1 at the first evaluation after the start is higher at δ = 0.5 than at "
        "δ = 1, the interval excluding 0, and the final rank-one fraction is higher in every seed.",
        axes.delta_failure_bias,
    ),
    Claim(
        "claim2", f"{_RANK} On a pre-trained model.", "arithmetic", _FAILURE, _failure("arithmetic")
    ),
    Claim(
        "claim3",
        _FOCUS,
        "core",
        "Read from pass@100 at matched pass@1 of Power(2) and Power(3) against GRPO without std, "
        "and from their final pass@1.",
        lambda study: static_weights.hard_focus(study, "core"),
    ),
    Claim(
        "claim3",
        "The best α depends on the distribution of solve rates.",
        "alpha",
        "The α of the best mean final pass@1 differs between the two warm starts, and the interval "
        "of the difference between the two α excludes 0 at one of the starts.",
        axes.best_focus,
    ),
    Claim(
        "claim4",
        "Exploration wants balance and hard focus; exploitation suppression and medium focus.",
        "delta",
        "The cell with the best final pass@100 has α = 2, δ = 1 and the one with the best pass@1 "
        "has δ < 1, each ahead of the other cell by an interval that excludes 0.",
        axes.exploration,
    ),
    Claim("claim5", _FADE, "core", _FIRST, _first("core", "fade")),
    Claim(
        "claim5",
        f"{_FADE} On a pre-trained model, H* half the initial entropy.",
        "arithmetic",
        _FIRST,
        _first("arithmetic", "fade0.5"),
    ),
    Claim(
        "claim5",
        f"{_FADE} On a pre-trained model, H* a quarter of the initial entropy.",
        "arithmetic",
        _FIRST,
        _first("arithmetic", "fade0.25"),
    ),
    *(
        Claim("claim6", f"FADE {what} is worse than FADE.", "core", _ABLATION, _ablation(name))
        for name, what in ABLATIONS.items()
    ),
    Claim(
        "target",
        "H* at about half the initial entropy is best.",
        "target_entropy",
        "No other fraction has a final pass@1 or pass@100 above that of 0.5, the interval of the "
        "difference excluding 0.",
        axes.half_target,
    ),
    Claim(
        "target",
        "A higher H* means an earlier bias to failures.",
        "target_entropy",
        "The first step with δ < 1 does not grow with H* in any seed.",
        axes.earlier_bias,
    ),
    *_causes("D", "pass@100 at equal pass@1"),
    *_causes("E", "the gain in pass@1"),
    Claim(
        "isolate",
        "AsymGRPO's δ acts through h alone.",
        "isolate_delta",
        "Its D keeps its sign, its interval excluding 0, in the arms where those of REINFORCE and "
        "NSR include 0.",
        isolate_delta.through_h,
    ),
    Claim(
        "carry",
        "What the core sweep shows of two methods holds on another task.",
        "countdown",
        "The interval of the same difference excludes 0 on countdown with the same sign.",
        carry_over.core,
    ),
    Claim(
        "carry",
        "What the methods sweep shows of two methods holds on another task.",
        "countdown",
        "The interval of the same difference excludes 0 on countdown with the same sign.",
        carry_over.every_method,
    ),
    *(
        Claim(
            "beyond",
            f"The shrinkage baseline beats {name} at equal compute.",
            "beyond",
            f"Its final pass@1 is above that of {name}, the interval excluding 0, and its final "
            "pass@100 is not below so.",
            partial(beyond.shrinkage_beats, other=other),
        )
        for name, other in (("RLOO", "rloo"), ("GRPO", "grpo"))
    ),
    Claim(
        "beyond",
        "A schedule from pass@3 down to pass@1 matches FADE.",
        "beyond",
        "Neither its final pass@1 nor its final pass@100 is below FADE's by an interval that "
        "excludes 0.",
        beyond.schedule_matches,
    ),
    Claim(
        "beyond",
        "A schedule from pass@3 down to pass@1 beats FADE.",
        "beyond",
        "It matches FADE, and its final pass@1 or pass@100 is above by an interval that excludes "
        "0.",
        beyond.schedule_beats,
    ),
    Claim(
        "settings",
        "The order of two methods on countdown depends on where RL starts.",
        "countdown_starts",
        "The intervals of their difference in final pass@1, or pass@100, exclude 0 with different "
        "signs from two warm starts, one of four times the steps.",
        orders.starts,
    ),
    Claim(
        "settings",
        "The order of two methods depends on the group size.",
        "group_size",
        "The intervals of their difference in final pass@1, or pass@100, exclude 0 at two sizes "
        "with different signs.",
        orders.group_size,
    ),
    Claim(
        "settings",
        "Methods differ where each has its own best learning rate.",
        "learning_rate",
        "The interval of a difference in final pass@1, or pass@100, excludes 0 when each method "
        "has the rate that is best for its mean pass@1.",
        orders.learning_rate,
    ),
    Claim(
        "settings",
        "The order of two methods depends on the optimiser.",
        "optimizer",
        "The intervals of their difference in final pass@1, or pass@100, exclude 0 with different "
        "signs under Adam and SGD, each at the best rate of the method.",
        orders.optimizer,
    ),
    Claim(
        "settings",
        "Reuse of a batch changes the order of two methods.",
        "reuse",
        "The intervals of their difference in final pass@1, or pass@100, exclude 0 with different "
        "signs with and without reuse.",
        orders.reuse,
    ),
    Claim(
        "settings",
        "The sign ratio matters off-policy.",
        "staleness",
        "Of AsymGRPO(0.5) and GRPO without std one bears a lag that the other does not; a lag is "
        "borne if final pass@1 is not below that without it by an interval that excludes 0.",
        orders.staleness,
    ),
    Claim(
        "settings",
        "Clip-higher keeps entropy where batches are reused.",
        "clip_higher",
        "The final entropy is higher at an upper bound of 0.28 than at 0.2, the interval excluding "
        "0, for each method.",
        orders.clip_higher,
    ),
    Claim(
        "settings",
        "Differences between methods under SGD are ones of scale.",
        "scale",
        "Some difference in final pass@1, or pass@100, excludes 0 raw and includes 0 equalised.",
        orders.scale_of_differences,
    ),
    Claim(
        "settings",
        "Adam hides the scale.",
        "scale",
        "Under Adam no method's raw and equalised runs differ in final pass@1, or pass@100, by an "
        "interval that excludes 0.",
        orders.scale_hidden_by_adam,
    ),
)
