"""Feedback schedules: a value that moves until a statistic of training is at its target."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fade_jax.checks import check_finite, check_positive, check_rate, check_value
from fade_jax.schedules import Schedule, read_statistic, scalar


class ControllerState(NamedTuple):
    """State of `pi_controller`; all are scalars.

    Attributes:
      value: the latest value.
      average: moving average of the statistic.
      initial: its first finite value.
      started: whether there has been one.
      total: the sum of the errors that the integral part has taken in.
    """

    value: jax.Array
    average: jax.Array
    initial: jax.Array
    started: jax.Array
    total: jax.Array


class AdaptiveState(NamedTuple):
    """State of `adaptive_kl`: the latest value."""

    value: jax.Array


def pi_controller(
    statistic: str = "entropy",
    target: float | None = None,
    target_fraction: float = 0.5,
    start: float = 0.0,
    gain: float = 1.0,
    integral_gain: float = 0.05,
    low: float = 0.0,
    high: float = 1.0,
    rate: float = 1.0,
) -> Schedule:
    """Holds a statistic at a target by proportional and integral feedback.

        e = x* - x̂;   value = clip(start + gain · e + integral_gain · Σ e, low, high)

    With positive gains the value rises while the statistic is below its target, as the coefficient
    of an entropy bonus must; with negative ones it rises above it, as that of a KL penalty must.
    An error is added to the sum only where the value is not at a bound, or where it leads away from
    that bound (anti-windup by clamping). A statistic that is not finite changes nothing.

    Args:
      statistic: name of the keyword to read from `update(state, **statistics)`.
      target: x*, in the statistic's unit. None takes it from `target_fraction`.
      target_fraction: x* as a fraction of the statistic's first value; read when `target` is None.
      start: the value at an error of 0, before any has added up.
      gain: change of the value per unit of the error.
      integral_gain: change of the value per unit of the error and update; of the sign of `gain`.
      low: smallest value.
      high: largest value, above `low`.
      rate: weight of a new statistic in the moving average x̂, in (0, 1].

    Returns:
      a schedule that reads `statistic`.

    Raises:
      ValueError: if a number is not finite or outside its range, or the gains' signs differ.

    Example:
      >>> bonus = fade_jax.controllers.pi_controller(target=1.0, integral_gain=0.25)
      >>> value, state = bonus.update(bonus.init(), entropy=0.5)
      >>> print(value)  # 0.5 + 0.25 · 0.5
      0.625
    """
    for name, number in (("start", start), ("gain", gain), ("low", low)):
        check_finite(name, number)
    check_value("high", high, "a finite number above low", lambda x: x > low)
    check_value(
        "integral_gain",
        integral_gain,
        "0 or of the sign of gain",
        lambda x: x * gain >= 0,
    )
    check_rate("rate", rate)
    if target is None:
        check_positive("target_fraction", target_fraction)
    else:
        check_finite("target", target)

    def init() -> ControllerState:
        zero = scalar(0.0)
        value = jnp.clip(scalar(start), low, high)
        return ControllerState(value, zero, zero, jnp.asarray(False), zero)

    def update(state: ControllerState, **statistics: Any) -> tuple[jax.Array, ControllerState]:
        observed = read_statistic(statistics, statistic)
        finite = jnp.isfinite(observed)
        first = finite & ~state.started
        initial = jnp.where(first, observed, state.initial)
        moved = state.average + scalar(rate) * (observed - state.average)
        average = jnp.where(finite, jnp.where(first, observed, moved), state.average)
        goal = target_fraction * initial if target is None else scalar(target)
        error = jnp.where(finite, goal - average, 0.0)
        total = state.total + error
        free = start + gain * error + integral_gain * total
        step = integral_gain * error
        inside = ((free <= high) | (step < 0)) & ((free >= low) | (step > 0))
        total = jnp.where(inside, total, state.total)
        value = jnp.clip(start + gain * error + integral_gain * total, low, high)
        value = jnp.where(finite, value, state.value)
        started = state.started | finite
        return value, ControllerState(value, average, initial, started, total)

    return Schedule(init, update)


def adaptive_kl(
    target: float = 0.01,
    gain: float = 0.1,
    low: float = 1e-4,
    high: float = 1e4,
    statistic: str = "kl",
) -> Schedule:
    """Multiplies the value by a factor near 1 until the KL divergence is at its target.

        value ← clip(value · (1 + gain · clip(KL / target - 1, -0.2, 0.2)), low, high), from 1 on

    Args:
      target: in nats per token, above 0.
      gain: above 0 and below 5; the value changes by at most a fifth of it a step.
      low: smallest value, above 0.
      high: largest value, above `low`.
      statistic: name of the keyword to read from `update(state, **statistics)`.

    Returns:
      a schedule that reads `statistic`; one that is not finite changes nothing.

    Raises:
      ValueError: if a number is outside its range.

    From arXiv:1909.08593, where the gain is 0.1.
    """
    check_positive("target", target)
    check_value("gain", gain, "above 0 and below 5", lambda x: (x > 0) & (x < 5))
    check_positive("low", low)
    check_value("high", high, "a finite number above low", lambda x: x > low)

    def init() -> AdaptiveState:
        return AdaptiveState(jnp.clip(scalar(1.0), low, high))

    def update(state: AdaptiveState, **statistics: Any) -> tuple[jax.Array, AdaptiveState]:
        error = jnp.clip(read_statistic(statistics, statistic) / target - 1, -0.2, 0.2)
        factor = jnp.where(jnp.isfinite(error), 1 + gain * error, 1.0)
        value = jnp.clip(state.value * factor, low, high)
        return value, AdaptiveState(value)

    return Schedule(init, update)
