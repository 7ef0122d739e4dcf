"""Packing: an update computes the real tokens of its completions, not their padding.

Rows of a fixed width hold completions one behind another, each after its prompt, which the
completions of one prompt share where they share a row. Rows are computed a chunk at a time, and as
many chunks as the lengths need. Below: gradients, models. Above: scoring.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.linen import spmd

from experiments.gradients import Batch
from experiments.models import transformer
from experiments.models.config import ModelConfig

_COMPLETIONS = 16  # at most, in one row as wide as the longest prompt and completion
_MULTIPLE = 16  # of which a width is one, for the tiles of a processor's products


class Sizes(NamedTuple):
    """Static sizes of packed rows.

    Attributes:
      rows: of one chunk.
      width: tokens of a row, W: prompts, and completions without their last tokens.
      predicted: tokens whose log-probabilities a row gives at most, K.
      completions: of a row at most, M.
    """

    rows: int
    width: int
    predicted: int
    completions: int


class Rows(NamedTuple):
    """Packed rows; all int32, with a leading axis of rows.

    Attributes:
      tokens: [R, W].
      positions: [R, W], each counted from the beginning of its prompt.
      prompt: [R, W], 1 + the index of a token's prompt; 0 for padding.
      completion: [R, W], 1 + the place in its row of a token's completion; 0 for prompts.
      source: [R, K], where the token lies that predicts.
      target: [R, K], the token that is predicted.
      items: [R, M], p · G + g of each completion; P · G where there is none.
      first: [R, M], where among K the predictions of each completion begin.
    """

    tokens: jax.Array
    positions: jax.Array
    prompt: jax.Array
    completion: jax.Array
    source: jax.Array
    target: jax.Array
    items: jax.Array
    first: jax.Array


class Chunk(NamedTuple):
    """Some packed rows, and what a loss reads of their completions.

    Attributes:
      rows: R packed rows.
      lengths: int32 [R, M], tokens of each completion; 0 where there is none.
      batch: with [R, M] in place of [P, G]; its prompts and completions are ().
    """

    rows: Rows
    lengths: jax.Array
    batch: Batch


class Packed(NamedTuple):
    """A batch in packed rows.

    Attributes:
      chunks: int32 [], their number.
      take: index of a chunk -> Chunk.
      used: int32 [], rows with a completion.
    """

    chunks: jax.Array
    take: Callable[[Any], Chunk]
    used: jax.Array


def packed_sizes(
    model: ModelConfig,
    packed_tokens: int,
    *,
    prompts: int,
    prompt: int,
    group: int,
    completion: int,
) -> Sizes:
    """Chooses the sizes of rows.

    Wider rows repeat fewer prompts of a group, and more of their attention is masked. Of the widths
    that fit, this is the one with the fewest products per token at a mean length of T / 4.

    Args:
      model: static model config.
      packed_tokens: of one chunk, at most; one row for every part of the mesh if that is more.
      prompts: P.
      prompt: S, tokens of the longest.
      group: G.
      completion: T, tokens of the longest.
    """
    parts = _parts_of_mesh()
    least = _rounded(prompt + completion - 1)
    heads = (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    token = 2 * model.d_model * (heads + 3 * model.d_ff)
    score = 4 * model.num_heads * model.head_dim * (1 + 1 / transformer.TILES) / 2

    def cost(width):
        split = 1 - 1 / group  # prompts of a row whose groups go on in another
        predicted = (width - prompt * split) / (1 + prompt / (group * completion / 4))
        return width * (token + score * width) / predicted

    widths = [least]
    if group > 1:
        further = (_rounded(least + k * completion // 2) for k in range(1, 7))
        widths += [width for width in further if width * parts <= packed_tokens]
    width = min(widths, key=cost)
    all_rows = -(-prompts * group // parts)
    rows = min(max(packed_tokens // (width * parts), 1), all_rows) * parts
    predicted = max(width * completion // (prompt + completion - 1), completion)
    return Sizes(rows, width, predicted, _COMPLETIONS * -(-width // least))


def _rounded(width: int) -> int:
    return -(-width // _MULTIPLE) * _MULTIPLE


def _parts_of_mesh() -> int:
    """The devices that prompts and rows are split over."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape["data"] * mesh.shape["fsdp"]


def completion_lengths(mask: jax.Array) -> jax.Array:
    """Returns the tokens up to the last that counts, int32 [...], of a mask [..., T]."""
    ends = jnp.where(mask > 0, jnp.arange(1, mask.shape[-1] + 1), 0)
    return jnp.max(ends, axis=-1, initial=0).astype(jnp.int32)


def pack(sizes: Sizes, batch: Batch, counts: jax.Array | None = None) -> Packed:
    """Packs the completions of a batch, up to the last token of each that its mask counts.

    The groups go one after another, those with the most tokens first, and the completions of a
    group from the longest on: each to the row that has its prompt, or else to the fullest row that
    has room for both.

    Args:
      sizes: see `packed_sizes`.
      batch: P prompts of G completions.
      counts: bool [P], groups to pack; None for all.
    """
    batch = jax.tree.map(_replicate, batch)
    lengths = completion_lengths(batch.mask)
    if counts is not None:
        lengths = jnp.where(counts[:, None], lengths, 0)
    total = -(-lengths.size // sizes.rows) * sizes.rows
    place = _place(sizes, total, lengths, batch.length)
    rows = _write(sizes, total, batch, lengths, place)
    used = jnp.max(jnp.where(place.row < total, place.row + 1, 0), initial=0)

    def take(index):
        part = jax.tree.map(
            lambda x: _split_rows(
                jax.lax.dynamic_slice_in_dim(x, index * sizes.rows, sizes.rows, axis=0)
            ),
            rows,
        )

        def of_items(x):
            flat = x.reshape(lengths.size, *x.shape[2:])
            return flat.at[part.items].get(mode="fill", fill_value=0)

        loss_reads = batch._replace(prompts=(), length=(), completions=())
        return Chunk(part, of_items(lengths), jax.tree.map(of_items, loss_reads))

    return Packed(-(-used // sizes.rows), take, used)


class _Places(NamedTuple):
    """Where completions lie; all int32 [P, G] but the last."""

    row: jax.Array  # the number of rows if it is in none
    start: jax.Array  # of its tokens
    prompt: jax.Array  # where its prompt begins
    first: jax.Array  # of its predictions
    slot: jax.Array  # among the completions of the row
    opens: jax.Array  # bool; it has brought its prompt along


def _place(sizes: Sizes, total: int, lengths, prompt_lengths) -> _Places:
    """Gives every completion a place in one of `total` rows."""
    (prompts, group), flat = lengths.shape, lengths.ravel()
    groups = jnp.repeat(jnp.arange(prompts), group)
    order = jnp.lexsort((-flat, groups, -jnp.repeat(jnp.sum(lengths, axis=-1), group)))

    def put(carry, item):
        tokens, predicted, count, prompt_at, before = carry
        length, prompt_length, index = item
        prompt_at = jnp.where(index == before, prompt_at, -1)
        opens = prompt_at < 0
        more = length - 1 + jnp.where(opens, prompt_length, 0)
        fits = (tokens + more <= sizes.width) & (count < sizes.completions)
        fits &= predicted + length <= sizes.predicted
        worse = jnp.where(opens, sizes.width + 1, 0) + sizes.width - tokens
        row = jnp.argmin(jnp.where(fits, worse, 4 * sizes.width))
        begin = jnp.where(opens[row], tokens[row], prompt_at[row])
        start = tokens[row] + jnp.where(opens[row], prompt_length, 0)
        place = _Places(
            jnp.where(length > 0, row, total), start, begin, predicted[row], count[row], opens[row]
        )
        to = place.row  # beyond the rows for a completion without a token: nothing is written
        carry = (
            tokens.at[to].add(more[row], mode="drop"),
            predicted.at[to].add(length, mode="drop"),
            count.at[to].add(1, mode="drop"),
            prompt_at.at[to].set(begin, mode="drop"),
            index,
        )
        return carry, place

    none = jnp.zeros(total, jnp.int32)
    items = flat[order], prompt_lengths[groups[order]], groups[order]
    _, places = jax.lax.scan(put, (none, none, none, none - 1, jnp.int32(-1)), items)
    return jax.tree.map(lambda x: jnp.zeros_like(x).at[order].set(x).reshape(lengths.shape), places)


def _write(sizes: Sizes, total: int, batch: Batch, lengths, place: _Places) -> Rows:
    """Writes `total` rows."""
    prompts, group, longest = batch.completions.shape
    steps = jnp.arange(longest)
    prompt_steps = jnp.arange(batch.prompts.shape[1])
    index = jnp.arange(prompts)[:, None]

    def spread(values, like):
        return jnp.broadcast_to(values, like.shape)

    def scatter(width, *parts):
        """Writes (row, offset, valid, columns) each into int32 [total, width, columns]."""
        out = jnp.zeros((total * width, len(parts[0][-1])), jnp.int32)
        for row, offset, valid, columns in parts:
            to = jnp.where(valid, row * width + offset, total * width)
            values = jnp.stack([spread(column, to) for column in columns], axis=-1)
            out = out.at[to].set(values.astype(jnp.int32), mode="drop")
        return jnp.moveaxis(out.reshape(total, width, -1), -1, 0)

    row, length = place.row[..., None], batch.length[:, None, None]
    fed = steps[:-1]
    of_prompts = (
        row,
        place.prompt[..., None] + prompt_steps,
        (place.opens & (place.row < total))[..., None] & (prompt_steps < length),
        (batch.prompts[:, None], prompt_steps, index[..., None] + 1, jnp.int32(0)),
    )
    of_completions = (
        row,
        place.start[..., None] + fed,
        fed < lengths[..., None] - 1,
        (
            batch.completions[..., :-1],
            length + fed,
            index[..., None] + 1,
            place.slot[..., None] + 1,
        ),
    )
    inputs = scatter(sizes.width, of_prompts, of_completions)
    last = place.prompt + batch.length[:, None] - 1
    source = jnp.where(steps == 0, last[..., None], place.start[..., None] + steps - 1)
    valid = steps < lengths[..., None]
    offset = place.first[..., None] + steps
    outputs = scatter(sizes.predicted, (row, offset, valid, (source, batch.completions)))
    items = scatter(
        sizes.completions,
        (
            place.row,
            place.slot,
            place.row < total,
            (index * group + jnp.arange(group) - lengths.size, place.first),
        ),
    )
    tokens, positions, prompt, completion = inputs
    source, target = outputs
    item, first = items[0] + lengths.size, items[1]
    return Rows(tokens, positions, prompt, completion, source, target, item, first)


def _replicate(x: jax.Array) -> jax.Array:
    """Gathers an array, since a row may take from anywhere in the batch."""
    return spmd.with_logical_constraint(x, (None,) * x.ndim)


def _split_rows(x: jax.Array) -> jax.Array:
    return spmd.with_logical_constraint(x, ("prompts", *(None,) * (x.ndim - 1)))
