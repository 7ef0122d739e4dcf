"""Advantages as plain functions: rewards `[..., group]` in, advantages of the same shape out."""

from fade_jax.advantages.baselines import nsr, psr, reinforce, rloo, w_reinforce
from fade_jax.advantages.best_of_k import leave_one_out_pass_at_g, pass_at_k_training, pkpo
from fade_jax.advantages.building_blocks import (
    center,
    focal_weight,
    standardize,
    suppress_negatives,
    varied_groups,
)
from fade_jax.advantages.focal import asym_grpo, fade, power
from fade_jax.advantages.group_baselines import opo, quantile
from fade_jax.advantages.group_relative import dr_grpo, grpo
from fade_jax.advantages.reweighted import a_grae, f_grpo, log_mean_exp, max_rl
from fade_jax.advantages.whole_batch import gpg, reinforce_plus_plus

__all__ = [
    "a_grae",
    "asym_grpo",
    "center",
    "dr_grpo",
    "f_grpo",
    "fade",
    "focal_weight",
    "gpg",
    "grpo",
    "leave_one_out_pass_at_g",
    "log_mean_exp",
    "max_rl",
    "nsr",
    "opo",
    "pass_at_k_training",
    "pkpo",
    "power",
    "psr",
    "quantile",
    "reinforce",
    "reinforce_plus_plus",
    "rloo",
    "standardize",
    "suppress_negatives",
    "varied_groups",
    "w_reinforce",
]
