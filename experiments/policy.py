"""What of the policy is trained: all of its parameters, or LoRA's adapters beside a frozen base.

TrainState.params holds what is trained, TrainState.base the rest; `join` gives the policy that
everything else takes for parameters. Below: sharding, models. Above: learner.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments import sharding
from experiments.config import Config
from experiments.models import lora, transformer
from experiments.models.config import ModelConfig

# Stream of the adapters under the run's seed. Training folds its step in, which is below 2^31.
_STREAM = np.uint32(2**32 - 2)


def split(config: Config, model: ModelConfig, params, key: jax.Array) -> tuple[Any, Any]:
    """Returns (what is trained, the frozen base) of a run that starts from `params`.

    Args:
      config: of the run.
      model: static sizes.
      params: float32 parameters.
      key: base PRNG key of the run.
    """
    if not config.lora.rank:
        return params, ()
    key = jax.random.fold_in(key, _STREAM)
    adapters = lora.init(params, key, config.lora.rank, config.lora.targets)
    return adapters, freeze(config, model, params)


def freeze(config: Config, model: ModelConfig, params) -> Any:
    """Returns the base that stays beside the adapters, in the dtype of the computation; or ()."""
    return transformer.cast_for_sampling(model, params) if config.lora.rank else ()


def join(config: Config, params, base) -> Any:
    """Returns the policy of TrainState's params and base, without a copy: inverts `split`."""
    if not config.lora.rank:
        return params
    return lora.join(base, params, config.lora.alpha / config.lora.rank)


def merge(config: Config, params, base) -> Any:
    """Returns the policy as float32 parameters without adapters."""
    merged = lora.merge(join(config, params, base))
    return jax.tree.map(lambda x: x.astype(jnp.float32), merged)


def refers_to_base(config: Config) -> bool:
    """Whether the reference of a KL term is held as adapters of the same base."""
    return bool(config.lora.rank) and config.learner.kl.reference == "start"


def reference(config: Config, model: ModelConfig, params, base) -> Any:
    """Returns what TrainState.reference holds of a policy.

    Whole parameters are in the dtype of the computation, adapters are as they are.
    """
    if refers_to_base(config):
        return params
    return transformer.cast_for_sampling(model, join(config, params, base))


def join_reference(config: Config, held, base) -> Any:
    """Returns the policy that TrainState.reference holds."""
    return join(config, held, base) if refers_to_base(config) else held


def measures_head(config: Config) -> bool:
    """Whether a run logs the rank-one fraction of its head's update, which LoRA does not move."""
    return config.learner.head_rank and not config.lora.rank


def trained_shapes(config: Config, model: ModelConfig) -> Any:
    """Returns the shape and dtype of every array that is trained."""
    return nn.unbox(_abstract_trained(config, model))


def trained_shardings(config: Config, model: ModelConfig, mesh: jax.sharding.Mesh) -> Any:
    """Returns the sharding of every array that is trained.

    An adapter's a is split like the inputs of its weight, b like the outputs.
    """
    return sharding.parameter_shardings(mesh, _abstract_trained(config, model))


def _abstract_trained(config: Config, model: ModelConfig) -> Any:
    params = transformer.abstract_params(model)
    if not config.lora.rank:
        return params
    return lora.abstract_adapters(params, config.lora.rank, config.lora.targets)
