from dataclasses import replace

import pytest

from experiments.claims.criteria import axes
from experiments.claims.finding import DOES_NOT, REPRODUCES, UNDECIDED
from tests.experiments.claims.synthetic import Truth

BASE = Truth()


def _cells(**special):
    """All cells alike, but for some."""
    cells = {axes.cell(alpha, delta): BASE for alpha in (1, 2) for delta in axes.DELTAS}
    return cells | {axes.cell(*map(float, k.split("_")[1:])): t for k, t in special.items()}


def _delta(sweep, **special):
    return {"delta": sweep("delta", _cells(**special), noise=0.0)}


@pytest.mark.parametrize(
    ("truth", "verdict"),
    [
        (replace(BASE, entropy=0.2, share=0.6), REPRODUCES),
        (replace(BASE, entropy=0.2), UNDECIDED),
        (replace(BASE, entropy=0.9), DOES_NOT),
    ],
)
def test_delta_claim_1(sweep, truth, verdict):
    assert axes.delta_success_bias(_delta(sweep, c_1_2=truth)).verdict == verdict


@pytest.mark.parametrize(
    ("truth", "verdict"),
    [
        (replace(BASE, speed=2, rank=0.8), REPRODUCES),
        (replace(BASE, rank=0.8), UNDECIDED),
        (replace(BASE, speed=2, rank=0.2), DOES_NOT),
    ],
)
def test_delta_claim_2(sweep, truth, verdict):
    assert axes.delta_failure_bias(_delta(sweep, **{"c_1_0.5": truth})).verdict == verdict


def test_delta_claim_4(sweep):
    wide, narrow = replace(BASE, share=0.95, rate=0.3), replace(BASE, rate=0.9)
    found = axes.exploration(_delta(sweep, c_2_1=wide, **{"c_1_0.5": narrow}))
    assert found.verdict == REPRODUCES
    assert "pass@100 has α = 2, δ = 1, the best pass@1 α = 1, δ = 0.5" in found.sentence
    assert found.figures[1].estimate.value == pytest.approx(0.9 * 0.8 - 0.3 * 0.95, abs=0.03)


def test_delta_claim_4_fails_where_another_cell_is_ahead(sweep):
    wide, narrow = replace(BASE, share=0.95, rate=0.3), replace(BASE, rate=0.9)
    assert axes.exploration(_delta(sweep, c_1_2=wide, c_2_2=narrow)).verdict == DOES_NOT


def _alpha(sweep, **special):
    names = [
        f"{start}-power{alpha:g}" for start in ("start140", "start280") for alpha in axes.ALPHAS
    ]
    truths = dict.fromkeys(names, BASE) | {k.replace("_", "-"): t for k, t in special.items()}
    return {"alpha": sweep("alpha", truths, noise=0.0)}


def test_alpha_claim_3(sweep):
    better = replace(BASE, rate=0.8)
    apart = axes.best_focus(_alpha(sweep, start140_power3=better, start280_power2=better))
    assert apart.verdict == REPRODUCES
    assert "α is 3 from 140 supervised steps and 2 from 280" in apart.sentence


def test_alpha_claim_3_fails_where_one_alpha_is_best_from_both(sweep):
    better = replace(BASE, rate=0.8)
    same = axes.best_focus(_alpha(sweep, start140_power3=better, start280_power3=better))
    assert same.verdict == DOES_NOT


def _target(sweep, half, first_of_quarter=90):
    """δ leaves 1 the earlier the higher the target; initial entropy 1.3."""
    firsts = {0.25: first_of_quarter, 0.5: 70, 0.75: 40, 1.0: 10}
    truths = {
        f"fraction{x:g}": replace(
            half if x == 0.5 else BASE, suppressed=s, advantage=("fade", {"target_fraction": x})
        )
        for x, s in firsts.items()
    }
    truths |= {
        f"nats{x:g}": replace(BASE, suppressed=s, advantage=("fade", {"target_entropy": x}))
        for x, s in {0.5: 80, 1.0: 30, 1.3: 10}.items()
    }
    return {"target_entropy": sweep("target_entropy", truths, noise=0.0)}


def test_the_target_entropy(sweep):
    study = _target(sweep, replace(BASE, rate=0.7))
    assert axes.half_target(study).verdict == REPRODUCES
    assert axes.earlier_bias(study).verdict == REPRODUCES


def test_the_target_entropy_otherwise(sweep):
    study = _target(sweep, replace(BASE, rate=0.2), first_of_quarter=5)
    assert axes.half_target(study).verdict == DOES_NOT
    assert axes.earlier_bias(study).verdict == DOES_NOT
