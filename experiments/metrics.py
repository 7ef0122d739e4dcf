"""Scalars of one step, computed on the device."""

import jax
import jax.numpy as jnp

from fade_jax.decomposition import empirical_masses


def _ratio(numerator, denominator):
    """numerator / denominator, NaN where the denominator is 0: there is nothing to average."""
    return jnp.where(denominator > 0, numerator / jnp.maximum(denominator, 1e-30), jnp.nan)


def rollout_metrics(rollouts, rewards: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    """Metrics of a batch of rollouts and its advantages.

    Args:
      rollouts: [P, G, T].
      rewards: float32 [P, G].
      weights: float32 [P, G] advantages.

    Returns:
      reward: mean.
      solve_rate: fraction of rollouts with a reward above 1/2.
      entropy_success, entropy_failure: mean token entropy of each, nats; NaN if there is none.
      mass_success, mass_failure: empirical gradient masses m_S and m_F; sign_ratio: m_S / m_F.
      zero_variance_fraction: groups whose rewards are all equal.
      length: mean tokens of a completion, the end token included.
      solve_rate_histogram: [G+1], groups by number of successes.
    """
    success = (rewards > 0.5).astype(jnp.float32)
    lengths = jnp.sum(rollouts.token_mask, axis=-1)
    entropies = jnp.sum(rollouts.entropies, axis=-1)
    masses = empirical_masses(weights, rewards)
    counts = jnp.sum(success, axis=-1).astype(jnp.int32)
    group = rewards.shape[-1]
    return {
        "reward": jnp.mean(rewards),
        "solve_rate": jnp.mean(success),
        "entropy_success": _ratio(jnp.sum(entropies * success), jnp.sum(lengths * success)),
        "entropy_failure": _ratio(
            jnp.sum(entropies * (1 - success)), jnp.sum(lengths * (1 - success))
        ),
        "mass_success": masses.success,
        "mass_failure": masses.failure,
        "sign_ratio": _ratio(masses.success, masses.failure),
        "zero_variance_fraction": jnp.mean(
            (jnp.max(rewards, axis=-1) == jnp.min(rewards, axis=-1)).astype(jnp.float32)
        ),
        "length": jnp.mean(lengths),
        "solve_rate_histogram": jnp.zeros(group + 1, jnp.int32).at[counts.reshape(-1)].add(1),
    }
