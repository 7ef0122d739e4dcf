from dataclasses import replace

import pytest

from experiments.claims.criteria import carry_over, orders
from experiments.claims.finding import DOES_NOT, REPRODUCES, UNDECIDED
from experiments.claims.study import decide
from tests.experiments.claims.synthetic import Truth

BASE = Truth()
GOOD, BAD = replace(BASE, rate=0.8), replace(BASE, rate=0.3)


def _arms(sweep, name, settings, **special):
    truths = {f"{s}-{m}": BASE for s in settings for m in ("grpo_no_std", "asym0.5")}
    truths |= {k.replace("__", "-").replace("asym05", "asym0.5"): t for k, t in special.items()}
    return {name: sweep(name, truths, noise=0.0)}


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [(GOOD, BAD, REPRODUCES), (GOOD, GOOD, DOES_NOT), (BASE, GOOD, UNDECIDED)],
)
def test_an_order_that_turns(sweep, first, second, verdict):
    special = {"epochs1__asym05": first, "epochs4__asym05": second}
    study = _arms(sweep, "reuse", ("epochs1", "epochs4"), **special)
    assert orders.reuse(study).verdict == verdict
    special = {"start1__asym05": first, "start4__asym05": second}
    study = _arms(sweep, "countdown_starts", ("start1", "start4"), **special)
    assert orders.starts(study).verdict == verdict


def test_each_optimiser_at_its_best_rate(sweep):
    settings = ("adam-lr1", "adam-lr2", "sgd-lr1")
    special = {"adam-lr2-asym0.5": GOOD, "sgd-lr1-asym0.5": BAD}
    found = orders.optimizer(_arms(sweep, "optimizer", settings, **special))
    assert found.verdict == REPRODUCES
    assert any("adam-lr2-asym0.5" in figure.label for figure in found.figures)
    assert not any("adam-lr1-asym0.5" in figure.label for figure in found.figures)


def test_methods_at_their_best_rates(sweep):
    study = _arms(sweep, "learning_rate", ("lr1", "lr2"), lr1__asym05=GOOD)
    assert orders.learning_rate(study).verdict == REPRODUCES
    study = _arms(sweep, "learning_rate", ("lr3", "lr4"))
    assert orders.learning_rate({"learning_rate": study["learning_rate"]}).verdict == UNDECIDED


def test_a_lag_that_one_method_bears(sweep):
    study = _arms(sweep, "staleness", ("lag0", "lag4"), lag4__asym05=BAD)
    found = orders.staleness(study)
    assert found.verdict == REPRODUCES
    assert "lag4" in found.sentence


def test_lags_that_both_bear(sweep):
    assert orders.staleness(_arms(sweep, "staleness", ("lag0", "lag4"))).verdict == DOES_NOT


@pytest.mark.parametrize(
    ("entropy", "verdict"), [(0.9, REPRODUCES), (0.6, UNDECIDED), (0.2, DOES_NOT)]
)
def test_clip_higher(sweep, entropy, verdict):
    high = replace(BASE, entropy=entropy)
    special = {"clip_high0.28-grpo_no_std": high, "clip_high0.28-asym0.5": high}
    study = _arms(sweep, "clip_higher", ("clip_high0.2", "clip_high0.28"), **special)
    assert orders.clip_higher(study).verdict == verdict


def test_scale(sweep):
    settings = [f"{o}-lr1-{kind}" for o in ("adam", "sgd") for kind in ("raw", "equal")]
    study = _arms(sweep, "scale", settings, **{"sgd-lr1-raw-asym0.5": GOOD})
    assert orders.scale_of_differences(study).verdict == REPRODUCES
    assert orders.scale_hidden_by_adam(study).verdict == REPRODUCES


def test_scale_otherwise(sweep):
    settings = [f"{o}-lr1-{kind}" for o in ("adam", "sgd") for kind in ("raw", "equal")]
    special = {f"{s}-asym0.5": GOOD for s in settings[2:]} | {"adam-lr1-raw-asym0.5": GOOD}
    study = _arms(sweep, "scale", settings, **special)
    assert orders.scale_of_differences(study).verdict == DOES_NOT
    assert orders.scale_hidden_by_adam(study).verdict == DOES_NOT


@pytest.mark.parametrize(
    ("there", "verdict"), [(GOOD, REPRODUCES), (BASE, UNDECIDED), (BAD, DOES_NOT)]
)
def test_what_carries_over_to_countdown(sweep, there, verdict):
    truths = dict.fromkeys(carry_over.METHODS, BASE)
    study = {
        "core": sweep("core", truths | {"fade": GOOD}, noise=0.0),
        "countdown": sweep("countdown", truths | {"fade": there}, noise=0.0, task="countdown"),
    }
    found = carry_over.core(study)
    assert found.verdict == verdict
    assert "Of 6 differences" in found.sentence  # of FADE to the six others, in pass@1


def test_what_carries_over_of_every_method_that_countdown_has(sweep):
    truths = {"grpo_no_std": BASE, "nsr": GOOD}
    study = {"methods": sweep("methods", truths | {"psr": BASE}, noise=0.0)}
    assert decide(carry_over.every_method, study).sentence == "Sweep countdown: not run."
    study["countdown"] = sweep("countdown", truths, noise=0.0, task="countdown")
    found = carry_over.every_method(study)
    assert found.verdict == REPRODUCES
    assert {figure.label.split(",")[0] for figure in found.figures} == {"grpo_no_std − nsr"}
