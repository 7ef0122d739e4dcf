"""Advantages as plain functions: rewards `[..., group]` in, advantages of the same shape out."""

from fade_jax.advantages.baselines import nsr, psr, reinforce, rloo, w_reinforce
from fade_jax.advantages.building_blocks import (
    center,
    focal_weight,
    standardize,
    suppress_negatives,
)
from fade_jax.advantages.focal import asym_grpo, fade, power
from fade_jax.advantages.group_relative import dr_grpo, grpo

__all__ = [
    "asym_grpo",
    "center",
    "dr_grpo",
    "fade",
    "focal_weight",
    "grpo",
    "nsr",
    "power",
    "psr",
    "reinforce",
    "rloo",
    "standardize",
    "suppress_negatives",
    "w_reinforce",
]
