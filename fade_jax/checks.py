"""Checks of hyperparameters at trace time; traced values pass unchecked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.core
import numpy as np
from jax.typing import ArrayLike


def check_value(
    name: str, value: ArrayLike, allowed: str, holds: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Raises a ValueError if a concrete hyperparameter is not allowed.

    A traced hyperparameter, as in one program for a whole sweep, has no value to check.

    Args:
      name: of the parameter, for the message.
      value: scalar or array; finite.
      allowed: description of the allowed values, for the message.
      holds: elementwise test of the value.

    Raises:
      ValueError: if a concrete value is not finite or fails the test.
    """
    if isinstance(value, jax.core.Tracer):
        return
    concrete = np.asarray(value, dtype=np.float64)
    if not np.all(np.isfinite(concrete) & holds(concrete)):
        raise ValueError(f"{name} must be {allowed}, got {value}")


def check_same_shape(name: str, value: jax.Array, other_name: str, other: jax.Array) -> None:
    """Requires that two arrays have the same shape."""
    # Imported here: chex takes longer to import than the rest of the library.
    import chex

    chex.assert_equal_shape(
        [value, other],
        custom_message=f"{name} must have the shape of {other_name}, {other.shape}, "
        f"got {value.shape}",
        include_default_message=False,
        exception_type=ValueError,
    )


# What docstrings say of rewards, and its elementwise test.
_ALLOWED_REWARDS = {
    "of any real values": lambda r: np.ones_like(r, bool),
    "in [0, 1]": lambda r: (r >= 0) & (r <= 1),
    "0 or 1": lambda r: (r == 0) | (r == 1),
}


def check_rewards(rewards: ArrayLike, where: ArrayLike | None, allowed: str) -> None:
    """Requires that concrete rewards are allowed; NaN and masked rewards pass.

    Args:
      rewards: `[..., group]`.
      where: `[..., group]`, true for the rollouts that count; None counts all of them.
      allowed: "of any real values", "in [0, 1]" or "0 or 1".

    Raises:
      ValueError: if a concrete reward that counts is not allowed.
    """
    holds = _ALLOWED_REWARDS[allowed]
    if isinstance(rewards, jax.core.Tracer) or isinstance(where, jax.core.Tracer):
        return
    concrete = np.asarray(rewards, dtype=np.float64)
    refused = ~(holds(concrete) | np.isnan(concrete))
    if where is not None:
        refused &= np.asarray(where, dtype=bool)
    if np.any(refused):
        raise ValueError(f"rewards must be {allowed}, got {concrete[refused][0]:g}")


def check_finite(name: str, value: ArrayLike) -> None:
    """Requires a finite number."""
    check_value(name, value, "a finite number", np.isfinite)


def check_positive(name: str, value: ArrayLike) -> None:
    """Requires a finite number above 0."""
    check_value(name, value, "a finite number above 0", lambda x: x > 0)


def check_not_negative(name: str, value: ArrayLike) -> None:
    """Requires a finite number of at least 0."""
    check_value(name, value, "a finite number of at least 0", lambda x: x >= 0)


def check_one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Requires one of the allowed strings."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def check_zero_or_one(name: str, value: ArrayLike) -> None:
    """Requires 0 or 1."""
    check_value(name, value, "0 or 1", lambda x: (x == 0) | (x == 1))


def check_integer(name: str, value: ArrayLike, least: int) -> None:
    """Requires an integer of at least `least`."""
    check_value(
        name,
        value,
        f"an integer of at least {least}",
        lambda x: (x >= least) & (x == np.floor(x)),
    )


def check_probability(name: str, value: ArrayLike) -> None:
    """Requires a number in [0, 1]."""
    check_value(name, value, "in [0, 1]", lambda x: (x >= 0) & (x <= 1))


def check_rate(name: str, value: ArrayLike) -> None:
    """Requires a number in (0, 1]."""
    check_value(name, value, "in (0, 1]", lambda x: (x > 0) & (x <= 1))
