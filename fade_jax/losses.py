"""Per-token losses and KL estimators; none of them reduces."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_not_negative, check_rate, check_same_shape

# exp overflows float32 above 88; the infinite ratio that a clip hides would then come back as
# 0 · inf = NaN in the gradient.
_MAX_LOG_RATIO = 80.0


def policy_gradient(
    log_probs: ArrayLike, advantages: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
    """Loss whose gradient is the policy gradient of each token.

        L_t = -A · log π(y_t);   no gradient flows into A

    Args:
      log_probs: `[..., group, tokens]`, log π of the sampled tokens, nats.
      advantages: `[..., group]`, one per rollout, or `[..., group, tokens]`, one per token.
      where: `[..., group, tokens]`, true for the tokens that count; the others get 0.

    Returns:
      `[..., group, tokens]`, not reduced.

    Raises:
      ValueError: if the shapes do not match.
    """
    log_probs, advantages, where = _per_token(log_probs, advantages, where)
    return jnp.where(where, -advantages * log_probs, 0)


def clipped_surrogate(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    low: ArrayLike = 0.2,
    high: ArrayLike = 0.28,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Clipped surrogate with separate lower and upper bounds on the probability ratio.

        ρ = π(y_t) / π_old(y_t);   L_t = -min(ρ A, clip(ρ, 1-low, 1+high) A)

    At ρ = 1 its gradient is that of `policy_gradient`, whatever the bounds.

    Args:
      log_probs: `[..., group, tokens]`, log π of the sampled tokens, nats.
      old_log_probs: the same of the policy that sampled them.
      advantages: `[..., group]`, one per rollout, or `[..., group, tokens]`, one per token.
      low: how far below 1 the ratio may go, in (0, 1].
      high: how far above 1 the ratio may go, at least 0.
      where: `[..., group, tokens]`, true for the tokens that count; the others get 0.

    Returns:
      `[..., group, tokens]`, not reduced.

    Raises:
      ValueError: if the shapes do not match or a bound is outside its range.

    From arXiv:1707.06347; the defaults, with a higher upper bound, from arXiv:2503.14476.
    """
    check_rate("low", low)
    check_not_negative("high", high)
    log_probs, advantages, where = _per_token(log_probs, advantages, where)
    ratio = jnp.exp(_log_ratio(log_probs, old_log_probs, where))
    surrogate = jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - low, 1 + high) * advantages)
    return jnp.where(where, -surrogate, 0)


def is_clipped(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    low: ArrayLike = 0.2,
    high: ArrayLike = 0.28,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Tell which tokens have no gradient under `clipped_surrogate` because their ratio is clipped.

        (A > 0 and ρ > 1+high) or (A < 0 and ρ < 1-low)

    Args:
      log_probs: `[..., group, tokens]`, log π of the sampled tokens, nats.
      old_log_probs: the same of the policy that sampled them.
      advantages: `[..., group]`, one per rollout, or `[..., group, tokens]`, one per token.
      low: as in `clipped_surrogate`.
      high: as in `clipped_surrogate`.
      where: `[..., group, tokens]`, true for the tokens that count; the others are not clipped.

    Returns:
      boolean `[..., group, tokens]`.

    Raises:
      ValueError: if the shapes do not match or a bound is outside its range.
    """
    check_rate("low", low)
    check_not_negative("high", high)
    log_probs, advantages, where = _per_token(log_probs, advantages, where)
    ratio = jnp.exp(_log_ratio(log_probs, old_log_probs, where))
    too_high = (advantages > 0) & (ratio > 1 + high)
    too_low = (advantages < 0) & (ratio < 1 - low)
    return where & (too_high | too_low)


def kl_k1(log_probs: ArrayLike, reference_log_probs: ArrayLike) -> jax.Array:
    """Unbiased, high-variance estimate of KL(π ‖ π_ref) from samples of π.

        k1 = log π(y) - log π_ref(y)

    As a loss its expected gradient on-policy is zero: it does not pull π to π_ref.

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
    """Biased, low-variance estimate of KL(π ‖ π_ref) from samples of π.

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
    """Unbiased, low-variance estimate of KL(π ‖ π_ref) from samples of π.

        k3 = ρ - 1 - log ρ,   ρ = π_ref(y) / π(y)

    As a loss its expected gradient on-policy is that of the other direction, KL(π_ref ‖ π).

    Args:
      log_probs: log π of the sampled tokens, nats, any shape.
      reference_log_probs: log π_ref of the same tokens.

    Returns:
      the estimates, in nats, of the same shape; never negative.

    Raises:
      ValueError: if the shapes differ.
    """
    difference = _difference(log_probs, reference_log_probs)
    return jnp.expm1(jnp.minimum(-difference, _MAX_LOG_RATIO)) + difference


def _difference(log_probs: ArrayLike, reference_log_probs: ArrayLike) -> jax.Array:
    log_probs = jnp.asarray(log_probs, jnp.float32)
    reference = jnp.asarray(reference_log_probs, jnp.float32)
    check_same_shape("reference_log_probs", reference, "log_probs", log_probs)
    return log_probs - reference


def _log_ratio(log_probs: jax.Array, old_log_probs: ArrayLike, where: jax.Array) -> jax.Array:
    old_log_probs = jnp.asarray(old_log_probs, jnp.float32)
    check_same_shape("old_log_probs", old_log_probs, "log_probs", log_probs)
    difference = log_probs - jnp.where(where, old_log_probs, 0)
    return jnp.clip(difference, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def _per_token(
    log_probs: ArrayLike, advantages: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Give every argument the shape of `log_probs`, cut the gradient, and zero what is masked."""
    log_probs = jnp.asarray(log_probs, jnp.float32)
    advantages = jax.lax.stop_gradient(jnp.asarray(advantages, jnp.float32))
    if advantages.shape == log_probs.shape[:-1]:
        advantages = advantages[..., None]
    elif advantages.shape != log_probs.shape:
        raise ValueError(
            f"advantages must have the shape of log_probs, {log_probs.shape}, or lack its last "
            f"axis, got {advantages.shape}"
        )
    if where is None:
        return log_probs, advantages, jnp.ones(log_probs.shape, dtype=bool)
    where = jnp.asarray(where, dtype=bool)
    check_same_shape("where", where, "log_probs", log_probs)
    return jnp.where(where, log_probs, 0), advantages, where
