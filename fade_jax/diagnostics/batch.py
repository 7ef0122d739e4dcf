"""The figures of one batch that a training run logs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_same_shape
from fade_jax.decomposition import empirical_masses, sign_ratio
from fade_jax.entropies import entropy_by_outcome, mean_entropy
from fade_jax.groups import as_group, batch_mean, group_count, group_mean


class BatchMetrics(NamedTuple):
    """Scalars; NaN where undefined, such as the entropy of successes in a batch without one."""

    solve_rate: jax.Array
    zero_variance_fraction: jax.Array  # of the groups
    mass_success: jax.Array
    mass_failure: jax.Array
    sign_ratio: jax.Array
    entropy: jax.Array  # nats per token
    entropy_success: jax.Array
    entropy_failure: jax.Array
    clip_fraction_low: jax.Array  # of the tokens
    clip_fraction_high: jax.Array


def batch_metrics(
    rewards: ArrayLike,
    advantages: ArrayLike,
    entropies: ArrayLike,
    clipped: ArrayLike,
    where: ArrayLike | None = None,
) -> BatchMetrics:
    """Compute the figures of one batch, for binary rewards.

    Args:
      rewards: `[..., group]`, 0 or 1.
      advantages: `[..., group]`.
      entropies: H of each token, `[..., group, tokens]`, nats.
      clipped: `[..., group, tokens]`, from `fade_jax.losses.is_clipped`. A token clipped with a
        negative advantage counts as low, one with a positive advantage as high.
      where: `[..., group, tokens]`, true for the tokens that count; a rollout without one is left
        out of everything.

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
    check_same_shape("clipped", jnp.asarray(clipped), "entropies", entropies)
    rewards, _ = as_group(rewards, rollouts)
    advantages, _ = as_group(advantages, rollouts)
    masses = empirical_masses(advantages, rewards, rollouts)
    outcome = entropy_by_outcome(entropies, rewards, where)
    solve_rate = group_mean(rewards, rollouts)
    degenerate = jnp.all((rewards == solve_rate) | ~rollouts, axis=-1, keepdims=True)
    clipped, _ = as_group(clipped, where)
    return BatchMetrics(
        solve_rate=batch_mean(rewards, rollouts),
        zero_variance_fraction=batch_mean(degenerate, group_count(rollouts) > 0),
        mass_success=masses.success,
        mass_failure=masses.failure,
        sign_ratio=sign_ratio(masses),
        entropy=mean_entropy(entropies, where),
        entropy_success=outcome.success,
        entropy_failure=outcome.failure,
        clip_fraction_low=batch_mean(clipped * (advantages < 0)[..., None], where),
        clip_fraction_high=batch_mean(clipped * (advantages > 0)[..., None], where),
    )
