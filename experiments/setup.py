"""From a config to the parts of a run: mesh, task, model, starting weights."""

import importlib
import importlib.util
import inspect
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import sharding
from experiments.config import ConfigError, check_arguments, validate
from experiments.models import transformer
from experiments.models.config import ModelConfig


class Parts(NamedTuple):
    """What a run is made of.

    Attributes:
      config: as given.
      mesh: of devices.
      task: from experiments.tasks.
      model: static sizes of the policy.
      weights: float32 parameters read from config.model.path, or None for fresh ones.
    """

    config: ConfigDict
    mesh: jax.sharding.Mesh
    task: Any
    model: ModelConfig
    weights: Any


def prepare(config: ConfigDict) -> Parts:
    """Checks the config, opens the task, and reads the weights if it names any.

    Raises:
      ConfigError: for a value that cannot run; ValueError and FileNotFoundError from tasks and
        weights say what they miss.
    """
    validate(config)
    mesh = sharding.make_mesh(config.mesh)
    check_batches(config, mesh)
    module = f"experiments.tasks.{config.task.name}"
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"config.task.name: there is no module {module}")
    make = getattr(importlib.import_module(module), "make", None)
    if make is None:
        raise ConfigError(f"config.task.name: {module} is no task, it has no make()")
    kwargs = config.task.kwargs.to_dict()
    if not any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(make).parameters.values()
    ):
        check_arguments(make, kwargs, "task.kwargs")
    if config.model.path:
        from experiments.models import load, tokenizer

        task = make(tokenizer.load(config.model.path), **kwargs)
        model, weights = load.load_model(
            config.model.path,
            dtype=config.model.dtype,
            remat=config.model.remat,
            remat_keeps=config.model.remat_keeps,
        )
    else:
        task = make(None, **kwargs)
        model, weights = _fresh_model(config.model, task), None
    positions = task.max_prompt + task.max_completion
    if positions > model.max_positions:
        raise ConfigError(
            f"prompts of {task.max_prompt} and completions of {task.max_completion} tokens do not"
            f" fit the model's context of {model.max_positions}"
        )
    return Parts(config, mesh, task, model, weights)


def check_batches(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Raises ConfigError when a batch of the run cannot be split evenly over the mesh."""
    sharding.check_batch(mesh, "config.prompts", config.prompts)
    per_update = config.prompts // (config.learner.minibatches * config.learner.microbatches)
    sharding.check_batch(mesh, "the prompts of a microbatch", per_update)
    sharding.check_batch(
        mesh, "config.evaluation.prompts_per_call", config.evaluation.prompts_per_call
    )
    if config.warm_start.steps:
        sharding.check_batch(mesh, "config.warm_start.batch", config.warm_start.batch)


def _fresh_model(sizes: ConfigDict, task) -> ModelConfig:
    if sizes.d_model % sizes.num_heads:
        raise ConfigError(
            f"config.model.num_heads must divide config.model.d_model = {sizes.d_model},"
            f" got {sizes.num_heads}"
        )
    return ModelConfig(
        vocab_size=task.vocab_size,
        num_layers=sizes.num_layers,
        d_model=sizes.d_model,
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_kv_heads,
        head_dim=sizes.d_model // sizes.num_heads,
        d_ff=sizes.d_ff,
        tied_head=sizes.tied_head,
        dtype=sizes.dtype,
        remat=sizes.remat,
        remat_keeps=sizes.remat_keeps,
        max_positions=task.max_prompt + task.max_completion,
    )


def parameter_shardings(parts: Parts):
    """The sharding of every parameter of the policy."""
    return _shardings(parts.model, parts.mesh)


def _shardings(model: ModelConfig, mesh: jax.sharding.Mesh):
    shapes = jax.eval_shape(lambda: transformer.init_params(model, jax.random.key(0)))
    return sharding.parameter_shardings(mesh, transformer.parameter_axes(shapes), shapes)


def starting_params(parts: Parts):
    """The policy before any training, laid out on the mesh: as read, or fresh from the seed."""
    if parts.weights is not None:
        copies = jax.tree.map(lambda w: np.asarray(w, jnp.float32), parts.weights)
        return sharding.place(copies, parameter_shardings(parts))
    key = jax.random.key(parts.config.warm_start.seed)
    return _fresh_params(parts.model, parts.mesh, key)


@partial(jax.jit, static_argnums=(0, 1))
def _fresh_params(model: ModelConfig, mesh: jax.sharding.Mesh, key):
    """One function for all runs of a sweep: compiled for each, it took as long as their steps."""
    params = transformer.init_params(model, key)
    return jax.lax.with_sharding_constraint(params, _shardings(model, mesh))
