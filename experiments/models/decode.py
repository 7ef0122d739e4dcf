"""One token of every completion at a time, through layers that lie one after another.

Passes over many tokens scan over stacked layers. That copies the weights of a layer out of the
stack before it multiplies by them, which is little beside products of hundreds of tokens and much
beside those of one token of each completion. Here every layer has weights and a cache of its own.

Axes as in experiments.models.transformer.
"""

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.models import layers, transformer
from experiments.models.layers import Block, as_source, attention


class Sources(NamedTuple):
    """What every token is computed from; a tuple holds one item for each layer.

    Attributes:
      params: as from init_params, but "layers" is a tuple of trees, with weights [out, in].
      keys: of the prompts, [P, Hkv, Dh, S] each.
      values: of the prompts, [P, Hkv, S, Dh] each.
      length: i32 [P], real tokens of the prompts.
      angles: (cos, sin) of every position, [S + T, Dh/2] each. Computed for every token, XLA's CPU
        backend would fuse them into every layer and compute them for each of its heads.
    """

    params: dict
    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    length: jax.Array
    angles: tuple[jax.Array, jax.Array]


class Cache(NamedTuple):
    """Keys and values of the completions sampled so far, one item for each layer.

    Attributes:
      keys: [P, G, Hkv, Dh, T] each; without G where there is one completion of each prompt.
      values: [P, G, Hkv, T, Dh] each; without G likewise.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]


def prepare(config, params, prefix, max_tokens):
    """The Sources of all tokens, once.

    Args:
      config: a ModelConfig.
      params: as from init_params.
      prefix: from transformer.prefill.
      max_tokens: T.

    Raises:
      ValueError: S + T exceeds config.max_positions.
    """
    positions = prefix.keys.shape[-1] + max_tokens
    transformer.check_positions(config, positions)

    def pieces(stacks):
        layers = range(config.num_layers)
        return tuple(jax.tree.map(operator.itemgetter(layer), stacks) for layer in layers)

    def turned(x):
        return jnp.swapaxes(x, 1, 2) if x.ndim == 3 else x

    return Sources(
        params | {"layers": pieces(jax.tree.map(turned, params["layers"]))},
        pieces(prefix.keys),
        pieces(prefix.values),
        prefix.length,
        layers.rotation(config, jnp.arange(positions)),
    )


def empty_cache(config, prompts, group, max_tokens):
    """Room for `group` completions of `max_tokens` tokens for each of `prompts` prompts."""
    heads = (prompts, *((group,) if group > 1 else ()), config.num_kv_heads)

    def room(*shape):
        return tuple(jnp.zeros((*heads, *shape), config.dtype) for _ in range(config.num_layers))

    return Cache(room(config.head_dim, max_tokens), room(max_tokens, config.head_dim))


def decode(config, sources, cache, tokens, index):
    """Feeds completion token number `index` of every completion.

    Args:
      config: a ModelConfig.
      sources: from prepare.
      cache: holds the tokens before `index`.
      tokens: i32 [P, G].
      index: i32 [], from 0 to T - 1.

    Returns:
      The hidden state [P, G, D], which predicts token index + 1, and the cache with this token.
    """
    positions, max_tokens = sources.keys[0].shape[-1], cache.keys[0].shape[-1]
    position = (sources.length + index)[:, None, None]
    angles = tuple(table[position] for table in sources.angles)
    masks = transformer.real(sources.length, positions), jnp.arange(max_tokens) <= index
    block = Block(config, turned=True)
    x = transformer.embed(config, sources.params, tokens[:, :, None])
    written = []
    for layer, *prefix, keys, values in zip(
        sources.params["layers"], sources.keys, sources.values, *cache
    ):
        attend = _attend((keys, values), index, tuple(prefix), masks)
        x, own = block.apply({"params": layer}, x, angles, attend)
        written.append(own)
    hidden = transformer.final_norm(config, sources.params, x)
    return hidden[:, :, 0], Cache(*zip(*written))


def _attend(cache, index, prefix, masks):
    """Block's `attend` to the prefix and one layer's cache, which comes out with the tokens."""

    def write(own):
        # Written before it is read, and laid out as the products take it: else XLA copies the whole
        # cache for every token.
        own = own if cache[0].ndim == 5 else tuple(x[:, 0] for x in own)
        put = jax.lax.dynamic_update_slice_in_dim
        return tuple(put(there, new, index, axis) for there, new, axis in zip(cache, own, (-1, -2)))

    def attend(query, key, value):
        own = write(as_source(key, value))
        return attention(query, [(*kv, mask) for kv, mask in zip((prefix, own), masks)]), own

    return attend
