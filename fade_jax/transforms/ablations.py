"""FADE with a part taken out or driven by something else.

The paper ablates FADE in four ways. For the last two it publishes no constants: the rules here
are our choice.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_positive, check_rate, check_value
from fade_jax.schedules import (
    alpha_from_entropy,
    alpha_from_solve_rate,
    by_step,
    delta_from_entropy,
)
from fade_jax.transforms.links import AdvantageTransformation, center, chain, focal, suppress


def fade_without_focal(
    *,
    target_entropy: ArrayLike | None = None,
    target_fraction: ArrayLike = 0.5,
    delta_min: ArrayLike = 0.3,
    rate: ArrayLike = 0.02,
    gain: ArrayLike = 1.0,
    initial_entropy: ArrayLike | None = None,
) -> AdvantageTransformation:
    """FADE at α = 1: only δ, driven by the entropy. Arguments as in `fade`."""
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
    """FADE at δ = 1: only α, driven by the solve rate. Arguments as in `fade`."""
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
    """FADE with α driven by the entropy too, as `alpha_from_entropy` says.

    Other arguments as in `fade`.
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
    """FADE's range of α and δ walked by a clock instead of feedback.

        x = min(log(1+t) / log(1+steps), 1);   α = α_max - (α_max - 1) x,   δ = 1 - (1 - δ_min) x

    Our choice: no constants are published for this ablation.

    Args:
      steps: updates after which α = 1 and δ = δ_min, above 0.
      alpha_max: α at the first update, at least 1.
      delta_min: δ after `steps` updates, in (0, 1].

    Returns:
      a transformation whose state holds `alpha` and `delta`.

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
