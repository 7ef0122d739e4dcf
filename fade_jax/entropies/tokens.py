"""Exact entropy of token distributions, in nats."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.groups import batch_mean


def token_entropy(logits: ArrayLike) -> jax.Array:
    """Computes the entropy of the softmax of logits.

        H = log Σ_v e^{z_v} - Σ_v p_v z_v,   p = softmax(z)

    Args:
      logits: z, `[..., vocabulary]`, any floating type; -inf marks a token that cannot be drawn.

    Returns:
      `[...]`, nats, float32; NaN if a logit is NaN or +inf, or all are -inf.

    Example:
      >>> print(fade_jax.entropies.token_entropy([0.0, 0.0]).round(4))  # log 2
      0.6931
    """
    log_probs = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    # Two wheres: 0 · -inf is NaN, in the sum and in its gradient.
    possible = log_probs != -jnp.inf
    finite = jnp.where(possible, log_probs, 0)
    return -jnp.sum(jnp.where(possible, jnp.exp(finite) * finite, 0), axis=-1)


def mean_entropy(entropies: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
    """Computes the mean token entropy of a batch, the statistic that FADE reads.

        Σ_t w_t H_t / Σ_t w_t

    Args:
      entropies: H of each token, `[..., tokens]`, nats.
      where: `[..., tokens]`, true for the tokens that count.

    Returns:
      scalar, nats; NaN without tokens. Moving averages skip NaN.
    """
    return batch_mean(entropies, where, name="entropies")
