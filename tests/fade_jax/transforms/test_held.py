"""Weights that hold the entropy, against the controller and the formulas in plain Python."""

import numpy as np
import pytest

from fade_jax.transforms import power_holding_entropy, tempered_holding_entropy

REWARDS = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], np.float32)
ENTROPIES = [1.2, 1.0, 0.5, 0.3, 0.2, 0.9, 1.4, 1.4]


def controlled(entropies, fraction, start, gain, integral_gain, low, high, rate):
    """The values of a PI controller whose sum stands still at a bound that it leads beyond."""
    average, total, values = entropies[0], 0.0, []
    for i, entropy in enumerate(entropies):
        average = average if i == 0 else average + rate * (entropy - average)
        error = fraction * entropies[0] - average
        free = start + gain * error + integral_gain * (total + error)
        if not (free > high and error > 0) and not (free < low and error < 0):
            total += error
        values.append(min(max(start + gain * error + integral_gain * total, low), high))
    return values


def run(transformation):
    state, found = transformation.init(), []
    for entropy in ENTROPIES:
        advantages, state = transformation.update(REWARDS, state, entropy=entropy)
        found.append(np.asarray(advantages))
    return found


def test_tempered_holding_entropy_moves_beta():
    settings = (0.5, 0.5, 2.0, 0.4, 0.0, 0.8, 0.5)
    betas = controlled(ENTROPIES, *settings)
    assert min(betas) == 0.0
    assert max(betas) == 0.8
    names = ("target_fraction", "start", "gain", "integral_gain", "low", "high", "rate")
    found = run(tempered_holding_entropy(**dict(zip(names, settings, strict=True))))
    means = REWARDS.mean(axis=1, keepdims=True)
    for beta, advantages in zip(betas, found, strict=True):
        expected = np.where(means > 0, (REWARDS - means) / np.maximum(means, 0.1) ** beta, 0.0)
        np.testing.assert_allclose(advantages, expected, atol=2e-6)


def test_power_holding_entropy_moves_alpha():
    settings = (0.7, 2.0, 4.0, 0.1, 1.0, 3.5, 1.0)
    alphas = controlled(ENTROPIES, *settings)
    assert min(alphas) == 1.0
    assert max(alphas) == 3.5
    names = ("target_fraction", "start", "gain", "integral_gain", "low", "high", "rate")
    found = run(power_holding_entropy(**dict(zip(names, settings, strict=True))))
    means = REWARDS.mean(axis=1, keepdims=True)
    for alpha, advantages in zip(alphas, found, strict=True):
        expected = (1 - means) ** (alpha - 1) * (REWARDS - means)
        np.testing.assert_allclose(advantages, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"target_fraction": 0.0}, "target_fraction"),
        ({"low": -0.1}, "low"),
        ({"high": 0.0}, "high"),
        ({"gain": -1.0}, "integral_gain"),
        ({"rate": 0.0}, "rate"),
    ],
)
def test_holding_entropy_refuses(wrong, message):
    for factory in (tempered_holding_entropy, power_holding_entropy):
        with pytest.raises(ValueError, match=message):
            factory(**({"target_fraction": 0.5} | wrong))
