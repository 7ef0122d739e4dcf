"""Layers of the transformer: linear maps, attention and the block.

Where `on_cpu()` is asked, XLA's CPU backend is slow at the plain operation: docs/performance.md has
the measured factors. Every other backend gets the plain operation.
"""

import functools
import platform
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import spmd
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from experiments.models.config import ModelConfig
from experiments.models.lora import LowRank
from experiments.models.rotary import rotate


def on_cpu() -> bool:
    """Returns whether XLA's CPU backend compiles the programs; asked while they are traced."""
    return jax.default_backend() == "cpu"


# On x86, oneDNN is faster than XLA's CPU backend at the float32 matmuls of an update, and slower at
# those of sampling, which have one token of each completion. XLA cannot write a program that uses
# oneDNN to its persistent cache; JAX warns of that if a cache is set.
_ONEDNN = {
    "xla_cpu_use_onednn": True,
    "xla_cpu_experimental_onednn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
}
_ONEDNN_MIN_WIDTH = 384  # narrower models gain less than they lose without the cache


def update_compiler_options(config: ModelConfig) -> dict:
    """Returns XLA's options for a program that updates parameters and does not sample."""
    # Not tried with XLA's builds for other processors.
    on_x86 = on_cpu() and platform.machine() in ("x86_64", "AMD64")
    return _ONEDNN if on_x86 and config.dtype == "float32" and is_wide(config) else {}


def is_wide(config: ModelConfig) -> bool:
    """Returns whether the matmuls of a model outweigh the rest of its steps on a CPU."""
    return config.d_model >= _ONEDNN_MIN_WIDTH


# The name of a layer's matmuls with weights, for jax.checkpoint.
MATMUL = "matmul with a weight"


def linear(x: jax.Array, weight: jax.Array | LowRank) -> jax.Array:
    """Returns x @ weight in x's dtype; of a LowRank x @ base + scale (x @ a) @ b.

    Args:
      x: tokens [..., K].
      weight: [K, N], of any float dtype.

    Returns:
      [..., N].
    """
    # One row per token: with more axes XLA:CPU would transpose the output gradient element-wise.
    rows = x.reshape(-1, x.shape[-1]) if on_cpu() else x
    if isinstance(weight, LowRank):
        low = checkpoint_name(_product(rows, weight.a), MATMUL)
        out = _product(rows, weight.base) + weight.scale * _product(low, weight.b)
    else:
        out = _product(rows, weight)
    out = checkpoint_name(out, MATMUL)
    return out.reshape(*x.shape[:-1], out.shape[-1])


def _product(rows, weight):
    weight = weight.astype(rows.dtype)
    bf16_on_cpu = on_cpu() and rows.dtype == jnp.bfloat16 and _on_single_device()
    return (_bf16_matmul if bf16_on_cpu else jnp.matmul)(rows, weight)


def linear_small_batch(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns x @ weight.T in x's dtype, for up to some hundred tokens.

    Args:
      x: tokens [..., K].
      weight: [N, K], of any float dtype.

    Returns:
      [..., N].
    """
    weight = weight.astype(x.dtype)
    if not on_cpu():
        return jnp.einsum("...k,nk->...n", x, weight)
    # With few tokens XLA:CPU is faster with the weight on the left; without the barrier it would
    # swap the operands back.
    rows = x.reshape(-1, x.shape[-1])
    out = jax.lax.optimization_barrier(_float32_dot(weight, rows, ((1,), (1,)))).T
    return out.reshape(*x.shape[:-1], weight.shape[0])


@jax.custom_vjp
def _bf16_matmul(x, weight):
    """x @ weight in bfloat16 with bfloat16 gradients, from matmuls with float32 results.

    XLA:CPU has a bfloat16 matmul with a float32 result, faster than the float32 one, but none with
    a bfloat16 result. The custom gradients keep their operands in bfloat16.
    """
    return _float32_dot(x, weight, ((1,), (0,)))


def _bf16_matmul_fwd(x, weight):
    return _bf16_matmul(x, weight), (x, weight)


def _bf16_matmul_bwd(residuals, gradient):
    x, weight = residuals
    return _float32_dot(gradient, weight, ((1,), (1,))), _float32_dot(x, gradient, ((0,), (0,)))


_bf16_matmul.defvjp(_bf16_matmul_fwd, _bf16_matmul_bwd)


def _float32_dot(left, right, contracting):
    """A dot product with a float32 result, rounded to left's dtype."""
    # Several devices may sum partial results: they should send the narrow type.
    dtype = jnp.float32 if _on_single_device() else None
    axes = contracting, ((), ())
    return jax.lax.dot_general(left, right, axes, preferred_element_type=dtype).astype(left.dtype)


def _on_single_device():
    return jax.sharding.get_abstract_mesh().size <= 1


def arrange_kv(keys, values):
    """Transposes keys and values [P, G, N, Hkv, Dh] to the layout of `attention`'s matmuls.

    Returns:
      keys [P, G, Hkv, Dh, N] and values [P, G, Hkv, N, Dh].
    """
    return jnp.moveaxis(keys, 2, 4), jnp.swapaxes(values, 2, 3)


# Queries whose scores are held at a time: [P, G, heads, 8192, 8192] would not fit any device.
QUERIES = 256


def query_blocks(count):
    """Returns the number of blocks that `attention` splits `count` queries into."""
    return 1 if count <= 2 * QUERIES else -(-count // QUERIES)


def attention(query, segments):
    """Softmax attention over the keys of several segments.

        out = Σ_j e_j v_j / Σ_j e_j,   e_j = exp(q·k_j - max),   j over the keys of all segments

    Segments are neither concatenated nor repeated for the group or for the query heads. More than
    512 queries go in blocks, which the backward pass recomputes (arXiv:2112.05682).

    Args:
      query: [P, G, Q, Hkv, R, Dh], scaled and rotated.
      segments: (keys, values, mask) each. Keys are [P, G, Hkv, Dh, N] and values
        [P, G, Hkv, N, Dh], without G if the group shares them. The mask is bool, broadcasts against
        [P, G, Hkv, Q, R, N], and lets every query see at least one key of some segment.

    Returns:
      [P, G, Q, Hkv, R, Dh], in query's dtype.
    """
    count = query.shape[2]
    blocks = query_blocks(count)
    if blocks == 1:
        return _attention(query, segments)
    padding = blocks * QUERIES - count

    def split(x, axis):
        """[..., Q, ...] to [blocks, ..., QUERIES, ...].

        Padded queries are 0 and see every key: the gradient of one that sees none would be NaN.
        """
        pad = [(0, padding if i == axis else 0) for i in range(x.ndim)]
        x = jnp.pad(x, pad, constant_values=x.dtype == bool)
        x = x.reshape(*x.shape[:axis], blocks, QUERIES, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    masks = [mask for _, _, mask in segments]
    by_query = [mask.ndim > 2 and mask.shape[-3] == count for mask in masks]
    split_masks = [split(mask, mask.ndim - 3) for mask, yes in zip(masks, by_query) if yes]

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def block(inputs):
        block_query, block_masks = inputs[0], iter(inputs[1])
        seen = [next(block_masks) if yes else mask for mask, yes in zip(masks, by_query)]
        return _attention(block_query, [(k, v, mask) for (k, v, _), mask in zip(segments, seen)])

    out = jnp.moveaxis(jax.lax.map(block, (split(query, 2), split_masks)), 0, 2)
    return out.reshape(*query.shape[:2], -1, *query.shape[3:])[:, :, :count]


def _attention(query, segments):
    """`attention` in one block."""
    query = jnp.moveaxis(query, 2, 3)  # [P, G, Hkv, Q, R, Dh]
    scores = [
        jnp.where(mask, _dot("pghqrd,p{}hdn->pghqrn", query, keys), -jnp.inf)
        for keys, _, mask in segments
    ]
    top = functools.reduce(jnp.maximum, [jnp.max(s, axis=-1, keepdims=True) for s in scores])
    weights = [jnp.exp(s - jax.lax.stop_gradient(top)) for s in scores]
    total = sum(jnp.sum(w, axis=-1, keepdims=True) for w in weights)
    mixed = sum(
        _dot("pghqrn,p{}hnd->pghqrd", w.astype(values.dtype), values)
        for w, (_, values, _) in zip(weights, segments)
    )
    return jnp.moveaxis(mixed / total, 3, 2).astype(query.dtype)


def _dot(axes, left, right):
    einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    if right.ndim == 5:
        return einsum(axes.format("g"), left, right)
    if not on_cpu():
        return einsum(axes.format(""), left, right)
    # Batch axes first: XLA:CPU has no bfloat16 matmul for the other order.
    axes = axes.replace("pgh", "phg").format("")
    return jnp.swapaxes(einsum(axes, jnp.swapaxes(left, 1, 2), right), 1, 2)


def rms_norm(x, scale, eps):
    """Returns x / √(mean x² + eps) · scale over the last axis, from float32, in x's dtype."""
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * inverse * scale).astype(x.dtype)


def parameter(module: nn.Module, name: str, initializer, shape, axes) -> jax.Array:
    """Declares a float32 parameter of a module, with the logical axes of its dimensions."""
    boxed: Any = nn.with_logical_partitioning(initializer, axes)
    return module.param(name, boxed, shape, jnp.float32)


def shard_prompts(x: jax.Array) -> jax.Array:
    """Splits an activation [P, G, Q, D] by its prompts, inside `sharding.layout`.

    Prompts and parameters are split over the same mesh axis, fsdp. Without the constraint XLA may
    split the width of the activations instead, and every device would hold all prompts.
    """
    return spmd.with_logical_constraint(x, ("prompts", None, None, None))


def _shard_only_prompts(x):
    """`shard_prompts` that leaves the other axes of [P, ...] to XLA."""
    rest = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return spmd.with_logical_constraint(x, ("prompts", *rest))


class Attend(Protocol):
    """The part of a layer that tells tokens of prompts, completions and caches apart."""

    def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, Any]:
        """Attends to whatever the pass at hand lets the tokens see.

        Args:
          query: [P, G, Q, Hkv, R, Dh], scaled and rotated.
          key: [P, G, Q, Hkv, Dh], rotated.
          value: [P, G, Q, Hkv, Dh].

        Returns:
          The attention's output, in query's shape, and anything that the layer is to return, such
          as a cache.
        """
        ...


class Block(nn.Module):
    """A layer: x + attention(norm x), then x + SwiGLU(norm x).

    Attributes:
      config: a ModelConfig.
      transposed: whether weights are [out, in] instead of [in, out], for `linear_small_batch`.
    """

    config: ModelConfig
    transposed: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, angles: tuple[jax.Array, jax.Array], attend: Attend):
        """Applies the layer.

        Args:
          x: [P, G, Q, D].
          angles: (cos, sin), each [P, 1, Q, Dh/2].
          attend: an Attend.

        Returns:
          x [P, G, Q, D], and the second result of `attend`.
        """
        c = self.config
        dtype = x.dtype
        queries_per_key = c.num_heads // c.num_kv_heads
        project = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=0, out_axis=-1)
        # Smaller by √(2L), so that the residual stream keeps its scale through 2L additions.
        back = nn.initializers.variance_scaling(
            0.5 / c.num_layers, "fan_in", "normal", in_axis=0, out_axis=-1
        )

        declare = functools.partial(parameter, self)

        def norm(name, value, axis):
            scale = declare(name, nn.initializers.ones, value.shape[-1:], (axis,))
            return rms_norm(value, scale, c.norm_eps)

        def matmul(name, value, initializer, columns, axes):
            shape = value.shape[-1], columns
            if self.transposed:
                weight = declare(name, initializer, shape[::-1], axes[::-1])
                return linear_small_batch(value, weight)
            return linear(value, declare(name, initializer, shape, axes))

        def heads(name, value, count, axis):
            width = count * c.head_dim
            out = matmul(name, value, project, width, ("embed", axis))
            if c.qkv_bias:
                bias = declare(f"{name}_bias", nn.initializers.zeros, (width,), (axis,))
                out = out + bias.astype(dtype)
            out = out.reshape(*value.shape[:-1], count, c.head_dim)
            return _shard_only_prompts(out)

        x = shard_prompts(x)
        y = shard_prompts(norm("attention_norm", x, "embed"))
        query = heads("query", y, c.num_heads, "heads")
        key = heads("key", y, c.num_kv_heads, "kv_heads")
        value = heads("value", y, c.num_kv_heads, "kv_heads")
        if c.qk_norm:
            query = norm("query_norm", query, "head_dim")
            key = norm("key_norm", key, "head_dim")
        query = (rotate(query, *angles) * c.head_dim**-0.5).astype(dtype)
        query = query.reshape(*query.shape[:3], c.num_kv_heads, queries_per_key, c.head_dim)
        key = rotate(key, *angles).astype(dtype)
        y, out = attend(query, key, value)
        y = _shard_only_prompts(y.reshape(*x.shape[:3], -1))
        x = shard_prompts(x + matmul("output", y, back, c.d_model, ("heads", "embed")))

        y = shard_prompts(norm("mlp_norm", x, "embed"))
        gate = _shard_only_prompts(matmul("gate", y, project, c.d_ff, ("embed", "mlp")))
        up = _shard_only_prompts(matmul("up", y, project, c.d_ff, ("embed", "mlp")))
        x = x + matmul("down", nn.silu(gate) * up, back, c.d_model, ("mlp", "embed"))
        return shard_prompts(x), out
