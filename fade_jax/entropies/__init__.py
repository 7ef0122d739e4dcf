"""Entropies and log-probabilities of token distributions, in nats."""

from fade_jax.entropies.head import log_prob_and_entropy
from fade_jax.entropies.tokens import mean_entropy, token_entropy

__all__ = ["log_prob_and_entropy", "mean_entropy", "token_entropy"]
