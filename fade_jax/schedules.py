"""Schedules: pure functions that turn statistics of training into one scalar: α, β or δ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import (
    check_finite,
    check_not_negative,
    check_positive,
    check_probability,
    check_rate,
    check_value,
)

ScheduleState = Any


class Schedule(NamedTuple):
    """A pair of pure functions; the value includes the present update.

    Attributes:
      init: `() -> state`; the state's field `value` is the latest value.
      update: `(state, **statistics) -> (value, state)`, with scalar statistics of the batch.
    """

    init: Callable[[], ScheduleState]
    update: Callable[..., tuple[jax.Array, ScheduleState]]


class ConstantState(NamedTuple):
    """State of `constant`."""

    value: jax.Array


class ByStepState(NamedTuple):
    """State of `by_step`: the number of updates so far."""

    value: jax.Array
    step: jax.Array


class FollowState(NamedTuple):
    """State of `follow`: the moving average, its first value, and whether it has started."""

    value: jax.Array
    average: jax.Array
    initial: jax.Array
    started: jax.Array


def constant(value: ArrayLike) -> Schedule:
    """Returns the same value at every step.

    Args:
      value: scalar.

    Returns:
      a schedule that reads no statistic.

    Raises:
      ValueError: if `value` is not finite.
    """
    check_finite("value", value)

    def init() -> ConstantState:
        return ConstantState(scalar(value))

    def update(state: ConstantState, **statistics: Any) -> tuple[jax.Array, ConstantState]:
        del state, statistics
        return scalar(value), init()

    return Schedule(init, update)


def by_step(schedule: Callable[[jax.Array], ArrayLike]) -> Schedule:
    """Reads an optax schedule at the number of previous updates.

    Args:
      schedule: step (int32 scalar, from 0) to value.

    Returns:
      a schedule that reads no statistic.
    """

    def init() -> ByStepState:
        start = jnp.zeros((), jnp.int32)
        return ByStepState(scalar(schedule(start)), start)

    def update(state: ByStepState, **statistics: Any) -> tuple[jax.Array, ByStepState]:
        del statistics
        value = scalar(schedule(state.step))
        return value, ByStepState(value, state.step + 1)

    return Schedule(init, update)


def follow(
    statistic: str,
    fn: Callable[[jax.Array], ArrayLike],
    rate: ArrayLike,
    initial: ArrayLike | None = None,
) -> Schedule:
    """Follows a statistic with an exponential moving average and returns a function of it.

        x̂ ← (1 - rate) x̂ + rate · x;   value = fn(x̂)

    Non-finite statistics leave the average unchanged.

    Args:
      statistic: name of the keyword to read from `update(state, **statistics)`.
      fn: maps the average to the value, within its bounds.
      rate: weight of the new observation, in (0, 1].
      initial: x̂ before the first update. None starts at the first finite statistic; until then
        the value is 1, which is neutral for α and δ.

    Returns:
      a schedule that reads `statistic`.

    Raises:
      ValueError: if `rate` is outside (0, 1] or `initial` is not finite; in `update`, if the
        statistic is missing or not a scalar.
    """
    return follow_from_start(statistic, lambda average, initial: fn(average), rate, initial)


def follow_from_start(
    statistic: str,
    fn: Callable[[jax.Array, jax.Array], ArrayLike],
    rate: ArrayLike,
    initial: ArrayLike | None = None,
) -> Schedule:
    """Follows a statistic and returns a function of its moving average and initial average.

        x̂ ← (1 - rate) x̂ + rate · x;   value = fn(x̂, x̂₀)

    Args:
      statistic: name of the keyword to read from `update(state, **statistics)`.
      fn: maps the average and the initial average to the value.
      rate: weight of the new observation, in (0, 1].
      initial: x̂₀; with None the first finite statistic, as in `follow`.

    Returns:
      a schedule that reads `statistic`.

    Raises:
      ValueError: as in `follow`.
    """
    check_rate("rate", rate)
    if initial is not None:
        check_finite("initial", initial)

    def init() -> FollowState:
        start = scalar(0.0 if initial is None else initial)
        started = jnp.asarray(initial is not None)
        return FollowState(_value(start, start, started), start, start, started)

    def update(state: FollowState, **statistics: Any) -> tuple[jax.Array, FollowState]:
        observed = read_statistic(statistics, statistic)
        finite = jnp.isfinite(observed)
        # A where instead of a product with the mask, since NaN times 0 is NaN.
        observed = jnp.where(finite, observed, state.average)
        first = finite & ~state.started
        moved = state.average + scalar(rate) * (observed - state.average)
        average = jnp.where(first, observed, moved)
        start = jnp.where(first, observed, state.initial)
        started = state.started | finite
        value = _value(average, start, started)
        return value, FollowState(value, average, start, started)

    def _value(average: jax.Array, start: jax.Array, started: jax.Array) -> jax.Array:
        return jnp.where(started, scalar(fn(average, start)), scalar(1.0))

    return Schedule(init, update)


def as_schedule(value: ArrayLike | Schedule | Callable[[jax.Array], ArrayLike]) -> Schedule:
    """Makes a schedule of a number, a schedule or an optax schedule."""
    if isinstance(value, Schedule):
        return value
    return by_step(value) if callable(value) else constant(value)


def alpha_from_solve_rate(
    alpha_max: ArrayLike = 3.0, rate: ArrayLike = 0.02, initial_solve_rate: ArrayLike = 0.5
) -> Schedule:
    """Sets α so that p^{3/2} q^α peaks at the moving average of the solve rate.

        α = clip(3(1-p̂) / (2p̂), 1, α_max)

    Args:
      alpha_max: upper bound of α, at least 1.
      rate: weight of a new batch in p̂, in (0, 1].
      initial_solve_rate: p̂ before the first batch, in [0, 1].

    Returns:
      a schedule that reads `solve_rate`.

    Raises:
      ValueError: if a value is outside its range.

    Example:
      >>> schedule = fade_jax.schedules.alpha_from_solve_rate(rate=1.0)
      >>> alpha, state = schedule.update(schedule.init(), solve_rate=0.5)
      >>> print(alpha)
      1.5
    """
    check_value("alpha_max", alpha_max, "a finite number of at least 1", lambda x: x >= 1)
    check_rate("rate", rate)
    check_probability("initial_solve_rate", initial_solve_rate)

    def alpha(solve_rate: jax.Array) -> jax.Array:
        p = jnp.maximum(solve_rate, jnp.finfo(jnp.float32).tiny)
        return jnp.clip(1.5 * (1 - p) / p, 1, alpha_max)

    return follow("solve_rate", alpha, rate, initial_solve_rate)


def delta_from_entropy(
    target_entropy: ArrayLike | None = None,
    target_fraction: ArrayLike = 0.5,
    delta_min: ArrayLike = 0.3,
    rate: ArrayLike = 0.02,
    gain: ArrayLike = 1.0,
    initial_entropy: ArrayLike | None = None,
) -> Schedule:
    """Lowers δ below 1, which weights failures more, while the entropy is below a target.

        δ = clip(1 + gain (Ĥ - H*), δ_min, 1),   H* = target_entropy or target_fraction · Ĥ₀

    Args:
      target_entropy: H* in nats; None takes it from `target_fraction`.
      target_fraction: H* as a fraction of the initial entropy Ĥ₀; read when `target_entropy` is
        None.
      delta_min: lower bound of δ, in (0, 1].
      rate: weight of a new batch in Ĥ, in (0, 1].
      gain: change of δ per nat of Ĥ - H*; 1 as published.
      initial_entropy: Ĥ₀, mean token entropy of the initial policy in nats; None takes it from
        the first batch, which comes from that policy.

    Returns:
      a schedule that reads `entropy`.

    Raises:
      ValueError: if a value is outside its range.

    Example:
      >>> schedule = fade_jax.schedules.delta_from_entropy(target_entropy=1.0, rate=1.0)
      >>> delta, state = schedule.update(schedule.init(), entropy=0.5)
      >>> print(delta)
      0.5
    """
    check_rate("delta_min", delta_min)
    check_rate("rate", rate)
    check_not_negative("gain", gain)
    if target_entropy is None:
        check_positive("target_fraction", target_fraction)
    else:
        check_positive("target_entropy", target_entropy)
    if initial_entropy is not None:
        check_positive("initial_entropy", initial_entropy)

    def delta(entropy: jax.Array, initial: jax.Array) -> jax.Array:
        target = target_fraction * initial if target_entropy is None else target_entropy
        return jnp.clip(1 + gain * (entropy - target), delta_min, 1)

    return follow_from_start("entropy", delta, rate, initial_entropy)


def alpha_from_entropy(
    alpha_max: ArrayLike = 3.0,
    rate: ArrayLike = 0.02,
    initial_entropy: ArrayLike | None = None,
) -> Schedule:
    """Lowers α with the entropy, from α_max at the initial policy to 1 at zero entropy.

        α = 1 + (α_max - 1) clip(Ĥ/Ĥ₀, 0, 1)

    The formula is ours: none is published for this ablation.

    Args:
      alpha_max: α at the initial entropy, at least 1.
      rate: weight of a new batch in Ĥ, in (0, 1].
      initial_entropy: Ĥ₀ in nats; None takes it from the first batch.

    Returns:
      a schedule that reads `entropy`.

    Raises:
      ValueError: if a value is outside its range.
    """
    check_value("alpha_max", alpha_max, "a finite number of at least 1", lambda x: x >= 1)
    return from_entropy(1.0, alpha_max, rate, initial_entropy)


def from_solve_rate(
    hard: ArrayLike, easy: ArrayLike, rate: ArrayLike = 0.02, initial_solve_rate: ArrayLike = 0.5
) -> Schedule:
    """Moves a value in proportion to the moving average of the solve rate.

        value = hard + (easy - hard) p̂

    Args:
      hard: the value at p̂ = 0.
      easy: the value at p̂ = 1.
      rate: weight of a new batch in p̂, in (0, 1].
      initial_solve_rate: p̂ before the first batch, in [0, 1].

    Returns:
      a schedule that reads `solve_rate`.

    Raises:
      ValueError: if a value is outside its range.
    """
    check_finite("hard", hard)
    check_finite("easy", easy)
    check_probability("initial_solve_rate", initial_solve_rate)
    return follow(
        "solve_rate",
        lambda p: hard + (jnp.asarray(easy) - hard) * jnp.clip(p, 0, 1),
        rate,
        initial_solve_rate,
    )


def from_entropy(
    low: ArrayLike,
    high: ArrayLike,
    rate: ArrayLike = 0.02,
    initial_entropy: ArrayLike | None = None,
) -> Schedule:
    """Moves a value in proportion to the moving average of the entropy.

        value = low + (high - low) clip(Ĥ/Ĥ₀, 0, 1)

    Args:
      low: the value at zero entropy.
      high: the value at the initial entropy and above.
      rate: weight of a new batch in Ĥ, in (0, 1].
      initial_entropy: Ĥ₀ in nats; None takes it from the first batch.

    Returns:
      a schedule that reads `entropy`.

    Raises:
      ValueError: if a value is outside its range.
    """
    check_finite("low", low)
    check_finite("high", high)
    if initial_entropy is not None:
        check_positive("initial_entropy", initial_entropy)

    def value(entropy: jax.Array, initial: jax.Array) -> jax.Array:
        share = entropy / jnp.maximum(initial, jnp.finfo(jnp.float32).tiny)
        return jnp.asarray(low) + (jnp.asarray(high) - jnp.asarray(low)) * jnp.clip(share, 0, 1)

    return follow_from_start("entropy", value, rate, initial_entropy)


def scalar(value: ArrayLike) -> jax.Array:
    """Returns a float32 scalar without a weak type, so that the second call does not retrace."""
    scalar = jnp.asarray(value, dtype=jnp.float32)
    if scalar.ndim:
        raise ValueError(f"a schedule's value must be a scalar, got shape {scalar.shape}")
    return scalar


def read_statistic(statistics: dict[str, Any], name: str) -> jax.Array:
    """Returns the statistic of this name as a float32 scalar.

    Raises:
      ValueError: if it is missing or no scalar.
    """
    if name not in statistics or statistics[name] is None:
        given = ", ".join(sorted(k for k, v in statistics.items() if v is not None)) or "none"
        raise ValueError(f"the statistic {name!r} is missing; given: {given}")
    observed = jnp.asarray(statistics[name], dtype=jnp.float32)
    if observed.ndim:
        raise ValueError(f"the statistic {name!r} must be a scalar, got shape {observed.shape}")
    return observed
