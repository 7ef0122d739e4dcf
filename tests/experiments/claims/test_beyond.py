"""The criteria beyond the paper, on sweeps whose truth is on one side, the other, or neither."""

from dataclasses import replace

import pytest

from experiments.claims.criteria import beyond
from experiments.claims.finding import DOES_NOT, NOT_RUN, REPRODUCES, UNDECIDED
from experiments.claims.study import decide
from tests.experiments.claims.synthetic import Truth

BASE = Truth()
# pass@1 is share * rate, pass@100 about share.
MORE_OF_ONE = replace(BASE, rate=0.8)
MORE_OF_BOTH = replace(BASE, share=0.95)
LESS_OF_MANY = replace(BASE, share=0.5, rate=0.95)


def _study(sweep, **truths):
    return {"beyond": sweep("beyond", truths, noise=0.0)}


@pytest.mark.parametrize(
    ("truth", "verdict"),
    [
        (MORE_OF_ONE, REPRODUCES),
        (MORE_OF_BOTH, REPRODUCES),
        (LESS_OF_MANY, DOES_NOT),
        (BASE, UNDECIDED),
    ],
)
def test_shrinkage(sweep, truth, verdict):
    study = _study(sweep, shrinkage=truth, rloo=BASE)
    assert beyond.shrinkage_beats(study, "rloo").verdict == verdict


@pytest.mark.parametrize(
    ("truth", "matches", "beats"),
    [
        (BASE, REPRODUCES, UNDECIDED),
        (MORE_OF_BOTH, REPRODUCES, REPRODUCES),
        (LESS_OF_MANY, DOES_NOT, DOES_NOT),
    ],
)
def test_schedule(sweep, truth, matches, beats):
    study = _study(sweep, scheduled_pass_at_k=truth, fade=BASE)
    assert beyond.schedule_matches(study).verdict == matches
    assert beyond.schedule_beats(study).verdict == beats


def test_a_method_that_is_missing_leaves_it_not_run(sweep):
    study = _study(sweep, shrinkage=BASE, fade=BASE)
    assert decide(beyond.schedule_matches, study).verdict == NOT_RUN
    assert decide(beyond.schedule_matches, {}).verdict == NOT_RUN
