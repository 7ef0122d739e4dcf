"""Single-token decoding with unstacked layers and a KV cache.

Passes over many tokens scan over stacked layers. That copies the weights of a layer out of the
stack before its matmuls, which is cheap for hundreds of tokens and expensive for one token of each
completion. Here each layer has its weights and its cache in separate arrays.

Axes as in experiments.models.transformer.
"""

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.models import rotary, transformer
from experiments.models.attention import prompt_mask
from experiments.models.layers import Block, arrange_kv, attention


class DecodeContext(NamedTuple):
    """Inputs that all tokens share; tuples have an item for each layer.

    Attributes:
      params: as from init_params, but "layers" is a tuple of trees, with weights [out, in].
      keys: of the prompts, [P, Hkv, Dh, S] each.
      values: of the prompts, [P, Hkv, S, Dh] each.
      length: i32 [P], real tokens of the prompts.
      angles: (cos, sin) of all positions, [S + T, Dh/2] each. XLA:CPU would fuse angles of the
        current token into every layer and compute them again for each head.
    """

    params: dict
    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    length: jax.Array
    angles: tuple[jax.Array, jax.Array]


class Cache(NamedTuple):
    """Keys and values of the completions; tuples have an item for each layer.

    Attributes:
      keys: [P, G, Hkv, Dh, T] each; without G for one completion of each prompt.
      values: [P, G, Hkv, T, Dh] each; without G likewise.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]


def make_decode_context(config, params, prompt_cache, max_tokens):
    """Unstacks and transposes what `decode` reads for every token.

    Args:
      config: a ModelConfig.
      params: as from init_params.
      prompt_cache: from transformer.prefill.
      max_tokens: T.

    Returns:
      A DecodeContext.

    Raises:
      ValueError: S + T exceeds config.max_positions.
    """
    positions = prompt_cache.keys.shape[-1] + max_tokens
    transformer.check_positions(config, positions)

    def unstack(tree):
        return tuple(
            jax.tree.map(operator.itemgetter(layer), tree) for layer in range(config.num_layers)
        )

    def transpose(x):
        return jnp.swapaxes(x, 1, 2) if x.ndim == 3 else x

    return DecodeContext(
        params | {"layers": unstack(jax.tree.map(transpose, params["layers"]))},
        unstack(prompt_cache.keys),
        unstack(prompt_cache.values),
        prompt_cache.length,
        rotary.rotation(config, jnp.arange(positions)),
    )


def empty_cache(config, prompts, group, max_tokens):
    """Allocates a Cache for `group` completions of `max_tokens` tokens of each prompt."""
    heads = (prompts, *((group,) if group > 1 else ()), config.num_kv_heads)

    def zeros(*shape):
        return tuple(jnp.zeros((*heads, *shape), config.dtype) for _ in range(config.num_layers))

    return Cache(zeros(config.head_dim, max_tokens), zeros(max_tokens, config.head_dim))


def decode(config, context, cache, tokens, index):
    """Feeds token number `index` of every completion.

    Args:
      config: a ModelConfig.
      context: from make_decode_context.
      cache: holds the tokens before `index`.
      tokens: i32 [P, G].
      index: i32 [], from 0 to T - 1; with one completion of each prompt also [P], one for each. A
        token of index T is written nowhere.

    Returns:
      The hidden state [P, G, D], which predicts token index + 1, and the cache with this token.
    """
    positions, max_tokens = context.keys[0].shape[-1], cache.keys[0].shape[-1]
    position = (context.length + index)[:, None, None]
    cos, sin = (table[position] for table in context.angles)
    written = jnp.arange(max_tokens) <= jnp.expand_dims(index, -1)
    if written.ndim == 2:
        written = written[:, None, None, None, None]
    masks = prompt_mask(context.length, positions), written
    block = Block(config, transposed=True)
    x = transformer.embed(config, context.params["embedding"], tokens[:, :, None])
    caches = []
    for params, *prompt_kv, keys, values in zip(
        context.params["layers"], context.keys, context.values, *cache
    ):
        attend = _make_attend((keys, values), index, tuple(prompt_kv), masks)
        x, kv = block.apply({"params": params}, x, (cos, sin), attend)
        caches.append(kv)
    hidden = transformer.final_norm(config, context.params["final_norm"], x)
    return hidden[:, :, 0], Cache(*zip(*caches))


def _make_attend(cache, index, prompt_kv, masks):
    """Returns an Attend to the prompts and to a layer's cache; its second result is the cache."""

    def write(kv):
        # Written before it is read, in the layout of the matmuls: XLA would otherwise copy the
        # whole cache for every token.
        if cache[0].ndim == 4:
            kv = tuple(x[:, 0] for x in kv)
        if jnp.ndim(index):
            rows, (key, value) = jnp.arange(len(index)), kv
            unique = {"mode": "drop", "unique_indices": True}
            return (
                cache[0].at[rows, :, :, index].set(key[..., 0], **unique),
                cache[1].at[rows, :, index].set(value[:, :, 0], **unique),
            )
        update = jax.lax.dynamic_update_slice_in_dim
        return tuple(update(old, new, index, axis) for old, new, axis in zip(cache, kv, (-1, -2)))

    def attend(query, key, value):
        kv = write(arrange_kv(key, value))
        segments = [(*pair, mask) for pair, mask in zip((prompt_kv, kv), masks)]
        return attention(query, segments), kv

    return attend
