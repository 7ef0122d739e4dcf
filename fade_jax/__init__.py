"""Advantages for RL with verifiable rewards, their gradient masses, and FADE.

Rewards are `[..., group]`: the last axis holds the rollouts of one prompt. Flat rewards `[P * G]`
would be a single group: reshape them to `[P, G]`, or use `groups.by_group`. A mask `where` has the
shape of the array that it masks, and another shape raises a ValueError. Masked entries may hold
anything, NaN included; a NaN that counts makes the advantages of its group NaN.

In formulas r̄ is the mean reward of a group of G rollouts, K its number of successes, p the solve
rate of a prompt, q = 1 - p, and m_S and m_F the gradient masses of successes and failures.
"""

from fade_jax import (
    advantages,
    controllers,
    decomposition,
    densities,
    diagnostics,
    entropies,
    groups,
    losses,
    pass_at_k,
    schedules,
    synthesis,
    transforms,
)
from fade_jax.advantages import (
    a_grae,
    asym_grpo,
    center,
    dr_grpo,
    f_grpo,
    fade,
    focal_weight,
    gpg,
    grpo,
    leave_one_out_pass_at_g,
    likelihood_weight,
    log_mean_exp,
    max_rl,
    nsr,
    opo,
    pass_at_k_training,
    pkpo,
    power,
    power_asym,
    psr,
    quantile,
    reinforce,
    reinforce_plus_plus,
    rloo,
    standardize,
    suppress_negatives,
    tempered_likelihood,
    varied_groups,
    w_reinforce,
)

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "a_grae",
    "advantages",
    "asym_grpo",
    "center",
    "controllers",
    "decomposition",
    "densities",
    "diagnostics",
    "dr_grpo",
    "entropies",
    "f_grpo",
    "fade",
    "focal_weight",
    "gpg",
    "groups",
    "grpo",
    "leave_one_out_pass_at_g",
    "likelihood_weight",
    "log_mean_exp",
    "losses",
    "max_rl",
    "nsr",
    "opo",
    "pass_at_k",
    "pass_at_k_training",
    "pkpo",
    "power",
    "power_asym",
    "psr",
    "quantile",
    "reinforce",
    "reinforce_plus_plus",
    "rloo",
    "schedules",
    "standardize",
    "suppress_negatives",
    "synthesis",
    "tempered_likelihood",
    "transforms",
    "varied_groups",
    "w_reinforce",
]
