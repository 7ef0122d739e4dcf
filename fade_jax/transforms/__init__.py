"""Advantages as (init, update) pairs with a state, for a train step that knows only one type.

A config becomes code without a registry: `getattr(transforms, name)(**keywords)`.
"""

from fade_jax.transforms.feedback import alpha_from_solve_rate, delta_from_entropy, fade
from fade_jax.transforms.links import (
    AdvantageState,
    AdvantageTransformation,
    center,
    chain,
    clip,
    focal,
    standardize,
    stateless,
    suppress,
)
from fade_jax.transforms.named import (
    asym_grpo,
    dr_grpo,
    grpo,
    nsr,
    power,
    power_asym,
    psr,
    reinforce,
    rloo,
    w_reinforce,
)

__all__ = [
    "AdvantageState",
    "AdvantageTransformation",
    "alpha_from_solve_rate",
    "asym_grpo",
    "center",
    "chain",
    "clip",
    "delta_from_entropy",
    "dr_grpo",
    "fade",
    "focal",
    "grpo",
    "nsr",
    "power",
    "power_asym",
    "psr",
    "reinforce",
    "rloo",
    "standardize",
    "stateless",
    "suppress",
    "w_reinforce",
]
