"""Low-rank adapters (LoRA, arXiv:2106.09685): W + scale A B, of which A and B alone are trained.

A tree of parameters holds a `LowRank` where it held the weight of a linear map, so that code which
takes parameters takes it too. `merge` gives ordinary parameters again. Imports nothing of ours.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# The linear maps of a layer, in the order of their keys in `init`.
TARGETS = ("query", "key", "value", "output", "gate", "up", "down")


@partial(jax.tree_util.register_dataclass, data_fields=("base", "a", "b"), meta_fields=("scale",))
@dataclasses.dataclass(frozen=True)
class LowRank:
    """The weight base + scale a b.

    Attributes:
      base: [..., in, out], frozen. The first leaf, whose shape flax compares with the module's.
      a: float32 [..., in, rank].
      b: float32 [..., rank, out].
      scale: static.
    """

    base: Any
    a: Any
    b: Any
    scale: float


def init(shapes, key: jax.Array, rank: int, targets: Sequence[str]) -> dict:
    """Draws adapters: a uniform in ±1/√in, as peft does, and b = 0, so that a b = 0.

    Args:
      shapes: parameters, or their shapes.
      key: a PRNG key.
      rank: of the products.
      targets: names of TARGETS.

    Returns:
      {"layers": {name: {"a": float32 [L, in, rank], "b": float32 [L, rank, out]}}}.
    """

    def adapter(name):
        layers, rows, columns = shapes["layers"][name].shape
        own = jax.random.fold_in(key, TARGETS.index(name))
        bound = 1 / math.sqrt(rows)
        a = jax.random.uniform(own, (layers, rows, rank), jnp.float32, -bound, bound)
        return {"a": a, "b": jnp.zeros((layers, rank, columns), jnp.float32)}

    return {"layers": {name: adapter(name) for name in targets}}


def abstract_adapters(params, rank: int, targets: Sequence[str]) -> dict:
    """Returns the tree of `init` with the shape and the logical axes of each array.

    Args:
      params: of transformer.abstract_params.
      rank: of the products.
      targets: names of TARGETS.
    """

    def adapter(name):
        boxed = params["layers"][name]
        (layers, rows, columns), (stack, into, out) = boxed.value.shape, boxed.names

        def part(shape, names):
            value: Any = jax.ShapeDtypeStruct(shape, jnp.float32)
            return nn.LogicallyPartitioned(value, names)

        return {
            "a": part((layers, rows, rank), (stack, into, "rank")),
            "b": part((layers, rank, columns), (stack, "rank", out)),
        }

    return {"layers": {name: adapter(name) for name in targets}}


def join(base, adapters, scale: float) -> dict:
    """Returns `base` with a LowRank in the place of every weight that has an adapter."""
    low = {
        name: LowRank(base["layers"][name], adapter["a"], adapter["b"], scale)
        for name, adapter in adapters["layers"].items()
    }
    return base | {"layers": base["layers"] | low}


def merge(params):
    """Returns ordinary parameters: float32 base + scale a b for every LowRank, all others as is."""

    def weight(leaf):
        if not isinstance(leaf, LowRank):
            return leaf
        product = jnp.matmul(leaf.a, leaf.b, precision=jax.lax.Precision.HIGHEST)
        return leaf.base.astype(jnp.float32) + leaf.scale * product

    return jax.tree.map(weight, params, is_leaf=lambda leaf: isinstance(leaf, LowRank))
