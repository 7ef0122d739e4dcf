"""The layers of a transformer: linear maps, rotary embeddings, attention and the block."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from experiments import sharding
from experiments.models.config import ModelConfig


def frequencies(config):
    """Angular frequencies of the pairs of one head, in radians per position.

    f_i = θ^{-2i/d}; scaling "linear" gives f_i/s; "llama3" gives (1-b_i) f_i/s + b_i f_i with
    b_i = clip((N f_i/2π - low)/(high - low), 0, 1) and N the original context. arXiv 2104.09864.

    Args:
      config: a ModelConfig.

    Returns:
      numpy float32 [head_dim / 2].
    """
    plain = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        scaled = plain
    elif scaling.kind == "linear":
        scaled = plain / scaling.factor
    else:
        turns = scaling.original_max_positions * plain / (2 * np.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept = np.clip((turns - low) / (high - low), 0, 1)
        scaled = (1 - kept) * plain / scaling.factor + kept * plain
    return scaled.astype(np.float32)


def rotation(config, positions):
    """Cosines and sines of the rotary angles at `positions` [...]: float32 [..., head_dim / 2]."""
    angles = positions[..., None].astype(jnp.float32) * frequencies(config)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x, cos, sin):
    """Turns each pair (x_i, x_{i + d/2}) of the last axis by its angle, in float32.

    Args:
      x: [..., heads, d].
      cos: [..., d/2], one angle per pair, the same for all heads.
      sin: [..., d/2].

    Returns:
      [..., heads, d] in float32.
    """
    cos, sin = cos[..., None, :], sin[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


# What jax.checkpoint knows the products by.
NAME = "product with a weight"

ROWS_BY_COLUMNS = ((1,), (0,))
ROWS_BY_ROWS = ((1,), (1,))
COLUMNS_BY_COLUMNS = ((0,), (0,))


def linear(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x @ weight, [..., N] in x's dtype, of tokens [..., K] and a weight [K, N] of any dtype."""
    # One row per token: over several axes XLA's CPU backend would turn the gradient of the output
    # round, element by element, for the gradient of the weight, which took half of a backward pass.
    rows, weight = x.reshape(-1, x.shape[-1]), weight.astype(x.dtype)
    product = _rounded_once if _on_one_device() and x.dtype == jnp.bfloat16 else jnp.matmul
    out = checkpoint_name(product(rows, weight), NAME)
    return out.reshape(*x.shape[:-1], weight.shape[-1])


def linear_of_few(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x @ weight.T, [..., N] in x's dtype, of some hundred tokens [..., K] at most.

    The weight, [N, K] of any dtype, is stored as it is read by a product with the weight on the
    left. With few tokens XLA's CPU backend is faster at that, and this is the only difference to
    `linear`.
    """
    rows, weight = x.reshape(-1, x.shape[-1]), weight.astype(x.dtype)

    product = _product if _on_one_device() else _plain

    def left(rows, weight):
        # Without the barrier XLA turns the product round again.
        return jax.lax.optimization_barrier(product(weight, rows, ROWS_BY_ROWS)).T

    def right(rows, weight):
        return _plain(rows, weight, ROWS_BY_ROWS)

    out = jax.lax.platform_dependent(rows, weight, cpu=left, default=right)
    return out.reshape(*x.shape[:-1], weight.shape[0])


@jax.custom_vjp
def _rounded_once(x, weight):
    """x @ weight in bfloat16, with gradients that are products of bfloat16 too.

    XLA's CPU backend has a product of bfloat16 with a float32 result, twice as fast as that of
    float32, but none with a bfloat16 result; and the gradients of the former would be products of
    float32. Elsewhere the plain product adds up in float32 by itself.
    """
    return _product(x, weight, ROWS_BY_COLUMNS)


def _forward(x, weight):
    return _rounded_once(x, weight), (x, weight)


def _backward(saved, gradient):
    x, weight = saved
    return (
        _product(gradient, weight, ROWS_BY_ROWS),
        _product(x, gradient, COLUMNS_BY_COLUMNS),
    )


_rounded_once.defvjp(_forward, _backward)


def _on_one_device():
    """False where devices may sum what each has of a product: they should send it as stored."""
    return jax.sharding.get_abstract_mesh().size <= 1


def _product(left, right, contracted):
    def wide(left, right):
        axes = contracted, ((), ())
        out = jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)
        return out.astype(left.dtype)

    plain = functools.partial(_plain, contracted=contracted)
    return jax.lax.platform_dependent(left, right, cpu=wide, default=plain)


def _plain(left, right, contracted):
    return jax.lax.dot_general(left, right, (contracted, ((), ())))


def as_source(keys, values):
    """Tokens' keys and values [P, G, N, Hkv, Dh] as products take them.

    Returns:
      keys [P, G, Hkv, Dh, N] and values [P, G, Hkv, N, Dh].
    """
    return jnp.moveaxis(keys, 2, 4), jnp.swapaxes(values, 2, 3)


# Queries whose scores are held at a time: [P, G, heads, 8192, 8192] would not fit any device.
QUERIES = 256


def query_blocks(count):
    """The number of blocks in which `attention` goes over `count` queries; up to 2 are one."""
    return 1 if count <= 2 * QUERIES else -(-count // QUERIES)


def attention(query, sources):
    """Softmax attention over several sources of keys and values at once.

    Many queries go in blocks, each computed anew in the backward pass (2112.05682).

    out = Σ_j e_j v_j / Σ_j e_j,  e_j = exp(q·k_j - max), j over the keys of all sources. No source
    is copied, nor repeated for the group or for the query heads.

    Args:
      query: [P, G, Q, Hkv, R, Dh], scaled and rotated.
      sources: (keys, values, mask) each; keys are [P, Hkv, Dh, N] and values [P, Hkv, N, Dh] where
        the group shares them, else with G after P; mask is bool, broadcast against
        [P, G, Hkv, Q, R, N], and lets every query see at least one key of some source.

    Returns:
      [P, G, Q, Hkv, R, Dh], in query's dtype.
    """
    count = query.shape[2]
    blocks = query_blocks(count)
    if blocks == 1:
        return _attention(query, sources)
    extra = blocks * QUERIES - count

    def split(x, axis):
        """[..., Q, ...] to [blocks, ..., queries, ...].

        The last block is filled with queries of 0 that see every key: one that sees none would
        have a gradient that is not a number.
        """
        fill = [(0, extra if i == axis else 0) for i in range(x.ndim)]
        x = jnp.pad(x, fill, constant_values=x.dtype == bool)
        x = x.reshape(*x.shape[:axis], blocks, QUERIES, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    masks = [mask for _, _, mask in sources]
    by_query = [mask.ndim > 2 and mask.shape[-3] == count for mask in masks]
    parts = [split(mask, mask.ndim - 3) for mask, own in zip(masks, by_query) if own]

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def block(inputs):
        part, own_masks = inputs[0], iter(inputs[1])
        kept = [next(own_masks) if own else mask for mask, own in zip(masks, by_query)]
        return _attention(part, [(k, v, mask) for (k, v, _), mask in zip(sources, kept)])

    out = jnp.moveaxis(jax.lax.map(block, (split(query, 2), parts)), 0, 2)
    return out.reshape(*query.shape[:2], -1, *query.shape[3:])[:, :, :count]


def _attention(query, sources):
    """`attention` in one block."""
    query = jnp.moveaxis(query, 2, 3)  # [P, G, Hkv, Q, R, Dh]
    scores = [
        jnp.where(mask, _dot("pghqrd,p{}hdn->pghqrn", query, keys), -jnp.inf)
        for keys, _, mask in sources
    ]
    top = functools.reduce(jnp.maximum, [jnp.max(s, axis=-1, keepdims=True) for s in scores])
    weights = [jnp.exp(s - jax.lax.stop_gradient(top)) for s in scores]
    total = sum(jnp.sum(w, axis=-1, keepdims=True) for w in weights)
    mixed = sum(
        _dot("pghqrn,p{}hnd->pghqrd", w.astype(values.dtype), values)
        for w, (_, values, _) in zip(weights, sources)
    )
    return jnp.moveaxis(mixed / total, 3, 2).astype(query.dtype)


def _dot(axes, left, right):
    if right.ndim == 5:
        return jnp.einsum(axes.format("g"), left, right, preferred_element_type=jnp.float32)
    # The batched axes first: XLA's CPU backend has no bfloat16 product for the other order.
    axes = axes.replace("pgh", "phg").format("")
    left = jnp.swapaxes(left, 1, 2)
    out = jnp.einsum(axes, left, right, preferred_element_type=jnp.float32)
    return jnp.swapaxes(out, 1, 2)


def rms_norm(x, scale, eps):
    """x / √(mean x² + eps) · scale over the last axis, in float32; returns x's dtype."""
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * inverse * scale).astype(x.dtype)


class Block(nn.Module):
    """One layer: x + attention(norm x), then x + SwiGLU(norm x).

    Attributes:
      config: a ModelConfig.
      turned: whether the weights are [out, in] instead of [in, out], for `linear_of_few`.
    """

    config: ModelConfig
    turned: bool = False

    @nn.compact
    def __call__(self, x, angles, attend):
        """Runs the layer on tokens that differ in nothing but what they attend to.

        Args:
          x: [P, G, Q, D].
          angles: (cos, sin), each [P, 1, Q, Dh/2].
          attend: from the tokens' queries [P, G, Q, Hkv, R, Dh], scaled, and keys and values
            [P, G, Q, Hkv, Dh] each, queries and keys rotated, to what every query found, in the
            queries' shape, and anything that is to come out of the layer.

        Returns:
          x [P, G, Q, D], and what else `attend` returned.
        """
        c = self.config
        dtype = x.dtype
        queries_per_key = c.num_heads // c.num_kv_heads
        project = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=0, out_axis=-1)
        # Smaller by √(2L), so that the residual stream keeps its scale through 2L additions.
        back = nn.initializers.variance_scaling(
            0.5 / c.num_layers, "fan_in", "normal", in_axis=0, out_axis=-1
        )

        def parameter(name, initializer, *shape):
            return self.param(name, initializer, shape, jnp.float32)

        def norm(name, value):
            return rms_norm(
                value, parameter(name, nn.initializers.ones, value.shape[-1]), c.norm_eps
            )

        def product(name, value, initializer, columns):
            shape = value.shape[-1], columns
            if self.turned:
                return linear_of_few(value, parameter(name, initializer, *shape[::-1]))
            return linear(value, parameter(name, initializer, *shape))

        def heads(name, value, count):
            out = product(name, value, project, count * c.head_dim)
            if c.qkv_bias:
                bias = parameter(f"{name}_bias", nn.initializers.zeros, count * c.head_dim)
                out = out + bias.astype(dtype)
            out = out.reshape(*value.shape[:-1], count, c.head_dim)
            return sharding.by_prompt(out)

        x = sharding.by_prompt(x, None, None, None)
        y = sharding.by_prompt(norm("attention_norm", x), None, None, None)
        query = heads("query", y, c.num_heads)
        key = heads("key", y, c.num_kv_heads)
        value = heads("value", y, c.num_kv_heads)
        if c.qk_norm:
            query, key = norm("query_norm", query), norm("key_norm", key)
        query = (rotate(query, *angles) * c.head_dim**-0.5).astype(dtype)
        query = query.reshape(*query.shape[:3], c.num_kv_heads, queries_per_key, c.head_dim)
        key = rotate(key, *angles).astype(dtype)
        y, out = attend(query, key, value)
        y = sharding.by_prompt(y.reshape(*x.shape[:3], -1))
        x = x + product("output", y, back, c.d_model)
        x = sharding.by_prompt(x, None, None, None)

        y = sharding.by_prompt(norm("mlp_norm", x), None, None, None)
        gate = sharding.by_prompt(product("gate", y, project, c.d_ff))
        up = sharding.by_prompt(product("up", y, project, c.d_ff))
        x = x + product("down", nn.silu(gate) * up, back, c.d_model)
        return sharding.by_prompt(x, None, None, None), out
