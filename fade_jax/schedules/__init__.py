"""Schedules: pure functions that turn statistics of training into one scalar, α or δ."""

from fade_jax.schedules.feedback import (
    alpha_from_entropy,
    alpha_from_solve_rate,
    delta_from_entropy,
)
from fade_jax.schedules.pairs import (
    Schedule,
    as_schedule,
    by_step,
    constant,
    follow,
    follow_from_start,
)

__all__ = [
    "Schedule",
    "alpha_from_entropy",
    "alpha_from_solve_rate",
    "as_schedule",
    "by_step",
    "constant",
    "delta_from_entropy",
    "follow",
    "follow_from_start",
]
