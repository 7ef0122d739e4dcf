"""Clear refusals of a task's keyword arguments, which come from a config."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def check_keywords(factory: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    """Refuses keywords that a task factory does not have.

    Args:
      factory: the function that will be called with them.
      keywords: names and values from the config's `task.kwargs`.

    Raises:
      ValueError: naming the unknown field, its value and the fields allowed.
    """
    allowed = [
        name
        for name, parameter in inspect.signature(factory).parameters.items()
        if name != "tokenizer" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    for name, value in keywords.items():
        if name not in allowed:
            raise ValueError(
                f"task.kwargs has no field {name!r} (got {value!r}); allowed: {', '.join(allowed)}"
            )


def check_at_least(name: str, value: float, least: float) -> None:
    """Raises ValueError, naming the field and its value, unless value >= least."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_fraction(name: str, value: float) -> None:
    """Raises ValueError, naming the field and its value, unless 0 < value < 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
