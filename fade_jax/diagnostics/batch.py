"""Metrics of one training batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_same_shape
from fade_jax.decomposition import empirical_masses, sign_ratio
from fade_jax.entropies import entropy_by_outcome, mean_entropy
from fade_jax.groups import as_group, batch_mean, group_count, group_mean


class BatchMetrics(NamedTuple):
    """Scalars and one histogram; NaN if undefined, such as `entropy_success` without a success.

    Attributes:
      reward: mean.
      solve_rate: fraction of the rollouts with a reward above 1/2.
      zero_variance_fraction: of the groups.
      mass_success: m_S of the batch.
      mass_failure: m_F of the batch.
      sign_ratio: m_S / m_F.
      entropy: nats per token.
      entropy_success: nats per token of the successes.
      entropy_failure: nats per token of the failures.
      length: mean number of tokens of a rollout.
      length_max: largest number of tokens of a rollout.
      solve_rate_histogram: int32 `[group + 1]`, groups by their number of successes.
      clip_fraction_low: of the tokens; None without `clipped`.
      clip_fraction_high: of the tokens; None without `clipped`.
    """

    reward: jax.Array
    solve_rate: jax.Array
    zero_variance_fraction: jax.Array
    mass_success: jax.Array
    mass_failure: jax.Array
    sign_ratio: jax.Array
    entropy: jax.Array
    entropy_success: jax.Array
    entropy_failure: jax.Array
    length: jax.Array
    length_max: jax.Array
    solve_rate_histogram: jax.Array
    clip_fraction_low: jax.Array | None
    clip_fraction_high: jax.Array | None


def batch_metrics(
    rewards: ArrayLike,
    advantages: ArrayLike,
    entropies: ArrayLike,
    clipped: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> BatchMetrics:
    """Computes the metrics of one batch.

    Args:
      rewards: `[..., group]`; a reward above 1/2 is a success.
      advantages: `[..., group]`.
      entropies: H of each token, `[..., group, tokens]`, nats.
      clipped: `[..., group, tokens]`, from `fade_jax.losses.is_clipped`. A clipped token with a
        negative advantage counts as low, with a positive advantage as high.
      where: `[..., group, tokens]`, true for the tokens that count. Rollouts without a token are
        left out of every metric.

    Returns:
      `BatchMetrics`.

    Raises:
      ValueError: if the shapes do not match.
    """
    entropies, where = as_group(entropies, where, name="entropies")
    rollouts = jnp.any(where, axis=-1)
    by_rollout = "entropies without its last axis"
    check_same_shape("rewards", jnp.asarray(rewards), by_rollout, rollouts)
    check_same_shape("advantages", jnp.asarray(advantages), by_rollout, rollouts)
    rewards, _ = as_group(rewards, rollouts)
    advantages, _ = as_group(advantages, rollouts)
    success = rewards > 0.5
    masses = empirical_masses(advantages, rewards, rollouts)
    outcome = entropy_by_outcome(entropies, rewards, where)
    degenerate = jnp.all(
        (rewards == group_mean(rewards, rollouts)) | ~rollouts, axis=-1, keepdims=True
    )
    groups = group_count(rollouts) > 0
    lengths = jnp.sum(where, axis=-1, dtype=jnp.float32)
    solved = jnp.sum(success, axis=-1, keepdims=True)
    histogram = jnp.zeros(rewards.shape[-1] + 1, jnp.int32)
    low = high = None
    if clipped is not None:
        check_same_shape("clipped", jnp.asarray(clipped), "entropies", entropies)
        clipped, _ = as_group(clipped, where)
        low = batch_mean(clipped * (advantages < 0)[..., None], where)
        high = batch_mean(clipped * (advantages > 0)[..., None], where)
    return BatchMetrics(
        reward=batch_mean(rewards, rollouts),
        solve_rate=batch_mean(success, rollouts),
        zero_variance_fraction=batch_mean(degenerate, groups),
        mass_success=masses.success,
        mass_failure=masses.failure,
        sign_ratio=sign_ratio(masses),
        entropy=mean_entropy(entropies, where),
        entropy_success=outcome.success,
        entropy_failure=outcome.failure,
        length=batch_mean(lengths, rollouts),
        length_max=jnp.max(lengths, initial=0),
        solve_rate_histogram=histogram.at[solved].add(groups.astype(jnp.int32)),
        clip_fraction_low=low,
        clip_fraction_high=high,
    )
