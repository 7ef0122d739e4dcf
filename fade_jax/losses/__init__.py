"""Per-token losses, KL estimators, and reductions to a scalar."""

from fade_jax.losses.kl import kl_k1, kl_k2, kl_k3
from fade_jax.losses.policy_gradient import (
    cispo,
    clipped_surrogate,
    is_clipped,
    policy_gradient,
    sequence_surrogate,
)
from fade_jax.losses.reductions import (
    Total,
    constant_length_mean,
    mean,
    sequence_mean,
    token_mean,
)

__all__ = [
    "Total",
    "cispo",
    "clipped_surrogate",
    "constant_length_mean",
    "is_clipped",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "mean",
    "policy_gradient",
    "sequence_mean",
    "sequence_surrogate",
    "token_mean",
]
