"""Every criterion of the core sweep, on sweeps whose truth is on one side, the other, or neither."""

from dataclasses import replace

import pytest

from experiments.claims.criteria import static_weights
from experiments.claims.finding import DOES_NOT, NOT_RUN, REPRODUCES, UNDECIDED
from experiments.claims.study import decide
from tests.experiments.claims.synthetic import Truth

BASE = Truth()
WORSE = replace(BASE, entropy=0.3, share=0.6)


def _core(sweep, **truths):
    names = {"asym05": "asym0.5"}
    return {"core": sweep("core", {names.get(m, m): t for m, t in truths.items()}, noise=0.0)}


@pytest.mark.parametrize(
    ("reinforce", "verdict"),
    [
        (WORSE, REPRODUCES),
        (replace(BASE, entropy=0.3), UNDECIDED),  # loses entropy, not pass@100
        (replace(BASE, entropy=0.9, share=0.6), DOES_NOT),  # keeps more entropy
        (replace(BASE, entropy=0.3, share=0.95), DOES_NOT),  # gains pass@100
    ],
)
def test_claim_1(sweep, reinforce, verdict):
    study = _core(sweep, grpo_no_std=BASE, reinforce=reinforce, asym2=WORSE)
    found = static_weights.success_bias(study, "core", ("reinforce", "asym2"))
    assert found.verdict == verdict
    entropy, diversity = found.figures[2:]  # of asym2
    assert entropy.estimate.value == pytest.approx(-0.3)
    assert diversity.estimate.value == pytest.approx(-0.2, abs=0.02)  # shares of 64 prompts


@pytest.mark.parametrize(
    ("speed", "rank", "verdict"),
    [(1.6, 0.7, REPRODUCES), (1.6, 0.4, UNDECIDED), (0.5, 0.7, DOES_NOT), (1.6, 0.2, DOES_NOT)],
)
def test_claim_2(sweep, speed, rank, verdict):
    biased = replace(BASE, speed=speed, rank=rank)
    found = static_weights.failure_bias(_core(sweep, grpo_no_std=BASE, asym05=biased), "core")
    assert found.verdict == verdict
    assert "step 50" in found.figures[0].label
    end = 0.1 + min(speed, 1) * (rank - 0.1)
    assert found.figures[1].estimate.value == pytest.approx(end - 0.4)


@pytest.mark.parametrize(("share", "verdict"), [(0.93, REPRODUCES), (0.6, DOES_NOT)])
def test_claim_3(sweep, share, verdict):
    # Both pass 35.3% of pass@1 on their way; the one of larger share with more of the prompts.
    base, power = replace(BASE, rate=0.7), replace(BASE, share=share, rate=0.7)
    found = static_weights.hard_focus(
        _core(sweep, grpo_no_std=base, power2=power, power3=power), "core"
    )
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("fade", "verdict"),
    [
        (replace(BASE, rate=0.6, speed=2), REPRODUCES),
        (replace(BASE, rate=0.3), DOES_NOT),  # never reaches it
        (replace(BASE, rate=0.9, share=0.5), DOES_NOT),  # early, at the cost of pass@100
    ],
)
def test_claim_5(sweep, fade, verdict):
    study = _core(sweep, grpo_no_std=BASE, power2=replace(BASE, rate=0.4), fade=fade)
    found = static_weights.fade_first(study, "core", "fade")
    assert found.verdict == verdict
    assert "in pass@1 is grpo_no_std" in found.sentence


@pytest.mark.parametrize(
    ("ablation", "verdict"),
    [
        (replace(BASE, rate=0.3), REPRODUCES),
        (replace(BASE, share=0.6, rate=0.5 * 0.8 / 0.6), REPRODUCES),  # pass@100 alone
        (BASE, UNDECIDED),
        (replace(BASE, rate=0.7), DOES_NOT),
        (replace(BASE, share=0.6, rate=0.95), DOES_NOT),  # below in one, above in the other
    ],
)
def test_claim_6(sweep, ablation, verdict):
    study = _core(sweep, fade=BASE, fade_no_focal=ablation)
    assert static_weights.ablation(study, "core", "fade", "fade_no_focal").verdict == verdict


def test_a_sweep_without_five_seeds_is_not_run_and_says_what_there_is(sweep):
    data = sweep("core", {"fade": BASE, "other": BASE}, unfinished=("other-seed3",))
    found = decide(lambda s: static_weights.ablation(s, "core", "fade", "other"), {"core": data})
    assert found.verdict == NOT_RUN
    assert "4 of the 5 seeds" in found.sentence
    assert "4: other; 5: fade" in found.sentence


def test_an_absent_sweep_is_not_run():
    found = decide(lambda s: static_weights.failure_bias(s, "core"), {})
    assert (found.verdict, found.sentence) == (NOT_RUN, "Sweep core: not run.")
