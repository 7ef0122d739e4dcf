"""Diagnostics: spectrum of an update, noise of a weight, metrics of a batch."""

from fade_jax.diagnostics.batch import BatchMetrics, batch_metrics
from fade_jax.diagnostics.noise import (
    WeightQuality,
    effective_sample_size,
    weight_moments,
    weight_noise,
    weight_quality,
)
from fade_jax.diagnostics.spectrum import (
    direction_fraction,
    effective_rank,
    randomized_effective_rank,
    randomized_rank_one_fraction,
    rank_one_fraction,
)

__all__ = [
    "BatchMetrics",
    "WeightQuality",
    "batch_metrics",
    "direction_fraction",
    "effective_rank",
    "effective_sample_size",
    "randomized_effective_rank",
    "randomized_rank_one_fraction",
    "rank_one_fraction",
    "weight_moments",
    "weight_noise",
    "weight_quality",
]
