"""Attention in the passes over many tokens, by one of several implementations.

All but the plain one never hold scores of all queries with all keys, forward or backward. Sequences
are completions of a shared prompt: each query sees the prompt's real tokens and its own sequence up
to itself. Axes as in experiments.models.transformer, with Q queries of each sequence.
"""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import spmd
from jax.sharding import PartitionSpec

from experiments.models.config import ModelConfig
from experiments.models.layers import arrange_kv, attention

# Keys of a query from which "auto" leaves the plain implementation; docs/performance.md.
LONG = 1024

# Queries and keys of a block of scores.
QUERY_BLOCK, KEY_BLOCK = 128, 256

_MASKED = -1e30  # finite: a query may see no key of its first block


class Prompt(NamedTuple):
    """Keys and values that the sequences of a group share.

    Attributes:
      key: [P, 1, S, Hkv, Dh].
      value: [P, 1, S, Hkv, Dh].
      length: i32 [P], real tokens, from 1 to S; those after them are not seen.
    """

    key: jax.Array
    value: jax.Array
    length: jax.Array


def implementation(config: ModelConfig, keys: int, backend: str = "") -> str:
    """Returns the implementation that serves queries of up to `keys` keys.

    That is config.attention, but for "auto": plain below LONG keys; from there on, cuDNN on a GPU
    for the sizes that it takes, Pallas on a TPU, and blocks elsewhere.

    Args:
      config: a ModelConfig.
      keys: that a query may see.
      backend: of JAX; that of this process if empty.

    Raises:
      ValueError: for one that this backend or these sizes cannot have.
    """
    backend = backend or jax.default_backend()
    if config.attention == "auto":
        if keys < LONG:
            return "plain"
        if backend == "tpu":
            return "pallas"
        return "cudnn" if backend == "gpu" and not _cudnn_refuses(config) else "blocks"
    needs = {"cudnn": "gpu", "pallas": "tpu"}.get(config.attention, backend)
    reason = f'a {needs}; the backend is "{backend}"' if needs != backend else ""
    if config.attention == "cudnn" and not reason:
        reason = _cudnn_refuses(config)
    if reason:
        raise ValueError(f'config.model.attention = "{config.attention}" needs {reason}')
    return config.attention


def _cudnn_refuses(config: ModelConfig) -> str:
    """Returns what cuDNN needs and the model lacks; empty if nothing."""
    if config.dtype != "bfloat16":
        return f'config.model.dtype = "bfloat16", got "{config.dtype}"'
    if config.head_dim % 8 or config.head_dim > 128:
        return f"heads of a width that is a multiple of 8 up to 128, got {config.head_dim}"
    return ""


def attend_causally(config, query, key, value, prompt: Prompt | None = None):
    """Attends causally to the tokens of each sequence, and to its whole prompt.

    Args:
      config: a ModelConfig.
      query: [P, G, Q, Hkv, R, Dh], scaled and rotated.
      key: [P, G, Q, Hkv, Dh], rotated.
      value: [P, G, Q, Hkv, Dh].
      prompt: None for sequences without one.

    Returns:
      [P, G, Q, Hkv, R, Dh], in query's dtype.
    """
    keys = query.shape[2] + (0 if prompt is None else prompt.key.shape[2])
    name = implementation(config, keys)
    if name == "plain":
        return _plain(query, key, value, prompt)
    return _on_each_device(_LONG_SEQUENCES[name], query, key, value, prompt)


def _plain(query, key, value, prompt):
    own = (*arrange_kv(key, value), causal_mask(jnp.arange(query.shape[2])))
    if prompt is None:
        return attention(query, [own])
    shared = (x[:, 0] for x in arrange_kv(prompt.key, prompt.value))
    return attention(query, [(*shared, prompt_mask(prompt.length, prompt.key.shape[2])), own])


def causal_mask(steps):
    """Returns the mask [Q, 1, N] of queries that see the keys up to their own."""
    return (steps[:, None] >= steps)[:, None]


def prompt_mask(length, positions):
    """Returns which of a prompt's `positions` tokens are real, bool [P, 1, 1, 1, 1, S]."""
    return (jnp.arange(positions) < length[:, None])[:, None, None, None, None]


def _on_each_device(function, query, key, value, prompt):
    """Calls `function` on the prompts and heads of each device, inside `sharding.layout`.

    No device needs another's, and neither a kernel nor a loop over blocks is partitioned by XLA.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or not nn.get_logical_axis_rules():
        return function(query, key, value, prompt)

    def split(name, size):
        """The mesh axes of a logical axis; None where they do not divide it."""
        (axes,) = spmd.logical_to_mesh_axes((name,)) or (None,)
        names = axes if isinstance(axes, tuple) else (axes,) if axes else ()
        return axes if size % math.prod(mesh.shape[axis] for axis in names) == 0 else None

    rows, heads = split("prompts", query.shape[0]), split("kv_heads", query.shape[3])
    spec: Any = PartitionSpec(rows, None, None, heads)
    rows_only: Any = PartitionSpec(rows)
    of_prompt = None if prompt is None else Prompt(spec, spec, rows_only)
    return jax.shard_map(
        function, in_specs=(spec, spec, spec, of_prompt), out_specs=spec, check_vma=False
    )(query, key, value, prompt)


def _in_blocks(query, key, value, prompt):
    """Attention as a loop over blocks of scores, with the softmax summed along the way.

    A block has QUERY_BLOCK queries and KEY_BLOCK keys, of the prompt or of the sequence; blocks
    that causality hides are left out. The backward pass computes each block again from the
    log-sum-exp of its queries (FlashAttention-2, arXiv:2307.08691).
    """
    count = query.shape[2]
    queries = _cut(query, min(QUERY_BLOCK, count))  # [blocks, P, G, B, Hkv, R, Dh]
    queries = jnp.transpose(queries, (0, 1, 4, 2, 3, 5, 6))
    size = min(KEY_BLOCK, count)
    own = (_cut(x, size).transpose(0, 1, 4, 2, 3, 5) for x in (key, value))
    segments, length = (tuple(own),), None
    if prompt is not None:
        size = min(KEY_BLOCK, prompt.key.shape[2])
        shared = (_cut(x, size)[:, :, 0].swapaxes(2, 3) for x in (prompt.key, prompt.value))
        segments, length = (tuple(shared), *segments), prompt.length
    out = _blocks(queries, segments, length)  # [blocks, P, Hkv, G, B, R, Dh]
    out = jnp.transpose(out, (1, 3, 0, 4, 2, 5, 6))
    return out.reshape(*query.shape[:2], -1, *query.shape[3:])[:, :, :count]


def _cut(x, size):
    """[P, G, N, ...] to [blocks, P, G, size, ...], padded with zeros."""
    padding = -x.shape[2] % size
    x = jnp.pad(x, [(0, padding if axis == 2 else 0) for axis in range(x.ndim)])
    return jnp.moveaxis(x.reshape(*x.shape[:2], -1, size, *x.shape[3:]), 2, 0)


@jax.custom_vjp
def _blocks(queries, segments, length):
    """Attention of `_in_blocks`.

    Args:
      queries: [blocks, P, Hkv, G, B, R, Dh].
      segments: (keys, values) each: [blocks, P, Hkv, N, Dh] of a prompt that the group shares and
        of which `length` tokens are seen, [blocks, P, Hkv, G, N, Dh] of the sequences themselves.
      length: i32 [P]; None without a prompt.

    Returns:
      The output, as queries.
    """
    return _blocks_fwd(queries, segments, length)[0]


def _pairs(queries, keys):
    """The blocks of queries and of keys, int32 [pairs, 2], that have scores; rows of queries."""
    count, size = keys.shape[0], keys.shape[-2]
    reach = [
        count if keys.ndim == 5 else min(count, -(-(i + 1) * queries.shape[4] // size))
        for i in range(queries.shape[0])
    ]
    return np.array([(i, j) for i, end in enumerate(reach) for j in range(end)], np.int32)


def _over_pairs(step, carry, pairs):
    """Returns the carry after step(carry, pair) for each pair.

    No scan: JAX would split it under remat, and store the masks of all blocks between the halves.
    """
    pairs = jnp.asarray(pairs)

    def body(state):
        return state[0] + 1, step(state[1], pairs[state[0]])

    return jax.lax.while_loop(lambda state: state[0] < len(pairs), body, (0, carry))[1]


def _dot(axes, left, right):
    """An einsum with a float32 result; {} is g, or nothing where a group shares the keys."""
    return jnp.einsum(axes, left, right, preferred_element_type=jnp.float32)


def _scores(query, keys, pair, length):
    """Scores of a block, float32 [P, Hkv, G, B, R, N]."""
    shared = keys.ndim == 4
    scores = _dot(f"phgqrd,ph{'' if shared else 'g'}nd->phgqrn", query, keys)
    place = pair[1] * keys.shape[-2] + jnp.arange(keys.shape[-2])
    if shared:
        seen = (place < length[:, None])[:, None, None, None, None]
    else:
        steps = pair[0] * query.shape[3] + jnp.arange(query.shape[3])
        seen = (place <= steps[:, None])[:, None]
    return jnp.where(seen, scores, _MASKED)


def _blocks_fwd(queries, segments, length):
    shape = (*queries.shape[:-1], 1)
    carry = (
        jnp.zeros(queries.shape, jnp.float32),
        jnp.zeros(shape, jnp.float32),
        jnp.full(shape, _MASKED),
    )
    for keys, values in segments:
        mix_axes = f"phgqrn,ph{'' if values.ndim == 5 else 'g'}nd->phgqrd"

        def step(carry, pair, keys=keys, values=values, mix_axes=mix_axes):
            i, j = pair
            mixed, total, top = (x[i] for x in carry)
            scores = _scores(queries[i], keys[j], pair, length)
            new_top = jnp.maximum(top, jnp.max(scores, axis=-1, keepdims=True))
            weights, kept = jnp.exp(scores - new_top), jnp.exp(top - new_top)
            mixed = mixed * kept + _dot(mix_axes, weights.astype(values.dtype), values[j])
            total = total * kept + jnp.sum(weights, axis=-1, keepdims=True)
            new = mixed, total, new_top
            return tuple(x.at[i].set(y) for x, y in zip(carry, new))

        carry = _over_pairs(step, carry, _pairs(queries, keys))
    mixed, total, top = carry
    out = (mixed / total).astype(queries.dtype)
    return out, (queries, segments, length, out, top + jnp.log(total))


def _blocks_bwd(residuals, gradient):
    """With weights w = exp(s - lse) and δ = Σ dout out: ds = w (dout vᵀ - δ), dv = wᵀ dout."""
    queries, segments, length, out, lse = residuals
    wide = jnp.float32
    delta = jnp.sum(gradient.astype(wide) * out.astype(wide), axis=-1, keepdims=True)
    to_queries, to_segments = jnp.zeros(queries.shape, wide), []
    for keys, values in segments:
        of_keys = f"ph{'' if keys.ndim == 5 else 'g'}nd"

        def step(carry, pair, keys=keys, values=values, of_keys=of_keys):
            i, j = pair
            query, out_gradient = queries[i], gradient[i]
            weights = jnp.exp(_scores(query, keys[j], pair, length) - lse[i])
            to_weights = _dot(f"phgqrd,{of_keys}->phgqrn", out_gradient, values[j])
            to_scores = (weights * (to_weights - delta[i])).astype(query.dtype)
            to_query = _dot(f"phgqrn,{of_keys}->phgqrd", to_scores, keys[j])
            to_key = _dot(f"phgqrn,phgqrd->{of_keys}", to_scores, query)
            weights = weights.astype(query.dtype)
            to_value = _dot(f"phgqrn,phgqrd->{of_keys}", weights, out_gradient)
            places, parts = (i, j, j), (to_query, to_key, to_value)
            return tuple(x.at[p].add(y) for x, p, y in zip(carry, places, parts))

        zeros = jnp.zeros(keys.shape, wide)
        carry = to_queries, zeros, zeros
        to_queries, *pair = _over_pairs(step, carry, _pairs(queries, keys))
        to_segments.append(tuple(x.astype(keys.dtype) for x in pair))
    return to_queries.astype(queries.dtype), tuple(to_segments), None


_blocks.defvjp(_blocks_fwd, _blocks_bwd)


def _cudnn(query, key, value, prompt):
    """Attention by cuDNN.

    JAX rounds cuDNN's log-sum-exp to bfloat16 and drops its gradient, so a prompt cannot be a part
    of its own. Each sequence becomes one row instead: the prompt's real tokens, its own, padding.
    """
    prompts, group, count = query.shape[:3]
    if prompt is not None:
        start = prompt.key.shape[2]
        nothing = jnp.zeros_like(query, shape=(prompts, 1, start, *query.shape[3:]))
        place = functools.partial(_place, length=prompt.length)
        query, key, value = (
            place(*pair) for pair in ((nothing, query), (prompt.key, key), (prompt.value, value))
        )
    shape = prompts * group, query.shape[2], -1, query.shape[-1]
    out = jax.nn.dot_product_attention(
        query.reshape(shape),
        key.reshape(shape),
        value.reshape(shape),
        scale=1.0,
        is_causal=True,
        implementation="cudnn",
    ).reshape(query.shape)
    if prompt is None:
        return out
    take = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=count, axis=1)
    return jax.vmap(take)(out, prompt.length)


def _place(prompt, own, length):
    """Puts tokens [P, G, T, ...] behind the first `length` of a prompt [P, 1, S, ...].

    Returns:
      [P, G, S + T, ...]; what comes after is padding.
    """
    prompt = jnp.broadcast_to(prompt, (*own.shape[:2], *prompt.shape[2:]))
    room = jnp.concatenate([prompt, jnp.zeros_like(own)], axis=2)
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
    return jax.vmap(put)(room, own, length)


def _pallas(query, key, value, prompt, interpret=False):
    """Attention by JAX's splash attention, a Pallas kernel for TPUs; tests interpret it on a CPU.

    A prompt comes before the keys of each sequence. The kernel's segments hide its padding.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    count, heads, width = query.shape[2], query.shape[3] * query.shape[4], query.shape[-1]
    group = query.shape[1]
    start = 0 if prompt is None else prompt.key.shape[2]
    hidden = jnp.zeros((query.shape[0], start + count), jnp.int32)
    if prompt is not None:
        hidden = hidden.at[:, :start].set(jnp.arange(start) >= prompt.length[:, None])
        key, value = (
            jnp.concatenate([jnp.repeat(x, group, axis=1), y], axis=2)
            for x, y in ((prompt.key, key), (prompt.value, value))
        )
    block = 512 if count >= 512 else 128
    queries, keys = -(-count // block) * block, -(-(start + count) // block) * block
    hidden = jnp.pad(hidden, ((0, 0), (0, keys - start - count)), constant_values=1)

    def arrange(x, size):
        """[P, G, N, heads, Dh] to [P, G, heads, size, lanes]."""
        lanes = -(-width // 128) * 128
        pad = [(0, 0), (0, 0), (0, size - x.shape[2]), (0, 0), (0, lanes - width)]
        return jnp.swapaxes(jnp.pad(x, pad), 2, 3)

    mask = masks.MultiHeadMask([masks.CausalMask((queries, keys), start)] * heads)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    kernel: Any = splash.make_splash_mha(
        mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )

    def one(query, key, value, hidden):
        ids = splash.SegmentIds(jnp.zeros(queries, jnp.int32), hidden)
        return kernel(query, key, value, ids)

    flat = query.reshape(*query.shape[:3], heads, width)
    run = jax.vmap(jax.vmap(one, (0, 0, 0, None)))
    out = run(arrange(flat, queries), arrange(key, keys), arrange(value, keys), hidden)
    return jnp.swapaxes(out, 2, 3)[:, :, :count, :, :width].reshape(query.shape)


_LONG_SEQUENCES = {"blocks": _in_blocks, "cudnn": _cudnn, "pallas": _pallas}
