from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from experiments.claims.criteria import isolate_delta
from experiments.claims.finding import DOES_NOT, NOT_RUN, REPRODUCES, UNDECIDED
from experiments.claims.study import decide
from tests.experiments.claims.synthetic import Truth

BASE = Truth(rate=0.6)
FAR = replace(BASE, share=0.3, rate=1.0)  # half the prompts, and a lower pass@1


def _study(sweep, **special):
    """Every method of every arm like RLOO, but for some."""
    names = [f"{arm}-{m}" for arm in isolate_delta.ARMS for m in ("rloo", "nsr", "reinforce")]
    names += [f"{arm}-asym{delta}" for arm in isolate_delta.ARMS for delta in ("0.5", "2")]
    truths = dict.fromkeys(names, BASE) | {k.replace("__", "-"): t for k, t in special.items()}
    return {"isolate_delta": sweep("isolate_delta", truths, seeds=range(3), noise=0.0)}


def test_d_is_the_difference_of_pass_at_100_at_20_per_cent(sweep):
    study = _study(sweep, adam__reinforce=FAR)
    data = study["isolate_delta"]
    levels = []
    for name in ("adam-reinforce", "adam-rloo"):
        lines = data.methods[name][0].evaluations
        ones, hundreds = ([line[f"eval/pass@{k}"] for line in lines] for k in (1, 100))
        levels.append(np.interp(0.2, ones, hundreds))
    found = isolate_delta.gap(study, "adam", "reinforce", "D").estimate
    assert found.value == pytest.approx(levels[0] - levels[1], abs=2e-3)
    assert found.high < 0


def test_the_ratio_matters_where_d_excludes_0(sweep):
    assert isolate_delta.beyond_h(_study(sweep, adam__reinforce=FAR), "D").verdict == REPRODUCES
    assert isolate_delta.beyond_h(_study(sweep), "D").verdict == UNDECIDED


def test_a_cause_that_is_taken_out(sweep):
    study = _study(sweep, adam__reinforce=FAR)
    found = isolate_delta.taken_out(study, "sgd", "adam", "D")
    assert found.verdict == REPRODUCES
    assert "whole cause of D of reinforce" in found.sentence
    other = _study(sweep, sgd__reinforce=FAR)
    assert isolate_delta.taken_out(other, "sgd", "adam", "D").verdict == DOES_NOT


def test_a_cause_that_is_put_in(sweep):
    assert (
        isolate_delta.put_in(_study(sweep, reuse__nsr=FAR), "reuse", "adam", "D").verdict
        == REPRODUCES
    )
    assert isolate_delta.put_in(_study(sweep), "reuse", "adam", "D").verdict == UNDECIDED


def test_a_method_that_misses_the_level_leaves_the_arm_undecided(sweep):
    study = _study(sweep, sgd__reinforce=replace(BASE, rate=0.2), sgd__nsr=replace(BASE, rate=0.2))
    found = isolate_delta.taken_out(study, "sgd", "adam", "D")
    assert found.verdict == UNDECIDED
    assert "not reached by sgd-reinforce in 3 seeds; sgd-nsr in 3 seeds" in found.sentence


def test_asym_grpo_through_h_alone(sweep):
    lower = {f"{arm}__asym{d}": FAR for arm in isolate_delta.ARMS for d in ("0.5", "2")}
    assert isolate_delta.through_h(_study(sweep, **lower)).verdict == REPRODUCES
    assert isolate_delta.through_h(_study(sweep)).verdict == UNDECIDED
    turned = lower | {"clip__asym2": replace(BASE, share=0.95, rate=0.51)}
    assert isolate_delta.through_h(_study(sweep, **turned)).verdict == DOES_NOT


def test_three_seeds_are_enough_and_two_are_not(sweep):
    assert decide(partial(isolate_delta.beyond_h, reading="D"), _study(sweep)).verdict != NOT_RUN
    data = sweep(
        "short", dict.fromkeys(("adam-rloo", "adam-nsr", "adam-reinforce"), BASE), seeds=(0, 1)
    )
    assert (
        decide(partial(isolate_delta.beyond_h, reading="D"), {"isolate_delta": data}).verdict
        == NOT_RUN
    )


def test_e_is_the_share_of_the_gain_of_rloo_that_a_method_lacks(sweep):
    # From 0.95 * 0.11 to 0.8 * 0.6 for RLOO; NSR gains a half of that.
    start, gain = 0.95 * 0.11, 0.8 * 0.6 - 0.95 * 0.11
    half = replace(BASE, rate=(start + gain / 2) / 0.8)
    study = _study(sweep, adam__nsr=half, batch__nsr=BASE)
    found = isolate_delta.gap(study, "adam", "nsr", "E").estimate
    assert found.value == pytest.approx(-0.5, abs=0.06)  # of 64 prompts x 128 samples
    assert found.high < 0
    assert isolate_delta.beyond_h(study, "E").verdict == REPRODUCES
    assert isolate_delta.taken_out(study, "batch", "adam", "E").verdict == REPRODUCES
    assert isolate_delta.taken_out(study, "sgd", "adam", "E").verdict == REPRODUCES
    assert isolate_delta.put_in(study, "clip", "reuse", "E").verdict == UNDECIDED


def test_e_of_a_method_that_loses_what_it_had_is_below_minus_1(sweep):
    study = _study(sweep, adam__nsr=replace(BASE, rate=0.01))
    found = isolate_delta.gap(study, "adam", "nsr", "E").estimate
    assert found.value == pytest.approx((0.8 * 0.01 - 0.1045) / (0.48 - 0.1045) - 1, abs=0.05)
    assert np.isnan(isolate_delta.gap(study, "adam", "nsr", "D").estimate.value)


def test_e_has_no_value_where_rloo_gains_nothing(sweep):
    lost = replace(BASE, rate=0.01)
    study = _study(sweep, reuse__rloo=lost, reuse__nsr=replace(BASE, rate=0.005))
    assert np.isnan(isolate_delta.gap(study, "reuse", "nsr", "E").estimate.value)
    for found in (
        isolate_delta.put_in(study, "reuse", "adam", "E"),
        isolate_delta.put_in(study, "clip", "reuse", "E"),
    ):
        assert found.verdict == UNDECIDED
        assert "RLOO gains nothing in arm reuse: no E there." in found.sentence
    assert "no E there" not in isolate_delta.put_in(study, "clip", "adam", "E").sentence
