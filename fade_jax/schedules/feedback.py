"""The feedback of FADE and of its ablations: α and δ from the solve rate and the entropy."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import (
    check_not_negative,
    check_positive,
    check_probability,
    check_rate,
    check_value,
)
from fade_jax.schedules.pairs import Schedule, follow, follow_from_start


def alpha_from_solve_rate(
    alpha_max: ArrayLike = 3.0, rate: ArrayLike = 0.02, initial_solve_rate: ArrayLike = 0.5
) -> Schedule:
    """The exponent at which p^{3/2} q^α peaks at the moving average of the solve rate.

        α = clip(3(1-p̂) / (2p̂), 1, α_max)

    Args:
      alpha_max: upper bound of α, at least 1.
      rate: weight of a new batch in p̂, in (0, 1].
      initial_solve_rate: p̂ before the first batch, in [0, 1].

    Returns:
      a schedule that reads `solve_rate`.

    Raises:
      ValueError: if a value is outside its range.
    """
    check_value("alpha_max", alpha_max, "a finite number of at least 1", lambda x: x >= 1)
    check_rate("rate", rate)
    check_probability("initial_solve_rate", initial_solve_rate)

    def alpha(solve_rate: jax.Array) -> jax.Array:
        p = jnp.maximum(solve_rate, jnp.finfo(jnp.float32).tiny)
        return jnp.clip(1.5 * (1 - p) / p, 1, alpha_max)

    return follow("solve_rate", alpha, rate, initial_solve_rate)


def delta_from_entropy(
    target_entropy: ArrayLike | None = None,
    target_fraction: ArrayLike = 0.5,
    delta_min: ArrayLike = 0.3,
    rate: ArrayLike = 0.02,
    gain: ArrayLike = 1.0,
    initial_entropy: ArrayLike | None = None,
) -> Schedule:
    """Let δ fall below 1, which weighs failures more, once the entropy is below a target.

        δ = clip(1 + gain (Ĥ - H*), δ_min, 1),   H* = target_entropy or target_fraction · Ĥ₀

    Args:
      target_entropy: H* in nats; None takes it from `target_fraction`.
      target_fraction: H* as a fraction of the initial entropy Ĥ₀; read when `target_entropy` is
        None.
      delta_min: lower bound of δ, in (0, 1].
      rate: weight of a new batch in Ĥ, in (0, 1].
      gain: change of δ per nat of Ĥ - H*; 1 as published.
      initial_entropy: Ĥ₀, mean token entropy of the initial policy in nats; None takes it from
        the first batch, which comes from that policy.

    Returns:
      a schedule that reads `entropy`.

    Raises:
      ValueError: if a value is outside its range.
    """
    check_rate("delta_min", delta_min)
    check_rate("rate", rate)
    check_not_negative("gain", gain)
    if target_entropy is None:
        check_positive("target_fraction", target_fraction)
    else:
        check_positive("target_entropy", target_entropy)
    if initial_entropy is not None:
        check_positive("initial_entropy", initial_entropy)

    def delta(entropy: jax.Array, initial: jax.Array) -> jax.Array:
        target = target_fraction * initial if target_entropy is None else target_entropy
        return jnp.clip(1 + gain * (entropy - target), delta_min, 1)

    return follow_from_start("entropy", delta, rate, initial_entropy)


def alpha_from_entropy(
    alpha_max: ArrayLike = 3.0,
    rate: ArrayLike = 0.02,
    initial_entropy: ArrayLike | None = None,
) -> Schedule:
    """The exponent falls with the entropy, from α_max at the initial policy to 1 at none.

        α = 1 + (α_max - 1) clip(Ĥ/Ĥ₀, 0, 1)

    Our choice: no constants are published for this ablation.

    Args:
      alpha_max: α at the initial entropy, at least 1.
      rate: weight of a new batch in Ĥ, in (0, 1].
      initial_entropy: Ĥ₀ in nats; None takes it from the first batch.

    Returns:
      a schedule that reads `entropy`.

    Raises:
      ValueError: if a value is outside its range.
    """
    check_value("alpha_max", alpha_max, "a finite number of at least 1", lambda x: x >= 1)
    if initial_entropy is not None:
        check_positive("initial_entropy", initial_entropy)

    def alpha(entropy: jax.Array, initial: jax.Array) -> jax.Array:
        share = entropy / jnp.maximum(initial, jnp.finfo(jnp.float32).tiny)
        return 1 + (jnp.asarray(alpha_max) - 1) * jnp.clip(share, 0, 1)

    return follow_from_start("entropy", alpha, rate, initial_entropy)
