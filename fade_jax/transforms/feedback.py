"""FADE: focal weight and suppression of negatives, driven by solve rate and entropy."""

from jax.typing import ArrayLike

from fade_jax.schedules import alpha_from_solve_rate, delta_from_entropy
from fade_jax.transforms.links import AdvantageTransformation, center, chain, focal, suppress


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
    """Focal, asymmetric advantages whose α follows the solve rate and whose δ the entropy (FADE).

        α = clip(3(1-p̂) / (2p̂), 1, α_max),   δ = clip(1 + gain (Ĥ - H*), δ_min, 1)
        A_i = (1 - r̄)^{α-1} (r_i - r̄) · {1 if r_i ≥ r̄ else 1/δ}

    Every `update` takes the statistic `entropy`, the mean token entropy of the batch in nats. The
    solve rate is the mean reward of the batch. Both averages are updated first and read after.

    Args:
      target_entropy: H* in nats (the paper used 0.5, 1.0 and 1.3); None takes it from
        `target_fraction`. A higher target means an earlier bias to failures.
      target_fraction: H* as a fraction of the initial entropy; read when `target_entropy` is
        None. About a half worked best in the paper.
      alpha_max: upper bound of α, at least 1.
      delta_min: lower bound of δ, in (0, 1].
      rate: weight of a new batch in both averages, in (0, 1]. We read the paper's coefficient as
        0.02 for the new value; for the other reading give 0.98.
      gain: change of δ per nat of Ĥ - H*; 1 as published. δ is not free of scale: at gain 1 a
        gap of 0.7 nats reaches δ_min = 0.3, which a small model's entropy may never show.
      initial_solve_rate: p̂ before the first batch, in [0, 1].
      initial_entropy: mean token entropy of the initial policy in nats; None takes it from the
        first batch, which comes from that policy.

    Returns:
      a transformation whose state holds `alpha` and `delta`.

    Raises:
      ValueError: if a value is outside its range.

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
