"""Converts between checkpoint tensors and the transformer's pytree with stacked layers."""

from typing import Any

import jax
import numpy as np

from experiments.models import transformer

_TRANSPOSED = ("query", "key", "value", "output", "gate", "up", "down")


def stack(config, names, read):
    """Reads every parameter of the model from a checkpoint.

    Args:
      config: a ModelConfig.
      names: {our name: the checkpoint's name}, with {layer} in the names of a layer's tensors.
      read: from a checkpoint's name to an array; raises KeyError if it holds no such tensor.

    Returns:
      The parameters, numpy float32.

    Raises:
      ValueError: a tensor is missing, or its shape differs from the config.
    """

    def read_tensor(name, template, shape, layer=None):
        stored = template.format(layer=layer)
        try:
            tensor = read(stored)
        except KeyError:
            raise ValueError(f"the checkpoint holds no tensor {stored}") from None
        expected = shape[::-1] if name in _TRANSPOSED else shape
        if tensor.shape != expected:
            raise ValueError(
                f"{stored} has shape {tensor.shape}; the checkpoint's config asks for {expected}"
            )
        if not np.all(np.isfinite(np.asarray(tensor, np.float32))):
            raise ValueError(f"{stored} holds numbers that are not finite")
        return tensor.T if name in _TRANSPOSED else tensor

    def layers(name, shape):
        out = np.empty(shape, np.float32)
        for layer in range(config.num_layers):
            out[layer] = read_tensor(name, names[name], shape[1:], layer)
        return out

    shapes = _shapes(config)
    params: dict[str, Any] = {
        name: np.asarray(read_tensor(name, names[name], value.shape), np.float32)
        for name, value in shapes.items()
        if name != "layers"
    }
    params["layers"] = {name: layers(name, value.shape) for name, value in shapes["layers"].items()}
    return params


def unstack(names, params):
    """Inverts `stack`: yields (the checkpoint's name, numpy float32 array), one at a time."""
    for name, value in params.items():
        if name != "layers":
            yield names[name], np.asarray(value, np.float32)
    for name, value in params["layers"].items():
        for layer, tensor in enumerate(np.asarray(value, np.float32)):
            transposed = np.ascontiguousarray(tensor.T if name in _TRANSPOSED else tensor)
            yield names[name].format(layer=layer), transposed


def stored_names(config, names):
    """Returns the set of tensor names in a checkpoint of the model."""
    shapes = _shapes(config)
    layers = range(config.num_layers)
    return {names[name] for name in shapes if name != "layers"} | {
        names[name].format(layer=layer) for name in shapes["layers"] for layer in layers
    }


def _shapes(config):
    return jax.eval_shape(lambda: transformer.init_params(config, jax.random.key(0)))
