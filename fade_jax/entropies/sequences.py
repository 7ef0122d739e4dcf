"""Entropy of whole sequences from samples, and token entropy split by outcome and solve rate."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_integer, check_same_shape
from fade_jax.groups import as_group, batch_mean, group_mean


class Estimate(NamedTuple):
    """A mean over samples and its standard error."""

    mean: jax.Array
    standard_error: jax.Array


def sampled_sequence_entropy(log_probs: ArrayLike, where: ArrayLike | None = None) -> Estimate:
    """Estimates the entropy of a prompt's answers from log-probabilities of samples, without bias.

        Ĥ = -(1/G) Σ_i Σ_t log π(y_it)

    Args:
      log_probs: `[..., group, tokens]`, log π of the sampled tokens, nats, sampled without top-p
        or top-k.
      where: `[..., group, tokens]`, true for the tokens that count.

    Returns:
      `Estimate` `[...]`, nats per sequence.
    """
    return sequence_entropy(-jnp.asarray(log_probs), where)


def sequence_entropy(entropies: ArrayLike, where: ArrayLike | None = None) -> Estimate:
    """Estimates the entropy of a prompt's answers from token entropies of samples, without bias.

        Ĥ = (1/G) Σ_i Σ_t H(π(· | y_{i,<t}))

    Rao-Blackwellizes `sampled_sequence_entropy`: the draw of every token is averaged out, so the
    variance is never larger.

    Args:
      entropies: H of each token, `[..., group, tokens]`, nats.
      where: `[..., group, tokens]`, true for the tokens that count.

    Returns:
      `Estimate` `[...]`, nats per sequence; the error of a group of one is 0.
    """
    entropies, where = as_group(entropies, where, name="entropies")
    sums = jnp.sum(entropies, axis=-1)
    sampled = jnp.any(where, axis=-1)
    count = jnp.sum(sampled, axis=-1, dtype=jnp.float32)
    mean = jnp.sum(sums, axis=-1) / jnp.maximum(count, 1)
    squares = jnp.sum((sums - mean[..., None]) ** 2, axis=-1, where=sampled)
    variance = squares / jnp.maximum(count - 1, 1)
    return Estimate(mean, jnp.sqrt(variance / jnp.maximum(count, 1)))


def mean_estimate(estimates: Estimate) -> Estimate:
    """Averages independent estimates, one for each prompt of a fixed set.

        x̄ = Σ_j x_j / P,   standard error √(Σ_j e_j²) / P

    Args:
      estimates: `[...]`.

    Returns:
      `Estimate` of scalars.
    """
    prompts = max(estimates.mean.size, 1)
    error = jnp.sqrt(jnp.sum(estimates.standard_error**2)) / prompts
    return Estimate(jnp.sum(estimates.mean) / prompts, error)


class EntropyByOutcome(NamedTuple):
    """Mean token entropy of the successes and of the failures, nats; NaN if there are none."""

    success: jax.Array
    failure: jax.Array


def entropy_by_outcome(
    entropies: ArrayLike, rewards: ArrayLike, where: ArrayLike | None = None
) -> EntropyByOutcome:
    """Computes the mean token entropy of successes and of failures.

    Args:
      entropies: H of each token, `[..., group, tokens]`, nats.
      rewards: `[..., group]`, 0 or 1.
      where: `[..., group, tokens]`, true for the tokens that count.

    Returns:
      `EntropyByOutcome` of scalars.

    Raises:
      ValueError: if the shapes do not match.
    """
    entropies, where = as_group(entropies, where, name="entropies")
    success = _per_token(rewards, entropies) > 0.5
    return EntropyByOutcome(
        batch_mean(entropies, where & success), batch_mean(entropies, where & ~success)
    )


def entropy_by_solve_rate(
    entropies: ArrayLike,
    rewards: ArrayLike,
    where: ArrayLike | None = None,
    *,
    num_bins: int = 10,
) -> jax.Array:
    """Computes the mean token entropy in equal bins of the groups' solve rates.

    Args:
      entropies: H of each token, `[..., group, tokens]`, nats.
      rewards: `[..., group]`, 0 or 1; rollouts without a token that counts are left out.
      where: `[..., group, tokens]`, true for the tokens that count.
      num_bins: bins [0, 1/n), …, [1-1/n, 1].

    Returns:
      `[num_bins]`, nats; NaN for an empty bin.

    Raises:
      ValueError: if the shapes do not match or `num_bins` is below 1.
    """
    check_integer("num_bins", num_bins, 1)
    entropies, where = as_group(entropies, where, name="entropies")
    _per_token(rewards, entropies)
    solve_rate = group_mean(rewards, jnp.any(where, axis=-1))
    in_bin = jnp.minimum(jnp.floor(solve_rate * num_bins), num_bins - 1)[..., None]
    return jnp.stack([batch_mean(entropies, where & (in_bin == i)) for i in range(num_bins)])


def _per_token(rewards: ArrayLike, entropies: jax.Array) -> jax.Array:
    rewards = jnp.asarray(rewards)
    check_same_shape("rewards", rewards, "entropies without its last axis", entropies[..., 0])
    return rewards[..., None]
