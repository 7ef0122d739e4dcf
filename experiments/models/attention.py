"""Softmax attention over sources of keys and values that a group of completions may share.

Axes: P prompts, G completions of each, Q queries of each, Hkv heads of keys and values, R query
heads to each of them, Dh width of a head, N keys of a source.
"""

import functools

import jax
import jax.numpy as jnp


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
