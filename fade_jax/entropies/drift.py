"""First-order change of a tabular softmax policy's entropy under one policy-gradient step.

Both are exact to first order in the step size, for one prompt whose answers are the actions, with
covariances over its actions. They do not describe effects of a finite step, such as the collapse
under success-only weights.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_same_shape
from fade_jax.entropies.tokens import token_entropy


def natural_gradient_drift(logits: ArrayLike, advantages: ArrayLike) -> jax.Array:
    """Computes the rate of change of the entropy under the natural gradient, θ ← θ + η A.

        dH/dη = -Cov_{a~π}(A, log π)

    Args:
      logits: θ, `[..., actions]`.
      advantages: A, the expected advantage of each action, `[..., actions]`.

    Returns:
      `[...]`, nats per unit of step size.

    Raises:
      ValueError: if the shapes differ.
    """
    log_p, advantages = _checked(logits, advantages)
    return -_covariance(jnp.exp(log_p), advantages, log_p)


def vanilla_gradient_drift(logits: ArrayLike, advantages: ArrayLike) -> jax.Array:
    """Computes the rate of change of the entropy under the plain gradient, θ ← θ + η ∇_θ E_π[A].

        dH/dη = -Cov_{a~π}(A, π (log π + H))

    Args:
      logits: θ, `[..., actions]`.
      advantages: A, the expected advantage of each action, `[..., actions]`; no gradient flows
        into it.

    Returns:
      `[...]`, nats per unit of step size.

    Raises:
      ValueError: if the shapes differ.
    """
    log_p, advantages = _checked(logits, advantages)
    p, entropy = jnp.exp(log_p), token_entropy(logits)[..., None]
    return -_covariance(p, advantages, p * (log_p + entropy))


def _checked(logits: ArrayLike, advantages: ArrayLike) -> tuple[jax.Array, jax.Array]:
    logits = jnp.asarray(logits, jnp.float32)
    advantages = jnp.asarray(advantages, jnp.float32)
    check_same_shape("advantages", advantages, "logits", logits)
    return jax.nn.log_softmax(logits, axis=-1), advantages


def _covariance(p: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    centered = x - jnp.sum(p * x, axis=-1, keepdims=True)
    return jnp.sum(p * centered * y, axis=-1)
