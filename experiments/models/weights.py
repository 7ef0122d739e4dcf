"""Converts between checkpoint tensors and the transformer's pytree with stacked layers.

A checkpoint is checked by its header alone. Its numbers are read into numpy arrays, or block by
block onto the devices of a sharding, so that the host never holds more than a block.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from experiments.models import transformer
from experiments.models.config import ModelConfig, reading

_TRANSPOSED = ("query", "key", "value", "output", "gate", "up", "down")

# Most bytes that a process moves to its devices at a time, as if all were stored in float32.
BLOCK_BYTES = 2**25


class Checkpoint(NamedTuple):
    """An open checkpoint, of which only `read` touches the numbers.

    Attributes:
      path: for error messages.
      names: {our name: the checkpoint's name}, with {layer} in the names of a layer's tensors.
      shapes: {the checkpoint's name: shape}.
      read: (the checkpoint's name, slices) -> numpy array of that part of a tensor, of any float
        dtype; one slice for each axis.
    """

    path: Path
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str, tuple[slice, ...]], np.ndarray]


def check(config: ModelConfig, checkpoint: Checkpoint) -> None:
    """Checks that a checkpoint holds every tensor of the model, in its shape.

    Raises:
      ValueError: a tensor is missing, or its shape differs from the config.
    """
    shapes = _shapes(config)
    for name, value in shapes.items():
        if name != "layers":
            _check_tensor(checkpoint, checkpoint.names[name], _stored(name, value.shape))
    for name, value in shapes["layers"].items():
        for layer in range(config.num_layers):
            stored = checkpoint.names[name].format(layer=layer)
            _check_tensor(checkpoint, stored, _stored(name, value.shape[1:]))


def _check_tensor(checkpoint, stored, expected):
    shape = checkpoint.shapes.get(stored)
    if shape is None:
        raise ValueError(f"the checkpoint holds no tensor {stored}")
    if tuple(shape) != expected:
        raise ValueError(
            f"{stored} has shape {tuple(shape)}; the checkpoint's config asks for {expected}"
        )


def load(
    config: ModelConfig, checkpoint: Checkpoint, shardings: Any = None, dtype: Any = np.float32
) -> Any:
    """Reads every parameter of the model.

    With shardings each process reads its devices' slices alone. They go there in the stored dtype,
    or in `dtype` if that is no larger, at most BLOCK_BYTES (or one row of a tensor) at a time. Of a
    slice that is a part of every row, the disk still reads whole pages.

    Args:
      config: a ModelConfig.
      checkpoint: one that `check` accepts.
      shardings: pytree of NamedSharding like the parameters, or None for numpy arrays.
      dtype: of the parameters.

    Returns:
      The parameters; no two calls return the same arrays.

    Raises:
      ValueError: a tensor that this process reads cannot be read, or holds numbers that are not
        finite.
    """
    shapes, dtype = _shapes(config), jnp.dtype(dtype)

    def parameter(name, shape, sharding, stacked):
        if sharding is None:
            return _host_parameter(checkpoint, name, shape, dtype, stacked)
        return _device_parameter(checkpoint, name, shape, dtype, stacked, sharding)

    if shardings is None:
        shardings = jax.tree.map(lambda _: None, shapes)
    params: dict[str, Any] = {
        name: parameter(name, value.shape, shardings[name], stacked=False)
        for name, value in shapes.items()
        if name != "layers"
    }
    params["layers"] = {
        name: parameter(name, value.shape, shardings["layers"][name], stacked=True)
        for name, value in shapes["layers"].items()
    }
    return params


def _host_parameter(checkpoint, name, shape, dtype, stacked):
    out = np.empty(shape, dtype)
    for layer in range(shape[0] if stacked else 1):
        target = out[layer] if stacked else out
        whole = tuple(slice(0, size) for size in _stored(name, target.shape))
        part = _read(checkpoint, name, layer, whole, dtype)
        target[...] = part.T if name in _TRANSPOSED else part
    return out


def _device_parameter(checkpoint, name, shape, dtype, stacked, sharding):
    """Makes one parameter: the shards of all devices are filled together, block by block."""
    layers, lead = (shape[0], 1) if stacked else (1, 0)
    spec = (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
    if stacked and spec[0] is not None:
        raise ValueError(f"the layers of {name} must not be split over devices; got {spec}")
    # Of one layer's tensor, in the order that it is stored in: the shape, the shape of a shard, and
    # where the shard of each device begins.
    tensor = _stored(name, shape[lead:])
    shard = _stored(name, sharding.shard_shape(shape)[lead:])
    begins = {
        device: [index.start or 0 for index in _stored(name, indices[lead:])]
        for device, indices in sharding.addressable_devices_indices_map(shape).items()
    }
    row_bytes = 4 * math.prod(shard[1:])  # in float32, the largest dtype that is not cast before
    most = max(1, BLOCK_BYTES // (row_bytes * len(begins)))
    rows = math.ceil(shard[0] / math.ceil(shard[0] / most))  # nearly the same in every block
    block_shape = (rows * (tensor[0] // shard[0]), *tensor[1:])
    block_sharding = NamedSharding(sharding.mesh, PartitionSpec(*_stored(name, spec[lead:])))

    def block(layer, row):
        parts, arrays = {}, []
        for device, (first, *others) in begins.items():
            begin = (first + row, *others)
            if begin not in parts:  # several devices may hold the same
                sizes = (rows, *shard[1:])
                index = tuple(slice(at, at + size) for at, size in zip(begin, sizes))
                parts[begin] = _read(checkpoint, name, layer, index, dtype)
            arrays.append(jax.device_put(parts[begin], device))
        return jax.make_array_from_single_device_arrays(block_shape, block_sharding, arrays)

    param = _zeros(shape, dtype, sharding)
    for layer in range(layers):
        for start in range(0, shard[0], rows):
            row = min(start, shard[0] - rows)  # the last block may repeat rows of the one before
            place = np.zeros(len(shape), np.int32)
            place[:lead] = layer
            place[-1 if name in _TRANSPOSED else lead] = row
            param = _write(param, block(layer, row), place, sharding, name in _TRANSPOSED)
            # Otherwise the host would hold all blocks whose transfers have not ended.
            param.block_until_ready()
    # XLA leaves mesh axes of size 1 out of the sharding.
    shards = [piece.data for piece in param.addressable_shards]
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _zeros(shape, dtype, sharding):
    return jax.lax.with_sharding_constraint(jnp.zeros(shape, dtype), sharding)


@partial(jax.jit, static_argnums=(3, 4), donate_argnums=0)
def _write(param, block, place, sharding, transposed):
    """Writes a block into the same place of every device's shard."""

    def write(shard, block, place):
        block = block.T if transposed else block
        block = block.astype(shard.dtype).reshape((1,) * (shard.ndim - block.ndim) + block.shape)
        return jax.lax.dynamic_update_slice(shard, block, place)

    spec = sharding.spec
    block_spec = PartitionSpec(*spec[param.ndim - block.ndim :][:: -1 if transposed else 1])
    in_specs = (spec, block_spec, PartitionSpec())
    return jax.shard_map(write, mesh=sharding.mesh, in_specs=in_specs, out_specs=spec)(
        param, block, place
    )


def _read(checkpoint, name, layer, index, dtype):
    """Reads a part of a tensor, cast to `dtype` where that makes it no larger."""
    stored = checkpoint.names[name].format(layer=layer)
    with reading(checkpoint.path):
        part = checkpoint.read(stored, index)
        if dtype.itemsize <= part.dtype.itemsize:
            with np.errstate(over="ignore"):  # beyond the range is an infinity, found below
                part = part.astype(dtype, copy=False)
        with np.errstate(invalid="ignore"):
            finite = np.all(np.isfinite(part))
        if not finite:
            raise ValueError(f"{stored} holds numbers that are not finite")
    return part


def _stored(name, axes):
    """Returns a tuple over the axes of a parameter in the order of the checkpoint's tensor."""
    return tuple(axes[::-1] if name in _TRANSPOSED else axes)


def unstack(names, params):
    """Inverts `load`: yields (the checkpoint's name, numpy float32 array), one at a time.

    Of arrays on devices, the tensor of one layer is fetched at a time.
    """
    for name, value in params.items():
        if name != "layers":
            # An array on several devices keeps what np.asarray fetches: fetch a copy, which goes.
            value = jnp.copy(value) if isinstance(value, jax.Array) else value
            yield names[name], np.asarray(value, np.float32)
    for name, value in params["layers"].items():
        for layer in range(value.shape[0]):
            tensor = np.asarray(value[layer], np.float32)
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
