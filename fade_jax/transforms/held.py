"""Weights on hard prompts that a controller moves until the policy's entropy is at its target.

The more an advantage weighs hard prompts, the more entropy its updates leave.
"""

from __future__ import annotations

from jax.typing import ArrayLike

from fade_jax.checks import check_not_negative
from fade_jax.controllers import pi_controller
from fade_jax.transforms.base import AdvantageTransformation
from fade_jax.transforms.fade import power
from fade_jax.transforms.tempered import tempered_likelihood


def tempered_holding_entropy(
    *,
    target_fraction: ArrayLike,
    start: ArrayLike = 0.5,
    gain: ArrayLike = 2.0,
    integral_gain: ArrayLike = 0.05,
    low: ArrayLike = 0.0,
    high: ArrayLike = 3.0,
    rate: ArrayLike = 0.2,
) -> AdvantageTransformation:
    """Moves β of `tempered_likelihood` to hold the entropy at a fraction of its first value.

    `update` takes the statistic `entropy`, in nats per token. β = 0 does nothing against a falling
    entropy, and `high` bounds what can be done.

    Args:
      target_fraction: of the first entropy, above 0.
      start: β while the entropy is at its target from the beginning.
      gain: β per nat of the error, above 0.
      integral_gain: β per nat and update, at least 0.
      low: smallest β, at least 0.
      high: largest β, above `low`.
      rate: weight of a new entropy in its moving average, in (0, 1].

    Raises:
      ValueError: if a number is outside its range (fade_jax.controllers.pi_controller).
    """
    return tempered_likelihood(_held(target_fraction, start, gain, integral_gain, low, high, rate))


def power_holding_entropy(
    *,
    target_fraction: ArrayLike,
    start: ArrayLike = 2.0,
    gain: ArrayLike = 4.0,
    integral_gain: ArrayLike = 0.1,
    low: ArrayLike = 1.0,
    high: ArrayLike = 8.0,
    rate: ArrayLike = 0.2,
) -> AdvantageTransformation:
    """Moves α of `power` to hold the entropy at a fraction of its first value.

    Arguments as in `tempered_holding_entropy`, of α in place of β. α = 1 weighs all prompts as GRPO
    without its deviation does.
    """
    return power(_held(target_fraction, start, gain, integral_gain, low, high, rate))


def _held(target_fraction, start, gain, integral_gain, low, high, rate):
    check_not_negative("low", low)
    return pi_controller(
        "entropy",
        target_fraction=target_fraction,
        start=start,
        gain=gain,
        integral_gain=integral_gain,
        low=low,
        high=high,
        rate=rate,
    )
