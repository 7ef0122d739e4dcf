"""Fused output head: log-probabilities and entropies from hidden states, by vocabulary chunk.

The [tokens, vocabulary] logits are never materialized: the forward pass keeps a running maximum
and two running sums per token, and the backward pass recomputes the logits of each chunk.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from fade_jax.checks import check_integer, check_positive, check_same_shape

# Initial maximum: below any logit, but finite, since -inf times 0 is NaN.
_LOWEST = -1e30


class _Sums(NamedTuple):
    """Running sums of each token within each shard of the vocabulary, `[tokens, shards]`."""

    top: jax.Array  # m, largest logit so far
    total: jax.Array  # Σ e^{z-m}
    weighted: jax.Array  # Σ e^{z-m} (z-m)
    target: jax.Array  # logit of the target, 0 before its chunk


class _Chunk(NamedTuple):
    """A slice of every shard of the vocabulary, with its logits."""

    start: jax.Array
    rows: jax.Array  # unembedding, [shards, chunk, width]
    logits: jax.Array  # [tokens, shards, chunk], float32, temperature applied
    target: jax.Array  # [tokens, shards], index of the target if it is in the chunk
    is_new: jax.Array  # [chunk], false for rows of the previous chunk


def log_prob_and_entropy(
    hidden: ArrayLike,
    unembedding: ArrayLike,
    targets: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    chunk: int = 1024,
    shards: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Computes the log-probability of target tokens and the exact entropy of their distributions.

        z = W h / τ;   log π(y) = z_y - log Σ_v e^{z_v};   H = -Σ_v π(v) log π(v)

    Both are differentiable in `hidden`, `unembedding` and `temperature`:
    ∂ log π(y)/∂z_v = 1[v = y] - π(v) and ∂H/∂z_v = -π(v) (log π(v) + H).
    Products are accumulated in float32 for inputs of any type. The gradient of `unembedding` is not
    computed where it is not asked for.

    Args:
      hidden: h, `[..., width]`, the states that the output head reads.
      unembedding: W, `[vocabulary, width]`.
      targets: y, `[...]`, integers in [0, vocabulary). Padding may hold any integer:
        its results are finite, to be masked in the loss.
      temperature: τ > 0, a scalar.
      chunk: vocabulary rows per step and shard; memory is a few arrays of
        `tokens · chunk · shards`.
      shards: number of devices that the vocabulary is sharded over; the loop runs
        within the shards, so that no device gathers the rows of another.

    Returns:
      log-probability `[...]` and entropy `[...]`, float32, nats.

    Raises:
      ValueError: if the shapes do not match, `temperature` or `chunk` is not above 0, or the
        vocabulary does not divide into `shards`.
    """
    hidden = jnp.asarray(hidden)
    unembedding = jnp.asarray(unembedding)
    targets = jnp.asarray(targets)
    check_positive("temperature", temperature)
    check_integer("chunk", chunk, 1)
    check_integer("shards", shards, 1)
    if unembedding.ndim != 2 or unembedding.shape[1:] != hidden.shape[-1:]:
        raise ValueError(
            f"unembedding must be [vocabulary, {hidden.shape[-1]}] for this hidden width, "
            f"got {unembedding.shape}"
        )
    check_same_shape("targets", targets, "hidden without its last axis", hidden[..., 0])
    if unembedding.shape[0] % shards:
        raise ValueError(
            f"shards must divide the vocabulary of {unembedding.shape[0]}, got {shards}"
        )
    log_prob, entropy = _log_prob_and_entropy(
        (min(chunk, unembedding.shape[0] // shards), shards),
        hidden.reshape(-1, hidden.shape[-1]),
        unembedding,
        targets.reshape(-1),
        jnp.asarray(temperature, jnp.float32),
    )
    return log_prob.reshape(targets.shape), entropy.reshape(targets.shape)


def _forward(
    sizes: tuple[int, int],
    hidden: jax.Array,
    unembedding: jax.Array,
    targets: jax.Array,
    temperature: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], tuple]:
    chunk, shards = sizes
    blocks = unembedding.reshape(shards, -1, unembedding.shape[1])

    def add_chunk(i: jax.Array, sums: _Sums) -> _Sums:
        part = _chunk(i, chunk, hidden, blocks, targets, temperature)
        top = jnp.maximum(sums.top, jnp.max(part.logits, axis=-1))
        above = part.logits - top[..., None]
        e = jnp.exp(above)
        shift = sums.top - top
        shrink = jnp.exp(shift)
        # Matrix-vector products: XLA:CPU is three times slower on a sum fused with its exp. At the
        # highest precision, since accelerators would round e to a few bits.
        is_new = part.is_new.astype(jnp.float32)
        add = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        here = (part.target >= 0) & (part.target < chunk)
        index = jnp.clip(part.target, 0, chunk - 1)[..., None]
        target = jnp.take_along_axis(part.logits, index, axis=-1)[..., 0]
        return _Sums(
            top,
            shrink * sums.total + add(e, is_new),
            shrink * (sums.weighted + shift * sums.total) + add(e * above, is_new),
            jnp.where(here, target, sums.target),
        )

    zeros = jnp.zeros((hidden.shape[0], shards), jnp.float32)
    sums = jax.lax.fori_loop(
        0, _num_chunks(blocks, chunk), add_chunk, _Sums(zeros + _LOWEST, zeros, zeros, zeros)
    )
    top = jnp.max(sums.top, axis=-1)
    shift = sums.top - top[:, None]
    shrink = jnp.exp(shift)
    total = jnp.sum(shrink * sums.total, axis=-1)
    weighted = jnp.sum(shrink * (sums.weighted + shift * sums.total), axis=-1)
    log_normalizer = top + jnp.log(total)
    log_prob = jnp.sum(sums.target, axis=-1) - log_normalizer
    entropy = jnp.log(total) - weighted / total
    residuals = (hidden, unembedding, targets, temperature, log_normalizer, entropy)
    return (log_prob, entropy), residuals


def _forward_and_asked(sizes: tuple[int, int], *inputs: Any) -> tuple:
    outputs, residuals = _forward(sizes, *(x.value for x in inputs))
    # For `_backward`: () if the gradient of the unembedding is asked for, None if not.
    return outputs, (residuals, () if inputs[1].perturbed else None)


def _instantiate(cotangent: Any) -> jax.Array:
    if isinstance(cotangent, SymbolicZero):
        shaped: Any = cotangent
        return jnp.zeros(shaped.shape, shaped.dtype)
    return cotangent


def _backward(sizes: tuple[int, int], residuals: tuple, cotangents: tuple) -> tuple:
    chunk, shards = sizes
    (hidden, unembedding, targets, temperature, log_normalizer, entropy), asked = residuals
    by_log_prob, by_entropy = (_instantiate(g)[:, None, None] / temperature for g in cotangents)
    blocks = unembedding.reshape(shards, -1, unembedding.shape[1])

    def add_chunk(i: jax.Array, gradients: tuple) -> tuple:
        by_hidden, by_blocks = gradients
        part = _chunk(i, chunk, hidden, blocks, targets, temperature)
        log_p = part.logits - log_normalizer[:, None, None]
        pull = by_log_prob + by_entropy * (log_p + entropy[:, None, None])
        is_target = part.target[..., None] == jnp.arange(chunk)
        by_logits = jnp.where(is_target, by_log_prob, 0) - jnp.exp(log_p) * pull
        by_logits = by_logits.astype(hidden.dtype)
        new_rows = jnp.where(part.is_new[:, None], part.rows, 0)
        by_hidden += jnp.einsum(
            "nsc,scd->snd", by_logits, new_rows, preferred_element_type=jnp.float32
        )
        if by_blocks is None:
            return by_hidden, None
        # Rows that the last two chunks share are overwritten with the same gradient.
        by_rows = jnp.einsum(
            "nc,nd->cd",
            by_logits.reshape(len(hidden), -1),
            hidden,
            preferred_element_type=jnp.float32,
        )
        by_rows = by_rows.astype(blocks.dtype).reshape(part.rows.shape)
        return by_hidden, jax.lax.dynamic_update_slice_in_dim(by_blocks, by_rows, part.start, 1)

    by_hidden, by_blocks = jax.lax.fori_loop(
        0,
        _num_chunks(blocks, chunk),
        add_chunk,
        (
            jnp.zeros((shards, *hidden.shape), jnp.float32),
            None if asked is None else jnp.zeros_like(blocks),
        ),
    )
    by_hidden = jnp.sum(by_hidden, axis=0)
    # The logits depend on hidden / τ alone, so the two gradients are proportional.
    by_temperature = -jnp.sum(hidden * by_hidden) / temperature
    return (
        by_hidden.astype(hidden.dtype),
        None if by_blocks is None else by_blocks.reshape(unembedding.shape),
        None,
        by_temperature,
    )


def _primal(
    sizes: tuple[int, int],
    hidden: jax.Array,
    unembedding: jax.Array,
    targets: jax.Array,
    temperature: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    return _forward(sizes, hidden, unembedding, targets, temperature)[0]


_log_prob_and_entropy = jax.custom_vjp(_primal, nondiff_argnums=(0,))
_log_prob_and_entropy.defvjp(_forward_and_asked, _backward, symbolic_zeros=True)


def _num_chunks(blocks: jax.Array, chunk: int) -> int:
    return -(-blocks.shape[1] // chunk)


def _chunk(
    i: jax.Array,
    chunk: int,
    hidden: jax.Array,
    blocks: jax.Array,
    targets: jax.Array,
    temperature: jax.Array,
) -> _Chunk:
    """Slices chunk i; the last chunk ends with the shard and overlaps the previous one."""
    shards, rows_per_shard, _ = blocks.shape
    start = jnp.minimum(i * chunk, rows_per_shard - chunk)
    rows = jax.lax.dynamic_slice_in_dim(blocks, start, chunk, axis=1)
    # Two axes per operand: with three, XLA:CPU would write transposed copies.
    logits = jnp.einsum(
        "nd,cd->nc",
        hidden,
        rows.reshape(shards * chunk, -1),
        preferred_element_type=jnp.float32,
    ).reshape(-1, shards, chunk)
    within = jnp.arange(chunk)
    target = targets[:, None] - rows_per_shard * jnp.arange(shards) - start
    return _Chunk(start, rows, logits / temperature, target, start + within >= i * chunk)
