"""What `config.advantage.name` names: a factory of fade_jax.transforms, or a function of one's own.

A dotted name is imported, `my_advantages.mine` from my_advantages.py in the directory of the
command (as `python -m` imports), or `package.module.function` from what is installed. Two kinds of
function serve, told apart by their first parameter:

    def mine(rewards, strength=1.0): ...  # an advantage, [..., group] to the same; lifted
    def mine(strength=1.0): ...  # a factory, returns a fade_jax.transforms.AdvantageTransformation

The other parameters are config.advantage.kwargs. A run is known by the name and these alone: a
function that has been edited wants a new name or a new workdir.
"""

import importlib
import inspect
from collections.abc import Callable
from functools import partial

from experiments.config import ConfigError
from fade_jax import transforms
from fade_jax.transforms import AdvantageTransformation, stateless

# What fade_jax.transforms exports beside factories that a config can call.
NOT_A_METHOD = ("chain", "stateless")
_FIRST = "rewards"  # the first parameter of a plain advantage, here as in fade_jax


def is_own(name: str) -> bool:
    """Whether a name is that of an import, not of a factory of fade_jax.transforms."""
    return "." in name


def factory_of(name: str) -> Callable[..., AdvantageTransformation]:
    """Returns the factory that takes config.advantage.kwargs.

    Args:
      name: of a factory of fade_jax.transforms, or dotted.

    Raises:
      ConfigError: if there is no such factory, or the function cannot be imported.
    """
    if is_own(name):
        return _imported(name)
    factories = [n for n in transforms.__all__ if n[0].islower() and n not in NOT_A_METHOD]
    if name not in factories:
        raise ConfigError(
            f"config.advantage.name must be one of {factories}, or a dotted import path such as"
            f" 'my_advantages.mine', got {name!r}"
        )
    return getattr(transforms, name)


def _imported(name: str) -> Callable[..., AdvantageTransformation]:
    module, _, function = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), function)
        parameters = inspect.signature(found).parameters
    except Exception as error:  # whatever the module does when it is run
        raise ConfigError(
            f"config.advantage.name = {name!r} must be the import path of a function, but"
            f" importing it gives {type(error).__name__}: {error}"
        ) from error
    return _lifted(found) if next(iter(parameters), None) == _FIRST else _checked(found, name)


def _lifted(function: Callable) -> Callable[..., AdvantageTransformation]:
    """A factory with the parameters of a plain advantage, without its rewards and its mask."""

    def factory(**kwargs):
        return stateless(partial(function, **kwargs))

    signature = inspect.signature(function)
    own = [p for name, p in signature.parameters.items() if name not in (_FIRST, "where")]
    factory.__signature__ = signature.replace(parameters=own)
    return factory


def _checked(function: Callable, name: str) -> Callable[..., AdvantageTransformation]:
    """The same factory, which must return a transformation."""

    def factory(**kwargs):
        made = function(**kwargs)
        if not (callable(getattr(made, "init", None)) and callable(getattr(made, "update", None))):
            raise ConfigError(
                f"config.advantage.name = {name!r} must be a function whose first parameter is"
                f" {_FIRST!r}, or return (init, update) as the factories of fade_jax.transforms,"
                f" got {type(made).__name__}"
            )
        return made

    factory.__signature__ = inspect.signature(function)
    return factory
