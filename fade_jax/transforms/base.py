"""Advantage transformations and their links: chain, stateless, clip, focal, suppress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fade_jax import advantages as plain
from fade_jax.checks import check_not_negative, check_positive
from fade_jax.groups import as_group, batch_mean, group_mean
from fade_jax.schedules import Schedule, as_schedule

AdvantageState = Any
ScheduledState = Any  # (value, state of its schedule), as FocalState
Mask = ArrayLike | None
ScheduleLike = ArrayLike | Schedule | Callable[[jax.Array], ArrayLike]


class AdvantageTransformation(NamedTuple):
    """A pair of pure functions, in optax's shape.

    Attributes:
      init: `() -> state`, a tree of arrays of pinned dtype.
      update: `(advantages, state, rewards=None, *, where=None, **statistics) ->
        (advantages, state)`. `advantages` and `rewards` are `[..., group]`; `rewards` defaults to
        `advantages`, so that the first link takes the rewards. `where`
        `[..., group]` is true for the rollouts that count; the others get 0. Statistics are
        scalars of the batch, or arrays of its groups; unused ones are ignored.
    """

    init: Callable[[], AdvantageState]
    update: Callable[..., tuple[jax.Array, AdvantageState]]


class FocalState(NamedTuple):
    """State of `focal`: the exponent of the last update."""

    alpha: jax.Array
    schedule: Any


class SuppressState(NamedTuple):
    """State of `suppress`: the divisor of the last update."""

    delta: jax.Array
    schedule: Any


def chain(*links: AdvantageTransformation) -> AdvantageTransformation:
    """Applies transformations in order; every link sees the same rewards.

    Args:
      *links: transformations.

    Returns:
      a transformation whose state is the tuple of the links' states;
      `optax.tree_utils.tree_get(state, "alpha")` reads a field by its name.
    """

    def init() -> AdvantageState:
        return tuple(link.init() for link in links)

    def update(
        advantages: ArrayLike,
        state: AdvantageState,
        rewards: ArrayLike | None = None,
        *,
        where: ArrayLike | None = None,
        **statistics: Any,
    ) -> tuple[jax.Array, AdvantageState]:
        rewards = advantages if rewards is None else rewards
        advantages = as_group(advantages, where)[0]
        states = []
        for link, link_state in zip(links, state, strict=True):
            advantages, link_state = link.update(
                advantages, link_state, rewards, where=where, **statistics
            )
            states.append(link_state)
        return advantages, tuple(states)

    return AdvantageTransformation(init, update)


def stateless(fn: Callable[..., jax.Array], *statistics: str) -> AdvantageTransformation:
    """Makes a transformation without state from a function of the advantages.

    Args:
      fn: `fn(advantages, **keywords)`; the keywords are `where`, if there is a mask, and the named
        statistics.
      *statistics: names of the statistics that `fn` takes.

    Returns:
      a transformation without state.
    """

    def update(
        advantages: ArrayLike,
        state: optax.EmptyState,
        rewards: ArrayLike | None = None,
        *,
        where: ArrayLike | None = None,
        **given: Any,
    ) -> tuple[jax.Array, optax.EmptyState]:
        del rewards
        missing = [name for name in statistics if given.get(name) is None]
        if missing:
            raise ValueError(f"the statistic {missing[0]!r} is missing; given: {sorted(given)}")
        keywords = {name: given[name] for name in statistics}
        if where is not None:
            keywords["where"] = where
        return fn(advantages, **keywords), state

    return AdvantageTransformation(optax.EmptyState, update)


def clip(max_abs: ArrayLike) -> AdvantageTransformation:
    """Clips the advantages to [-max_abs, max_abs], as the last link of a chain.

    Raises:
      ValueError: if `max_abs` is not above 0.
    """
    check_positive("max_abs", max_abs)

    def fn(advantages: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
        bound = jnp.asarray(max_abs, jnp.float32)
        return jnp.clip(as_group(advantages, where)[0], -bound, bound)

    return stateless(fn)


def focal(alpha: ScheduleLike) -> AdvantageTransformation:
    """Multiplies by the focal weight of each group's solve rate, (1-r̄)^{α-1}.

    Args:
      alpha: a number ≥ 0, a schedule or an optax schedule. Schedules may read `solve_rate`, the
        mean reward of the batch, which is computed here unless given.

    Returns:
      a transformation whose `FocalState` holds `alpha`.

    Raises:
      ValueError: if a number is negative.

    From arXiv:2607.01490.
    """
    if not isinstance(alpha, Schedule) and not callable(alpha):
        check_not_negative("alpha", alpha)

    def apply(
        advantages: jax.Array, alpha: jax.Array, rewards: ArrayLike, where: Mask
    ) -> jax.Array:
        return plain.focal_weight(group_mean(rewards, where), alpha) * advantages

    return scheduled(alpha, FocalState, apply)


def suppress(delta: ScheduleLike) -> AdvantageTransformation:
    """Divides negative advantages by δ.

    Args:
      delta: a number > 0, a schedule or an optax schedule. Schedules may read `solve_rate`, the
        mean reward of the batch, which is computed here unless given.

    Returns:
      a transformation whose `SuppressState` holds `delta`.

    Raises:
      ValueError: if a number is not above 0.

    From arXiv:2607.01490.
    """
    if not isinstance(delta, Schedule) and not callable(delta):
        check_positive("delta", delta)

    def apply(
        advantages: jax.Array, delta: jax.Array, rewards: ArrayLike, where: Mask
    ) -> jax.Array:
        del rewards, where
        return plain.suppress_negatives(advantages, delta)

    return scheduled(delta, SuppressState, apply)


def scheduled(
    parameter: ScheduleLike,
    state_type: Callable[[jax.Array, Any], ScheduledState],
    apply: Callable[[jax.Array, jax.Array, ArrayLike, Mask], jax.Array],
) -> AdvantageTransformation:
    """Makes a transformation with one scheduled parameter.

    Args:
      parameter: a number, a schedule or an optax schedule.
      state_type: holds the value of the parameter and the state of its schedule.
      apply: (advantages, parameter, rewards, where) -> advantages.
    """
    schedule = as_schedule(parameter)

    def init() -> ScheduledState:
        start = schedule.init()
        return state_type(start.value, start)

    def update(
        advantages: ArrayLike,
        state: ScheduledState,
        rewards: ArrayLike | None = None,
        *,
        where: Mask = None,
        **statistics: Any,
    ) -> tuple[jax.Array, ScheduledState]:
        rewards = advantages if rewards is None else rewards
        state = state_type(*_advance(schedule, state, rewards, where, statistics))
        advantages = apply(as_group(advantages, where)[0], state[0], rewards, where)
        return as_group(advantages, where)[0], state  # 0 times a NaN weight is NaN

    return AdvantageTransformation(init, update)


def _advance(
    schedule: Schedule,
    state: ScheduledState,
    rewards: ArrayLike,
    where: ArrayLike | None,
    statistics: dict[str, Any],
) -> tuple[jax.Array, Any]:
    """Returns a schedule's value and state after a batch; an empty batch changes neither."""
    statistics = {"solve_rate": batch_mean(rewards, where), **statistics}
    value, schedule_state = schedule.update(state.schedule, **statistics)
    after = jnp.asarray(value, dtype=jnp.float32), schedule_state
    if where is None:
        return after
    counts = jnp.any(jnp.asarray(where, dtype=bool))
    return jax.tree.map(lambda new, old: jnp.where(counts, new, old), after, tuple(state))
