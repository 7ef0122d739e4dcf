"""Decomposition of any advantage: gradient masses, expected weight, implied objective, scale."""

from fade_jax.decomposition import large_group, objectives
from fade_jax.decomposition.empirical import (
    BinnedMasses,
    empirical_masses,
    empirical_masses_by_bin,
    empirical_signed_masses,
    sign_ratio,
)
from fade_jax.decomposition.exact import (
    GradientMasses,
    OutcomeWeights,
    bernstein,
    equalize_scale,
    expected_weight,
    gradient_masses,
    implied_objective,
    mean_masses,
    outcome_weights,
    peak_solve_rate,
    signed_masses,
)

__all__ = [
    "BinnedMasses",
    "GradientMasses",
    "OutcomeWeights",
    "bernstein",
    "empirical_masses",
    "empirical_masses_by_bin",
    "empirical_signed_masses",
    "equalize_scale",
    "expected_weight",
    "gradient_masses",
    "implied_objective",
    "large_group",
    "mean_masses",
    "objectives",
    "outcome_weights",
    "peak_solve_rate",
    "sign_ratio",
    "signed_masses",
]
