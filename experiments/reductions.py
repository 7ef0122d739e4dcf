"""The reductions that a config can name: (losses, mask) -> (sum, denominator).

Sum and denominator stay apart, so that gradient accumulation and sharding divide once.
"""

from fade_jax.losses import Total, constant_length_mean, sequence_mean, token_mean

__all__ = ["sequence_mean", "sequence_sum", "token_mean"]


def sequence_sum(losses, mask) -> Total:
    """Sum over tokens, mean over rollouts: (1/PG) Σ_i Σ_t, the estimator of the spec."""
    return constant_length_mean(losses, mask, length=1)
