"""Unbiased pass@k objectives at a finite group size, from the successes of the other rollouts.

With K₋ᵢ the successes of the group without rollout i, an advantage b(K₋ᵢ) (r_i - c(K₋ᵢ)) has
E ĝ = h(p) ∇p with h(p) = E b(K₋ᵢ) for any baseline c, since neither depends on r_i. Here the
objective may be scheduled; `fade_jax.synthesis` tabulates such advantages for a fixed objective.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.advantages.base import advantage
from fade_jax.checks import check_positive, check_value
from fade_jax.groups import as_group, group_count
from fade_jax.schedules import Schedule, alpha_from_solve_rate
from fade_jax.transforms.base import (
    AdvantageTransformation,
    FocalState,
    Mask,
    ScheduleLike,
    chain,
    scheduled,
    stateless,
)


def shrinkage(a: ArrayLike = 1.0, b: ArrayLike = 1.0) -> AdvantageTransformation:
    """Subtracts the posterior mean of the solve rate given the other rollouts.

        A_i = r_i - (K₋ᵢ + a) / (G - 1 + a + b);   h = 1 at any group size

    Of all advantages with h = 1 it has the least second moment over prompts whose solve rates are
    Beta(a, b); as a and b go to 0 it becomes RLOO. Unlike RLOO it also learns from groups
    without variance.

    Args:
      a: pseudo-count of successes, above 0; 1 and 1 is a uniform density of solve rates.
      b: pseudo-count of failures, above 0.

    Returns:
      a transformation without state, for binary rewards.

    Raises:
      ValueError: if `a` or `b` is not above 0.
    """
    check_positive("a", a)
    check_positive("b", b)

    @advantage("0 or 1")
    def fn(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
        rewards, where = as_group(rewards, where)
        others, other_successes = _others(rewards, where)
        baseline = (other_successes + a) / (others + jnp.asarray(a) + b)
        return jnp.where(where, rewards - baseline, 0)

    return stateless(fn)


def pass_at_k_weight(k: ScheduleLike) -> AdvantageTransformation:
    """Multiplies by the unbiased estimate of k q^{k-1} from the other rollouts.

        b(K₋ᵢ) = k C(G-1-K₋ᵢ, k-1) / C(G-1, k-1)

    After `shrinkage` the objective is exactly pass@k. Between two integers the weight is
    interpolated, and so is the objective. `focal` uses the solve rate of the group itself instead,
    with a bias of order 1/G.

    Args:
      k: at least 1; a number, a schedule or an optax schedule. Schedules may read `solve_rate`,
        the mean reward of the batch. A group with fewer than k rollouts gets 0.

    Returns:
      a transformation whose `FocalState` holds k as `alpha`, for binary rewards.

    Raises:
      ValueError: if a number is below 1.

    From arXiv:2505.15201 for an integer k.
    """
    if not isinstance(k, Schedule) and not callable(k):
        check_value("k", k, "a finite number of at least 1", lambda x: x >= 1)

    def apply(advantages: jax.Array, k: jax.Array, rewards: ArrayLike, where: Mask) -> jax.Array:
        return _interpolated(k, *_others(*as_group(rewards, where))) * advantages

    return scheduled(k, FocalState, apply)


def scheduled_pass_at_k(
    *,
    k_max: ArrayLike = 3.0,
    rate: ArrayLike = 0.02,
    initial_solve_rate: ArrayLike = 0.5,
    a: ArrayLike = 1.0,
    b: ArrayLike = 1.0,
) -> AdvantageTransformation:
    """Ascends pass@k with a k that falls from k_max to 1 as the solve rate rises.

        k = clip(3(1-p̂) / (2p̂), 1, k_max),   A_i = b_k(K₋ᵢ) (r_i - (K₋ᵢ + a)/(G - 1 + a + b))

    The schedule is FADE's for α (arXiv:2607.01490). Its focal weight q^{α-1} is that of pass@α, so
    this is FADE without suppression, unbiased at a finite group size and with pass@k as its
    objective at every step.

    Args:
      k_max: upper bound of k, at least 1.
      rate: weight of a new batch in p̂, in (0, 1].
      initial_solve_rate: p̂ before the first batch, in [0, 1].
      a: as in `shrinkage`.
      b: as in `shrinkage`.

    Returns:
      a transformation, a chain, for binary rewards, whose state holds k as `alpha`:
      `optax.tree_utils.tree_get(state, "alpha")`.

    Raises:
      ValueError: if a value is outside its range.
    """
    k = alpha_from_solve_rate(k_max, rate, initial_solve_rate)
    return chain(shrinkage(a, b), pass_at_k_weight(k))


def _others(rewards: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the number of other rollouts `[..., 1]` and of their successes `[..., group]`."""
    solved = jnp.sum(jnp.where(where, rewards, 0), axis=-1, keepdims=True)
    return jnp.maximum(group_count(where) - 1, 0), solved - jnp.where(where, rewards, 0)


def _interpolated(k: jax.Array, others: jax.Array, other_successes: jax.Array) -> jax.Array:
    """Returns (1-f) b_⌊k⌋ + f b_⌊k⌋₊₁ with f = k - ⌊k⌋, `[..., group]`."""
    failures = others - other_successes
    below = jnp.floor(k)

    def factor(i: jax.Array) -> jax.Array:
        return jnp.maximum(failures - i, 0) / jnp.maximum(others - i, 1)

    # C(m, k-1)/C(n, k-1) = Π_{i<k-1} (m-i)/(n-i); k is traced, so the loop runs over all i.
    ways = jax.lax.fori_loop(
        0,
        failures.shape[-1],
        lambda i, ways: jnp.where(i < below - 1, ways * factor(i), ways),
        jnp.ones_like(failures),
    )
    fraction = k - below
    return ((1 - fraction) * below + fraction * (below + 1) * factor(below - 1)) * ways
