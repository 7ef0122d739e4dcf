"""Per-token estimates of KL(π ‖ π_ref) from samples of π, and their expected gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_same_shape

# exp overflows float32 above 88.
_MAX_LOG_RATIO = 80.0


def kl_k1(log_probs: ArrayLike, reference_log_probs: ArrayLike) -> jax.Array:
    """Estimates KL(π ‖ π_ref) from samples of π, without bias and with high variance.

        k1 = log π(y) - log π_ref(y)

    As a loss its expected gradient on-policy is zero: it does not pull π toward π_ref.

    Args:
      log_probs: log π of the sampled tokens, nats, any shape.
      reference_log_probs: log π_ref of the same tokens.

    Returns:
      the estimates, in nats, of the same shape.

    Raises:
      ValueError: if the shapes differ.
    """
    return _difference(log_probs, reference_log_probs)


def kl_k2(log_probs: ArrayLike, reference_log_probs: ArrayLike) -> jax.Array:
    """Estimates KL(π ‖ π_ref) from samples of π, with bias and low variance.

        k2 = ½ (log π(y) - log π_ref(y))²

    As a loss its expected gradient on-policy is that of KL(π ‖ π_ref), without bias.

    Args:
      log_probs: log π of the sampled tokens, nats, any shape.
      reference_log_probs: log π_ref of the same tokens.

    Returns:
      the estimates, in nats, of the same shape; never negative.

    Raises:
      ValueError: if the shapes differ.
    """
    return _difference(log_probs, reference_log_probs) ** 2 / 2


def kl_k3(log_probs: ArrayLike, reference_log_probs: ArrayLike) -> jax.Array:
    """Estimates KL(π ‖ π_ref) from samples of π, without bias and with low variance.

        k3 = ρ - 1 - log ρ,   ρ = π_ref(y) / π(y)

    As a loss its expected gradient on-policy is that of the other direction, KL(π_ref ‖ π).

    Args:
      log_probs: log π of the sampled tokens, nats, any shape.
      reference_log_probs: log π_ref of the same tokens.

    Returns:
      the estimates, in nats, of the same shape; never negative.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> print(fade_jax.losses.kl_k3(jnp.log(0.25), jnp.log(0.5)).round(4))  # 1 - log 2
      0.3069
    """
    difference = _difference(log_probs, reference_log_probs)
    return jnp.expm1(jnp.minimum(-difference, _MAX_LOG_RATIO)) + difference


def _difference(log_probs: ArrayLike, reference_log_probs: ArrayLike) -> jax.Array:
    log_probs = jnp.asarray(log_probs, jnp.float32)
    reference = jnp.asarray(reference_log_probs, jnp.float32)
    check_same_shape("reference_log_probs", reference, "log_probs", log_probs)
    return log_probs - reference
