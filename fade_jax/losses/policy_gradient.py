"""Per-token policy-gradient losses, not reduced."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_not_negative, check_rate, check_same_shape, check_value

# exp overflows float32 above 88; the infinite ratio that a clip hides would then come back as
# 0 · inf = NaN in the gradient.
_MAX_LOG_RATIO = 80.0


def policy_gradient(
    log_probs: ArrayLike, advantages: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
    """Computes the loss whose gradient is the policy gradient of each token.

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
    dual: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Computes the clipped surrogate, with separate bounds below and above the ratio 1.

        ρ = π(y_t) / π_old(y_t);   L_t = -min(ρ A, clip(ρ, 1-low, 1+high) A)
        and for A < 0 at most dual · |A|

    At ρ = 1 its gradient is that of `policy_gradient`, for any bounds.

    Args:
      log_probs: `[..., group, tokens]`, log π of the sampled tokens, nats.
      old_log_probs: log π_old of the same tokens, from the policy that sampled them.
      advantages: `[..., group]`, one per rollout, or `[..., group, tokens]`, one per token.
      low: how far below 1 the ratio may go, in (0, 1].
      high: how far above 1 the ratio may go, at least 0.
      dual: above 1; a token with a negative advantage and a larger ratio has no gradient either
        (dual clip). None turns it off.
      where: `[..., group, tokens]`, true for the tokens that count; the others get 0.

    Returns:
      `[..., group, tokens]`, not reduced.

    Raises:
      ValueError: if the shapes do not match or a bound is outside its range.

    Example:
      >>> old, new = jnp.log(jnp.array([[0.25]])), jnp.log(jnp.array([[0.5]]))
      >>> print(fade_jax.losses.clipped_surrogate(new, old, jnp.array([1.0])))  # the ratio is 2
      [[-1.28]]

    From arXiv:1707.06347; the defaults, with a higher upper bound, from arXiv:2503.14476; the
    dual clip from arXiv:1912.09729.
    """
    _check_bounds(low, high, dual)
    log_probs, advantages, where = _per_token(log_probs, advantages, where)
    ratio = jnp.exp(_log_ratio(log_probs, old_log_probs, where))
    return jnp.where(where, -_pessimistic(ratio, advantages, low, high, dual), 0)


def is_clipped(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    low: ArrayLike = 0.2,
    high: ArrayLike = 0.28,
    dual: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Returns which tokens have no gradient under `clipped_surrogate` because of clipping.

        (A > 0 and ρ > 1+high) or (A < 0 and (ρ < 1-low or ρ > dual))

    Args:
      log_probs: `[..., group, tokens]`, log π of the sampled tokens, nats.
      old_log_probs: log π_old of the same tokens, from the policy that sampled them.
      advantages: `[..., group]`, one per rollout, or `[..., group, tokens]`, one per token.
      low: as in `clipped_surrogate`.
      high: as in `clipped_surrogate`.
      dual: as in `clipped_surrogate`.
      where: `[..., group, tokens]`, true for the tokens that count; the others are not clipped.

    Returns:
      boolean `[..., group, tokens]`.

    Raises:
      ValueError: if the shapes do not match or a bound is outside its range.
    """
    _check_bounds(low, high, dual)
    log_probs, advantages, where = _per_token(log_probs, advantages, where)
    ratio = jnp.exp(_log_ratio(log_probs, old_log_probs, where))
    too_high = (advantages > 0) & (ratio > 1 + high)
    too_low = (advantages < 0) & (ratio < 1 - low)
    if dual is not None:
        too_high |= (advantages < 0) & (ratio > dual)
    return where & (too_high | too_low)


def sequence_surrogate(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    low: ArrayLike = 3e-4,
    high: ArrayLike = 4e-4,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Computes the clipped surrogate with one ratio for the whole sequence (GSPO).

        s = (π(y) / π_old(y))^{1/|y|};   s_t = sg(s) π(y_t) / sg(π(y_t))
        L_t = -min(s_t A, clip(s_t, 1-low, 1+high) A)

    Every token has the value of its sequence; the mean over the tokens of a sequence has the
    gradient of s.

    Args:
      log_probs: `[..., group, tokens]`, log π of the sampled tokens, nats.
      old_log_probs: log π_old of the same tokens, from the policy that sampled them.
      advantages: `[..., group]`, one per rollout, or `[..., group, tokens]`, one per token.
      low: how far below 1 the ratio may go, in (0, 1].
      high: how far above 1 the ratio may go, at least 0.
      where: `[..., group, tokens]`, true for the tokens that count; the others get 0.

    Returns:
      `[..., group, tokens]`, not reduced.

    Raises:
      ValueError: if the shapes do not match or a bound is outside its range.

    From arXiv:2507.18071.
    """
    _check_bounds(low, high)
    log_probs, advantages, where = _per_token(log_probs, advantages, where)
    log_ratio = _log_ratio(log_probs, old_log_probs, where)
    length = jnp.maximum(jnp.sum(where, axis=-1, keepdims=True), 1)
    of_sequence = jnp.sum(log_ratio, axis=-1, keepdims=True, where=where) / length
    of_token = log_probs - jax.lax.stop_gradient(log_probs)
    ratio = jnp.exp(jax.lax.stop_gradient(of_sequence) + of_token)
    return jnp.where(where, -_pessimistic(ratio, advantages, low, high), 0)


def cispo(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    low: ArrayLike = 1.0,
    high: ArrayLike = 0.28,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Computes the policy gradient with a clipped importance weight on every token (CISPO).

        L_t = -sg(clip(ρ, 1-low, 1+high)) A log π(y_t)

    Args:
      log_probs: `[..., group, tokens]`, log π of the sampled tokens, nats.
      old_log_probs: log π_old of the same tokens, from the policy that sampled them.
      advantages: `[..., group]`, one per rollout, or `[..., group, tokens]`, one per token.
      low: how far below 1 the weight may go, in (0, 1]; 1 is no lower bound, as published.
      high: how far above 1 the weight may go, at least 0; the default is ours.
      where: `[..., group, tokens]`, true for the tokens that count; the others get 0.

    Returns:
      `[..., group, tokens]`, not reduced.

    Raises:
      ValueError: if the shapes do not match or a bound is outside its range.

    From arXiv:2506.13585.
    """
    _check_bounds(low, high)
    log_probs, advantages, where = _per_token(log_probs, advantages, where)
    ratio = jnp.exp(_log_ratio(log_probs, old_log_probs, where))
    weight = jax.lax.stop_gradient(jnp.clip(ratio, 1 - low, 1 + high))
    return jnp.where(where, -weight * advantages * log_probs, 0)


def _check_bounds(low: ArrayLike, high: ArrayLike, dual: ArrayLike | None = None) -> None:
    check_rate("low", low)
    check_not_negative("high", high)
    if dual is not None:
        check_value("dual", dual, "a finite number above 1", lambda x: x > 1)


def _pessimistic(
    ratio: jax.Array,
    advantages: jax.Array,
    low: ArrayLike,
    high: ArrayLike,
    dual: ArrayLike | None = None,
) -> jax.Array:
    """Returns the smaller of the plain and the clipped objective."""
    surrogate = jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - low, 1 + high) * advantages)
    if dual is None:
        return surrogate
    return jnp.where(advantages < 0, jnp.maximum(surrogate, dual * advantages), surrogate)


def _log_ratio(log_probs: jax.Array, old_log_probs: ArrayLike, where: jax.Array) -> jax.Array:
    old_log_probs = jnp.asarray(old_log_probs, jnp.float32)
    check_same_shape("old_log_probs", old_log_probs, "log_probs", log_probs)
    difference = log_probs - jnp.where(where, old_log_probs, 0)
    return jnp.clip(difference, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def _per_token(
    log_probs: ArrayLike, advantages: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Broadcasts to the shape of `log_probs`, stops gradients and sets masked values to 0."""
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
