"""Entropies and log-probabilities of tokens and sequences, in nats."""

from fade_jax.entropies.drift import natural_gradient_drift, vanilla_gradient_drift
from fade_jax.entropies.head import log_prob_and_entropy
from fade_jax.entropies.sequences import (
    EntropyByOutcome,
    Estimate,
    entropy_by_outcome,
    entropy_by_solve_rate,
    mean_estimate,
    sampled_sequence_entropy,
    sequence_entropy,
)
from fade_jax.entropies.tokens import mean_entropy, token_entropy

__all__ = [
    "EntropyByOutcome",
    "Estimate",
    "entropy_by_outcome",
    "entropy_by_solve_rate",
    "log_prob_and_entropy",
    "mean_entropy",
    "mean_estimate",
    "natural_gradient_drift",
    "sampled_sequence_entropy",
    "sequence_entropy",
    "token_entropy",
    "vanilla_gradient_drift",
]
