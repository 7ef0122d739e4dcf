"""Feedback schedules against their recurrences in plain Python, and on a plant that they control."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fade_jax import controllers


def run(schedule, name, values):
    state, found = schedule.init(), []
    update = jax.jit(lambda state, x: schedule.update(state, **{name: x}))
    for value in values:
        now, state = update(state, value)
        found.append(float(now))
    return found


def test_pi_controller_follows_its_recurrence():
    """Targets of half the first value 2; errors -1, 0.5, 0.5, 0.25 with rate 1."""
    schedule = controllers.pi_controller(start=0.5, gain=0.1, integral_gain=0.2, low=0.0, high=1.0)
    found = run(schedule, "entropy", [2.0, 0.5, 0.5, 0.75])
    errors, expected, total = [-1.0, 0.5, 0.5, 0.25], [], 0.0
    for error in errors:
        total += error
        expected.append(0.5 + 0.1 * error + 0.2 * total)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_pi_controller_averages_and_skips_what_is_not_finite():
    schedule = controllers.pi_controller(
        target=1.0, gain=1.0, integral_gain=0.0, rate=0.5, low=-9.0
    )
    found = run(schedule, "entropy", [0.0, 1.0, jnp.nan, 1.0])
    np.testing.assert_allclose(found, [1.0, 0.5, 0.5, 0.25])


def test_pi_controller_does_not_wind_up():
    """After a hundred steps at the bound the value leaves it with the first error the other way."""
    schedule = controllers.pi_controller(target=1.0, gain=0.5, integral_gain=0.5, high=1.0)
    found = run(schedule, "entropy", [0.0] * 100 + [1.5])
    np.testing.assert_allclose(found[:100], [1.0] * 100)
    assert found[100] < 0.6  # a sum of a hundred errors would have held it at 1


@pytest.mark.parametrize("goal", [0.3, 0.8])
def test_pi_controller_holds_a_plant_at_its_target(goal):
    """x ← 0.9 x + 0.1 u - 0.02: a constant load, which proportional feedback alone cannot meet."""
    schedule = controllers.pi_controller(target=goal, gain=1.0, integral_gain=0.2, high=2.0)
    state, x = schedule.init(), 1.0
    for _ in range(200):
        value, state = schedule.update(state, entropy=x)
        x = 0.9 * x + 0.1 * float(value) - 0.02
    assert x == pytest.approx(goal, abs=1e-3)


def test_adaptive_kl_follows_its_recurrence():
    found = run(
        controllers.adaptive_kl(target=0.1, high=1.03), "kl", [0.2, 0.11, 0.0, jnp.nan, 9.0, 9.0]
    )
    expected, value = [], 1.0
    for error in (0.2, 0.1, -0.2, 0.0, 0.2, 0.2):
        value = min(value * (1 + 0.1 * error), 1.03)
        expected.append(value)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: controllers.pi_controller(gain=1.0, integral_gain=-0.1), "integral_gain must be"),
        (lambda: controllers.pi_controller(low=1.0, high=1.0), "high must be"),
        (lambda: controllers.pi_controller(rate=0.0), "rate must be in"),
        (lambda: controllers.pi_controller(target_fraction=0.0), "target_fraction must be"),
        (lambda: controllers.adaptive_kl(target=0.0), "target must be"),
        (lambda: controllers.adaptive_kl(gain=5.0), "gain must be"),
    ],
)
def test_controllers_refuse_numbers_outside_their_ranges(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    schedule = controllers.adaptive_kl()
    with pytest.raises(ValueError, match="the statistic 'kl' is missing"):
        schedule.update(schedule.init(), entropy=1.0)
