"""Advantages as plain functions: rewards `[..., group]` to advantages of that shape."""

from fade_jax.advantages.base import (
    center,
    focal_weight,
    standardize,
    suppress_negatives,
    varied_groups,
)
from fade_jax.advantages.focal import (
    a_grae,
    asym_grpo,
    f_grpo,
    fade,
    log_mean_exp,
    max_rl,
    power,
    power_asym,
)
from fade_jax.advantages.pass_at_k import leave_one_out_pass_at_g, pass_at_k_training, pkpo
from fade_jax.advantages.reinforce import (
    dr_grpo,
    gpg,
    grpo,
    nsr,
    opo,
    psr,
    quantile,
    reinforce,
    reinforce_plus_plus,
    rloo,
    w_reinforce,
)

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
    "power_asym",
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
