"""Schedules; FADE's are tested in transforms/test_fade.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fade_jax.schedules import (
    as_schedule,
    by_step,
    constant,
    follow,
    follow_from_start,
    from_entropy,
    from_solve_rate,
)


def values(schedule, statistics):
    state, result = schedule.init(), []
    for given in statistics:
        value, state = schedule.update(state, **given)
        result.append(float(value))
    return np.array(result), state


def test_follow_average_without_lag():
    observations = [0.2, 0.9, 0.4]
    average, expected = 0.5, []
    for x in observations:
        average = 0.9 * average + 0.1 * x
        expected.append(3 * average)
    schedule = follow("x", lambda average: 3 * average, rate=0.1, initial=0.5)
    result, _ = values(schedule, [{"x": x} for x in observations])
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_follow_from_start_first_finite_statistic():
    schedule = follow_from_start("x", lambda average, start: 10 * average + start, rate=0.5)
    result, state = values(schedule, [{"x": x} for x in (np.nan, np.inf, 4.0, 2.0)])
    np.testing.assert_allclose(result, [1.0, 1.0, 44.0, 34.0])
    assert (float(state.average), float(state.initial), bool(state.started)) == (3.0, 4.0, True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_follow_non_finite_statistic(bad):
    schedule = follow("x", lambda average: average, rate=0.5, initial=1.0)
    clean, _ = values(schedule, [{"x": x} for x in (2.0, 3.0)])
    dirty, _ = values(schedule, [{"x": x} for x in (2.0, bad, 3.0)])
    np.testing.assert_array_equal(dirty, [clean[0], clean[0], clean[1]])


def test_init_value():
    assert float(constant(3.0).init().value) == 3.0
    assert float(by_step(lambda step: 2.0 - step).init().value) == 2.0
    assert float(follow("x", lambda a: 4 * a, 0.1, initial=0.5).init().value) == 2.0
    assert float(follow("x", lambda a: 4 * a, 0.1).init().value) == 1.0


def test_by_step_optax_schedule():
    decay = optax.cosine_decay_schedule(3.0, decay_steps=5)
    result, _ = values(by_step(decay), [{}] * 7)
    np.testing.assert_allclose(result, [decay(step) for step in range(7)], rtol=1e-6)


def test_constant_ignores_state():
    value, _ = constant(2.0).update(constant(3.0).init())
    assert float(value) == 2.0


def test_as_schedule_types():
    statistics = [{"x": 7.0}]
    assert values(as_schedule(2), statistics)[0] == 2.0
    assert values(as_schedule(lambda step: step + 4.0), statistics)[0] == 4.0
    assert values(as_schedule(follow("x", lambda a: a, 1.0)), statistics)[0] == 7.0


def test_follow_traced_hyperparameters():
    @jax.jit
    def last(rate, initial):
        schedule = follow("x", lambda a: a, rate, initial)
        return schedule.update(schedule.init(), x=1.0)[0]

    np.testing.assert_allclose(last(0.25, 0.0), 0.25)
    np.testing.assert_allclose(last(0.5, 2.0), 1.5)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_follow_bad_rate(rate):
    with pytest.raises(ValueError, match=rf"rate must be in \(0, 1\], got {rate}"):
        follow("x", lambda a: a, rate)


def test_schedule_bad_input():
    with pytest.raises(ValueError, match="initial"):
        follow("x", lambda a: a, 0.1, initial=float("nan"))
    with pytest.raises(ValueError, match="value"):
        constant(float("inf"))
    schedule = follow("entropy", lambda a: a, 0.1)
    with pytest.raises(ValueError, match=r"'entropy' is missing; given: length, solve_rate"):
        schedule.update(schedule.init(), solve_rate=0.1, length=3, entropy=None)
    with pytest.raises(ValueError, match=r"'entropy' must be a scalar, got shape \(2,\)"):
        schedule.update(schedule.init(), entropy=jnp.ones(2))


def test_from_solve_rate_by_hand():
    schedule = from_solve_rate(1.5, 0.5, rate=0.5, initial_solve_rate=0.2)
    # p̂: 0.2, then 0.4, 0.7
    found, _ = values(schedule, [{"solve_rate": 0.6}, {"solve_rate": 1.0}])
    np.testing.assert_allclose(found, [1.1, 0.8], rtol=1e-6)
    np.testing.assert_allclose(schedule.init().value, 1.3, rtol=1e-6)


def test_from_entropy_by_hand():
    schedule = from_entropy(0.25, 1.25, rate=0.5)
    # Ĥ: 2, then 1, 2.5 of an initial 2
    found, _ = values(schedule, [{"entropy": 2.0}, {"entropy": 0.0}, {"entropy": 4.0}])
    np.testing.assert_allclose(found, [1.25, 0.75, 1.25], rtol=1e-6)
