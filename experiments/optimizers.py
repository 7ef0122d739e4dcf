"""Optimizers and schedules of the learning rate, by their names in optax.

Imports nothing of ours but config. Above: learner, validation, step_functions.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from experiments.config import Config, ConfigError

# Fields of config.optimizer that are arguments; other optimizers have their own defaults.
_FIELDS = {"adamw": ("b1", "b2", "eps", "weight_decay"), "sgd": ("momentum",)}
_NOT_NAMES = ("norm", "bias")  # of parameters that do not decay


def make_optimizer(settings: Config, learning_rate: Any) -> optax.GradientTransformation:
    """Returns the optimizer of `config.optimizer`.

    The rate of update n, from 0 on, is

        learning_rate · min(1, (n + 1) / warmup_updates) · schedule(n - warmup_updates)

    Args:
      settings: config.optimizer.
      learning_rate: float32 []; may be traced.

    Raises:
      ConfigError: for a name that optax does not have, or an argument that it does not take.
    """
    factor = make_schedule(settings.schedule.name, settings.schedule.kwargs.to_dict())
    warmup = settings.warmup_updates

    def rate(count):
        scale = jnp.minimum((count + 1) / max(warmup, 1), 1.0)
        if settings.schedule.name != "constant":
            scale *= factor(jnp.maximum(count - warmup, 0))
        return learning_rate * scale

    links = []
    if settings.max_gradient_norm:
        links.append(optax.clip_by_global_norm(float(settings.max_gradient_norm)))
    if settings.name == "sgd":  # which has no decay of its own
        if settings.weight_decay:
            links.append(optax.add_decayed_weights(float(settings.weight_decay), decays))
        else:
            links.append(optax.add_decayed_weights(0.0))
    function = optimizer_of(settings.name)
    links.append(function(rate, **_arguments(function, settings)))
    return optax.chain(*links)


def optimizer_of(name: str) -> Callable[..., Any]:
    """Returns a function of optax or optax.contrib that makes an optimizer.

    Raises:
      ConfigError: if there is none of this name.
    """
    for module in (optax, optax.contrib):
        found = getattr(module, name, None)
        if callable(found) and not isinstance(found, type):
            first = next(iter(inspect.signature(found).parameters), "")
            if first == "learning_rate":
                return found
    raise ConfigError(
        "config.optimizer.name must be an optimizer of optax that takes a learning rate, such as"
        f" adamw, adafactor, lion, sgd or muon, got {name!r}"
    )


def _arguments(function: Callable, settings: Config) -> dict[str, Any]:
    """The arguments of an optimizer from the fields that it has, then from kwargs."""
    taken = inspect.signature(function).parameters
    fields = _FIELDS.get(settings.name, ("weight_decay",) if "weight_decay" in taken else ())
    given: dict[str, Any] = {name: float(settings[name]) for name in fields}
    if settings.weight_decay and "weight_decay" not in given and settings.name != "sgd":
        raise ConfigError(
            f"config.optimizer.weight_decay must be 0 for {settings.name}, which has no argument"
            f" of this name, got {settings.weight_decay}"
        )
    if "momentum" in given:
        given["momentum"] = given["momentum"] or None  # no momentum, not one of 0
    mask = next((name for name in ("mask", "weight_decay_mask") if name in taken), None)
    if mask and given.get("weight_decay"):  # without it the state is that of earlier versions
        given[mask] = decays
    if settings.moments_dtype != "float32":
        if "mu_dtype" not in taken:
            raise ConfigError(
                f"config.optimizer.moments_dtype must be 'float32' for {settings.name}, which has"
                f" no other, got {settings.moments_dtype!r}"
            )
        given["mu_dtype"] = settings.moments_dtype
    if settings.name == "muon":
        given["muon_weight_dimension_numbers"] = _matrices
    return given | settings.kwargs.to_dict()


def _matrices(params: Any) -> Any:
    """Tells Muon which parameters are matrices: those of the layers, stacked [L, in, out]."""

    def of_leaf(path, leaf):
        stacked = str(getattr(path[0], "key", path[0])) == "layers"
        return optax.contrib.MuonDimensionNumbers(1, 2) if stacked and leaf.ndim == 3 else None

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def decays(params: Any) -> Any:
    """Tells which parameters weight decay pulls at: all but norms and biases."""

    def of_leaf(path, _):
        name = str(getattr(path[-1], "key", path[-1])).lower()
        return not any(part in name for part in _NOT_NAMES)

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def linear(decay_updates: int, end: float = 0.0) -> optax.Schedule:
    """From 1 to `end` in `decay_updates` updates."""
    return optax.linear_schedule(1.0, end, decay_updates)


def cosine(decay_updates: int, end: float = 0.0) -> optax.Schedule:
    """From 1 to `end` in `decay_updates` updates, along half a cosine."""
    return optax.cosine_decay_schedule(1.0, decay_updates, end)


def warmup_stable_decay(
    stable_updates: int, decay_updates: int, end: float = 0.0
) -> optax.Schedule:
    """1 for `stable_updates` updates, then linearly to `end`; `warmup_updates` come before."""
    return optax.join_schedules(
        [optax.constant_schedule(1.0), linear(decay_updates, end)], [stable_updates]
    )


def constant() -> optax.Schedule:
    """1 throughout."""
    return optax.constant_schedule(1.0)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    function.__name__: function for function in (constant, linear, cosine, warmup_stable_decay)
}


def make_schedule(
    name: str, kwargs: Mapping[str, Any], field: str = "optimizer.schedule"
) -> optax.Schedule:
    """Returns what a learning rate or a coefficient is multiplied by, at each update.

    Args:
      name: a key of SCHEDULES, or the import path of a function (**kwargs) -> (count -> factor).
      kwargs: its arguments.
      field: of the config, for error messages.

    Raises:
      ConfigError: if there is no such function, or it does not take these arguments.
    """
    if name in SCHEDULES:
        function = SCHEDULES[name]
    else:
        module, _, attribute = name.rpartition(".")
        try:
            function = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # the module's code may raise anything
            raise ConfigError(
                f"config.{field}.name must be one of {', '.join(SCHEDULES)} or the"
                f" import path of a function, got {name!r}: {type(error).__name__}: {error}"
            ) from error
    try:
        inspect.signature(function).bind(**kwargs)
        schedule = function(**kwargs)
        with jax.ensure_compile_time_eval():  # this may be called while a step is traced
            value = float(np.asarray(schedule(0)))
    except Exception as error:  # a user's function may raise anything
        raise ConfigError(
            f"config.{field}.kwargs do not fit {name}: {error}; it takes"
            f" {inspect.signature(function)}"
        ) from error
    if not value >= 0:
        raise ConfigError(f"config.{field} must be >= 0, {name} begins with {value}")
    return schedule


def check_optimizer(settings: Config) -> None:
    """Makes the optimizer and its state for a small tree, before any work.

    Raises:
      ConfigError: naming what does not fit.
    """
    params = {"norm": jnp.ones(4), "kernel": jnp.ones((8, 4))}
    function = optimizer_of(settings.name)
    try:
        optimizer = make_optimizer(settings, np.float32(settings.learning_rate))
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        jax.tree.map(lambda p, u: p + u, params, updates)
    except ConfigError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"config.optimizer.kwargs do not fit {settings.name}: {type(error).__name__}: {text};"
            f" it takes {', '.join(inspect.signature(function).parameters)}"[:1000]
        ) from error


def sft_optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW at the warm start's learning rate; its other settings are those of the run."""
    adamw = config.optimizer.copy_and_resolve_references()
    if adamw.name != "adamw":
        adamw.name = "adamw"
        adamw.kwargs = {}
    adamw.schedule.name, adamw.schedule.kwargs = "constant", {}
    return make_optimizer(adamw, config.warm_start.learning_rate)
