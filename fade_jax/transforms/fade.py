"""FADE, its ablations, and its parts at a fixed α and δ: chains of center, focal and suppress."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax import advantages as plain
from fade_jax.checks import check_finite, check_positive, check_rate, check_value
from fade_jax.schedules import (
    alpha_from_entropy,
    alpha_from_solve_rate,
    by_step,
    delta_from_entropy,
)
from fade_jax.transforms.base import (
    AdvantageTransformation,
    ScheduleLike,
    chain,
    focal,
    stateless,
    suppress,
)
from fade_jax.transforms.lifted import center, dr_grpo


def asym_grpo(delta: ScheduleLike) -> AdvantageTransformation:
    """Chains `fade_jax.asym_grpo` so that the state holds `delta`.

    Args:
      delta: δ > 0, or a schedule of it, as in `suppress`.
    """
    return chain(dr_grpo(), suppress(delta))


def power(alpha: ScheduleLike, scale: ArrayLike = 1.0) -> AdvantageTransformation:
    """Chains `fade_jax.power` so that the state holds `alpha`.

    Args:
      alpha: α ≥ 0, or a schedule of it, as in `focal`.
      scale: C.
    """
    check_finite("scale", scale)

    def scaled(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
        return jnp.asarray(scale) * plain.dr_grpo(rewards, where=where)

    return chain(stateless(scaled), focal(alpha))


def power_asym(alpha: ScheduleLike, delta: ScheduleLike) -> AdvantageTransformation:
    """Chains `fade_jax.power_asym` so that the state holds `alpha` and `delta`.

    Args:
      alpha: α ≥ 0, or a schedule of it, as in `focal`.
      delta: δ > 0, or a schedule of it, as in `suppress`.
    """
    return chain(dr_grpo(), focal(alpha), suppress(delta))


def fade(
    *,
    target_entropy: ArrayLike | None = None,
    target_fraction: ArrayLike = 0.5,
    alpha_max: ArrayLike = 3.0,
    delta_min: ArrayLike = 0.3,
    rate: ArrayLike = 0.02,
    gain: ArrayLike = 1.0,
    initial_solve_rate: ArrayLike = 0.5,
    initial_entropy: ArrayLike | None = None,
) -> AdvantageTransformation:
    """Chains focal and asymmetric weights, α from the solve rate and δ from the entropy (FADE).

        α = clip(3(1-p̂) / (2p̂), 1, α_max),   δ = clip(1 + gain (Ĥ - H*), δ_min, 1)
        A_i = (1 - r̄)^{α-1} (r_i - r̄) · {1 if r_i ≥ r̄ else 1/δ}

    Every `update` takes the statistic `entropy`, the mean token entropy of the batch in nats. The
    solve rate is the mean reward of the batch. Both averages include the present batch.

    Args:
      target_entropy: H* in nats (the paper used 0.5, 1.0 and 1.3); None takes it from
        `target_fraction`. A higher target means an earlier bias to failures.
      target_fraction: H* as a fraction of the initial entropy; read when `target_entropy` is
        None. About a half worked best in the paper.
      alpha_max: upper bound of α, at least 1.
      delta_min: lower bound of δ, in (0, 1].
      rate: weight of a new batch in both averages, in (0, 1]. We read the paper's coefficient as
        0.02 for the new value; for the other reading give 0.98.
      gain: change of δ per nat of Ĥ - H*; 1 as published. At gain 1 δ reaches
        δ_min = 0.3 at a gap of 0.7 nats, more than the entropy of a small model may ever fall.
      initial_solve_rate: p̂ before the first batch, in [0, 1].
      initial_entropy: mean token entropy of the initial policy in nats; None takes it from the
        first batch, which comes from that policy.

    Returns:
      a transformation, a chain, whose state holds `alpha` and `delta` of the last update:
      `optax.tree_utils.tree_get(state, "alpha")`.

    Raises:
      ValueError: if a value is outside its range.

    Example:
      >>> fade = fade_jax.transforms.fade()
      >>> rewards = jnp.array([[1, 0, 0, 0]])
      >>> advantages, state = fade.update(rewards, fade.init(), entropy=1.0)
      >>> alpha = optax.tree_utils.tree_get(state, "alpha")
      >>> print(f"{alpha:.3f}")  # 3 · 0.505 / (2 · 0.495)
      1.530

    From arXiv:2607.01490.
    """
    return chain(
        center(),
        focal(alpha_from_solve_rate(alpha_max, rate, initial_solve_rate)),
        suppress(
            delta_from_entropy(
                target_entropy, target_fraction, delta_min, rate, gain, initial_entropy
            )
        ),
    )


def fade_without_focal(
    *,
    target_entropy: ArrayLike | None = None,
    target_fraction: ArrayLike = 0.5,
    delta_min: ArrayLike = 0.3,
    rate: ArrayLike = 0.02,
    gain: ArrayLike = 1.0,
    initial_entropy: ArrayLike | None = None,
) -> AdvantageTransformation:
    """Fixes α = 1 in FADE; δ follows the entropy. Arguments as in `fade`."""
    return chain(
        center(),
        suppress(
            delta_from_entropy(
                target_entropy, target_fraction, delta_min, rate, gain, initial_entropy
            )
        ),
    )


def fade_without_suppression(
    *,
    alpha_max: ArrayLike = 3.0,
    rate: ArrayLike = 0.02,
    initial_solve_rate: ArrayLike = 0.5,
) -> AdvantageTransformation:
    """Fixes δ = 1 in FADE; α follows the solve rate. Arguments as in `fade`."""
    return chain(center(), focal(alpha_from_solve_rate(alpha_max, rate, initial_solve_rate)))


def fade_from_entropy(
    *,
    target_entropy: ArrayLike | None = None,
    target_fraction: ArrayLike = 0.5,
    alpha_max: ArrayLike = 3.0,
    delta_min: ArrayLike = 0.3,
    rate: ArrayLike = 0.02,
    gain: ArrayLike = 1.0,
    initial_entropy: ArrayLike | None = None,
) -> AdvantageTransformation:
    """Sets both α and δ of FADE from the entropy, α by `alpha_from_entropy`.

    Arguments as in `fade`.
    """
    return chain(
        center(),
        focal(alpha_from_entropy(alpha_max, rate, initial_entropy)),
        suppress(
            delta_from_entropy(
                target_entropy, target_fraction, delta_min, rate, gain, initial_entropy
            )
        ),
    )


def fade_log_decay(
    *, steps: ArrayLike, alpha_max: ArrayLike = 3.0, delta_min: ArrayLike = 0.3
) -> AdvantageTransformation:
    """Moves α and δ through FADE's range by the step instead of by feedback.

        x = min(log(1+t) / log(1+steps), 1);   α = α_max - (α_max - 1) x,   δ = 1 - (1 - δ_min) x

    The formula is ours: none is published for this ablation.

    Args:
      steps: updates after which α = 1 and δ = δ_min, above 0.
      alpha_max: α at the first update, at least 1.
      delta_min: δ after `steps` updates, in (0, 1].

    Returns:
      a transformation, a chain, whose state holds `alpha` and `delta` of the last update:
      `optax.tree_utils.tree_get(state, "alpha")`.

    Raises:
      ValueError: if a value is outside its range.
    """
    check_positive("steps", steps)
    check_value("alpha_max", alpha_max, "a finite number of at least 1", lambda x: x >= 1)
    check_rate("delta_min", delta_min)

    def passed(step: jax.Array) -> jax.Array:
        return jnp.minimum(jnp.log1p(step) / jnp.log1p(steps), 1)

    return chain(
        center(),
        focal(by_step(lambda step: alpha_max - (alpha_max - 1) * passed(step))),
        suppress(by_step(lambda step: 1 - (1 - delta_min) * passed(step))),
    )
