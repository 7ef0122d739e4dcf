"""Solve rates under the expected gradient, against closed forms and enumeration."""

import itertools

import numpy as np
import pytest

from fade_jax import transforms
from fade_jax.dynamics import simulate
from fade_jax.transforms import stateless

GROUP, STEPS = 4, 60
SOLVE_RATES = np.array([0.02, 0.1, 0.3, 0.7])
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])


def path_of(transformation, p=SOLVE_RATES, w=WEIGHTS, **changed):
    settings = {"group_size": GROUP, "step_size": 0.05, "steps": STEPS} | changed
    return simulate(transformation, p, w, **settings)


def clock(p):
    """τ(p) with dτ = dp/(pq)², so that h = 1 moves every prompt by the same τ."""
    return -1 / p + 1 / (1 - p) + 2 * np.log(p / (1 - p))


def test_simulate_one_prompt():
    path = path_of(transforms.nsr(), np.array([0.1]), np.ones(1))
    logit = np.log(0.1 / 0.9) + 0.05 * np.arange(STEPS + 1)
    p = 1 / (1 + np.exp(-logit))
    np.testing.assert_allclose(path.pass_at_1, p, rtol=1e-4)
    np.testing.assert_allclose(path.pass_at_100, 1 - (1 - p) ** 100, rtol=1e-4)
    np.testing.assert_array_equal(path.solved_share, p > 0.5)


def test_simulate_equal_weight():
    """Two prompts: from pass@1 alone the closed form gives both solve rates, so pass@100 too."""
    start, w = np.array([0.05, 0.4]), np.array([0.5, 0.5])
    path = path_of(transforms.reinforce(), start, w, step_size=0.002, steps=600)
    mean = float(path.pass_at_1[-1])
    low, high = start[0], min(2 * mean - start[1], 0.999)
    for _ in range(60):  # the p of the first prompt at which both clocks have moved alike
        first = (low + high) / 2
        moved = clock(np.array([first, 2 * mean - first])) - clock(start)
        low, high = (first, high) if moved[0] < moved[1] else (low, first)
    expected = np.mean(1 - (1 - np.array([first, 2 * mean - first])) ** 100)
    np.testing.assert_allclose(path.pass_at_100[-1], expected, rtol=2e-4)


def test_simulate_ignores_scale_and_sign_ratio():
    reference = path_of(transforms.rloo())
    tripled = stateless(lambda rewards: 3.0 * rewards - 1.0)
    for other in (tripled, transforms.reinforce(), transforms.nsr(), transforms.dr_grpo()):
        for name in ("pass_at_1", "pass_at_100", "solved_share"):
            expected, found = getattr(reference, name), getattr(path_of(other), name)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["power", "asym_grpo", "fade"])
def test_simulate_one_step_enumeration(name):
    """Float64, over every group of rewards: E ĝ of a two-outcome softmax is E[Σ A_i (r_i-p)]/G."""
    kwargs = {"power": {"alpha": 2.0}, "asym_grpo": {"delta": 2.0}, "fade": {"rate": 1.0}}[name]
    p = SOLVE_RATES
    alpha = {"power": 2.0, "asym_grpo": 1.0}.get(name)
    if alpha is None:
        mean = np.sum(WEIGHTS * p)
        alpha = np.clip(1.5 * (1 - mean) / mean, 1, 3)
    gradient = np.zeros_like(p)
    for rewards in itertools.product((0.0, 1.0), repeat=GROUP):
        r, solved = np.array(rewards), np.mean(rewards)
        a = (1 - solved) ** (alpha - 1) * (r - solved)
        a = np.where(a < 0, a / kwargs.get("delta", 1.0), a)
        likelihood = np.prod(np.where(r[:, None] > 0, p, 1 - p), axis=0)
        gradient += likelihood * np.mean(a[:, None] * (r[:, None] - p), axis=0)
    step = 0.05 * gradient / np.sqrt(np.sum(WEIGHTS * gradient**2))
    after = 1 / (1 + np.exp(-np.log(p / (1 - p)) - step))
    path = path_of(getattr(transforms, name)(**kwargs), steps=1)
    np.testing.assert_allclose(path.pass_at_1[1], np.sum(WEIGHTS * after), rtol=1e-5)
    share = np.sum((WEIGHTS * gradient)[p > 0.5]) / np.sum(WEIGHTS * gradient)
    np.testing.assert_allclose(path.solved_share[0], share, rtol=1e-4)


def test_simulate_entropy_sets_delta():
    falling = path_of(
        transforms.fade(rate=1.0, target_entropy=1.0), entropy=lambda p, w: 1 - (w * p).sum()
    )
    for path in (falling, path_of(transforms.power(alpha=3.0)), path_of(transforms.asym_grpo(0.5))):
        assert np.all(np.diff(path.pass_at_1) > 0)
        assert np.all(np.diff(path.pass_at_100) >= 0)
    np.testing.assert_allclose(falling.delta, np.clip(1 - falling.pass_at_1, 0.3, 1), rtol=1e-5)
    assert np.all(path_of(transforms.fade()).delta == 1)
    assert np.all(np.isnan(path.alpha))


def test_simulate_whole_batch_is_refused():
    with pytest.raises(ValueError, match="treat groups apart"):
        path_of(transforms.gpg())
