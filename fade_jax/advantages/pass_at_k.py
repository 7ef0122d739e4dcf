"""Advantages whose objective is pass@k, the best of k rollouts."""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fade_jax.advantages.base import advantage, center
from fade_jax.checks import check_integer, check_one_of
from fade_jax.groups import as_group, group_count

PKPO_BASELINES = ("loo_minus_one", "loo", "none")


@advantage()
def pkpo(
    rewards: ArrayLike,
    *,
    k: int,
    baseline: str = "loo_minus_one",
    where: ArrayLike | None = None,
) -> jax.Array:
    """Computes the unbiased gradient of the expected maximum of k rewards (PKPO).

        s_i = C(G,k)⁻¹ Σ_{I ∋ i} max_{j∈I} r_j over the k-subsets I;   ρ(g;k) = mean of those maxima
        "none":           A_i = G s_i
        "loo":            A_i = G s_i - Gk/(G-1) · ρ(r_{-i}; k)
        "loo_minus_one":  A_i = G s_i - k · ρ(r_{-i}; k-1)

    For binary rewards h(p) = k q^{k-1} for all three, at any group size, and the masses are

        "none":           m_S = kp,   m_F = -kq (1 - q^{k-1})
        "loo":            m_S, m_F → k p q^k in a large group
        "loo_minus_one":  m_S = k p q^{k-1},   m_F = 0

    In the mean convention, ĝ = (1/G) Σ A_i ∇log π; the paper's weights are these divided by G.

    Args:
      rewards: `[..., group]`, of any real values.
      k: number of rollouts that the maximum is over, 1 ≤ k ≤ G, and k ≤ G-1 with "loo".
      baseline: "loo_minus_one", "loo" or "none".
      where: `[..., group]`, true for the rollouts that count; the others get 0, and so do groups
        with too few of them for k.

    Returns:
      `[..., group]`.

    Raises:
      ValueError: if `baseline` is unknown or `k` does not fit the group axis.

    Example:
      >>> print(fade_jax.pkpo([1, 0, 0], k=2))
      [2. 0. 0.]

    From arXiv:2505.15201.
    """
    check_one_of("baseline", baseline, PKPO_BASELINES)
    check_integer("k", k, 1)
    least = k + 1 if baseline == "loo" else k
    rewards, where = as_group(rewards, where)
    _check_k(k, rewards.shape[-1], least)

    # Masked rollouts sort to the front, where their negative rank takes them out of every sum.
    size = rewards.shape[-1]
    if baseline == "loo_minus_one" and k > 1:
        # Shifting the rewards changes nothing; centered, a constant group gives exactly 0.
        rewards = center(rewards, where=where)
    order = jnp.argsort(jnp.where(where, rewards, -jnp.inf), axis=-1)
    g = jnp.take_along_axis(rewards, order, axis=-1)
    n = group_count(where)
    rank = jnp.arange(size) - (size - n)
    g = jnp.where(rank >= 0, g, 0)

    own = k * _subset_ratio(rank, n - 1, k - 1, size) * g
    others = _sum_after(_subset_ratio(rank - 1, n - 2, k - 2, size) * g) if k > 1 else 0.0
    weight = own + k * (k - 1) / jnp.maximum(n - 1, 1) * others
    if baseline == "loo":
        weight -= n * k / jnp.maximum(n - 1, 1) * _best_of_others(g, rank, n, k)
    if baseline == "loo_minus_one" and k > 1:
        weight -= k * _best_of_others(g, rank, n, k - 1)
    weight = jnp.take_along_axis(weight, jnp.argsort(order, axis=-1), axis=-1)
    return jnp.where(where & (n >= least), weight, 0)


@advantage("0 or 1")
def pass_at_k_training(rewards: ArrayLike, *, k: int, where: ArrayLike | None = None) -> jax.Array:
    """Standardizes the best reward of each k-subset and averages it by rollout (Pass@k Training).

    For binary rewards only.

        N = G - K,  R = 1 - C(N,k)/C(G,k),  σ = √(R(1-R))
        A_i = (1-R)/σ of a success, (1 - R - C(N-1,k-1)/C(G-1,k-1))/σ of a failure, 0 where σ = 0
        m_S = m_F → p q^{k/2}/√(1-q^k) in a large group

    Args:
      rewards: `[..., group]`, 0 or 1.
      k: size of the subsets, 1 ≤ k ≤ G.
      where: `[..., group]`, true for the rollouts that count; the others get 0, and so do groups
        with fewer than k of them.

    Returns:
      `[..., group]`, with sum 0 in each group.

    Raises:
      ValueError: if `k` does not fit the group axis.

    From arXiv:2508.10751.
    """
    check_integer("k", k, 1)
    rewards, where = as_group(rewards, where)
    size = rewards.shape[-1]
    _check_k(k, size, k)
    n = group_count(where)
    failures = group_count(where & (rewards < 0.5))
    all_fail = _subset_ratio(failures, n, k, size)  # 1 - R
    varied = (all_fail > 0) & (all_fail < 1) & (n >= k)
    variance = jnp.where(varied, all_fail * (1 - all_fail), 1)
    failure = all_fail - _subset_ratio(failures - 1, n - 1, k - 1, size)
    weight = rewards * all_fail + (1 - rewards) * failure
    return jnp.where(where & varied, weight * jax.lax.rsqrt(variance), 0)


@advantage()
def leave_one_out_pass_at_g(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """Computes how much each rollout adds to the best reward of its group.

        A_i = max_j r_j - max_{j≠i} r_j;   m_S = p q^{G-1}, m_F = 0

    Args:
      rewards: `[..., group]`, of any real values; the group axis is at least 2.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, 0 for all but a single best rollout, and in a group of one rollout.

    Raises:
      ValueError: if the group axis is below 2.

    From arXiv:2503.19595.
    """
    rewards, where = as_group(rewards, where, minimum_size=2)
    best, second = jnp.split(jax.lax.top_k(jnp.where(where, rewards, -jnp.inf), 2)[0], 2, axis=-1)
    several = group_count(where) > 1
    lead = jnp.where(several, best, 0) - jnp.where(several, second, 0)
    return jnp.where(where & (rewards == best), lead, 0)


def _subset_ratio(chosen: jax.Array, n: jax.Array, k: int, group_size: int) -> jax.Array:
    """Looks up C(chosen, k) / C(n, k) for integers up to the group size."""
    index = (jnp.clip(x.astype(jnp.int32), 0, group_size) for x in (n, chosen))
    return jnp.asarray(_subset_ratios(k, group_size))[tuple(index)]


@lru_cache
def _subset_ratios(k: int, group_size: int) -> np.ndarray:
    """Returns C(c, k) / C(n, k), `[n, c]`, as products, since the coefficients overflow."""
    n = np.arange(group_size + 1)[:, None]
    c = np.minimum(np.arange(group_size + 1), n)
    ratios = np.ones((group_size + 1, group_size + 1))
    for j in range(k):
        ratios *= np.maximum(c - j, 0) / np.maximum(n - j, 1)
    return ratios.astype(np.float32)


def _best_of_others(g: jax.Array, rank: jax.Array, n: jax.Array, k: int) -> jax.Array:
    """Returns the mean of the largest of k of the other n-1 values; g is sorted."""
    before = _sum_before(_subset_ratio(rank, n - 2, k - 1, g.shape[-1]) * g)
    after = _sum_after(_subset_ratio(rank - 1, n - 2, k - 1, g.shape[-1]) * g)
    return k / jnp.maximum(n - 1, 1) * (before + after)


def _sum_before(x: jax.Array) -> jax.Array:
    return jnp.cumsum(x, axis=-1) - x


def _sum_after(x: jax.Array) -> jax.Array:
    return jnp.cumsum(x[..., ::-1], axis=-1)[..., ::-1] - x


def _check_k(k: int, group_size: int, least: int) -> None:
    if group_size < least:
        raise ValueError(
            f"k must be at most {group_size + k - least} in a group of {group_size}, got {k}"
        )
