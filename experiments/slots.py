"""Decoding of completions whose lengths differ: slots that take the next completion, then narrower
loops for those that are left.

A token depends on its completion and its position alone, so tokens are those of the plain loop
whatever the plan. Below: slot_plan, models. Above: rollout.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import spmd
from jax.sharding import PartitionSpec

from experiments.models import decode, transformer
from experiments.slot_plan import Plan, next_width


class Policy(NamedTuple):
    """What is sampled from.

    Attributes:
      model: a ModelConfig.
      params: of it.
      emit: (hidden [A, B or 1, D], uniforms [A, B], alive [A, B]) -> a NamedTuple of columns [A, B]
        whose field `tokens` is i32; what is not alive has the value of padding.
      empty: shape -> padding of that shape, as such a NamedTuple.
      ends: tokens -> bool, which end a completion.
    """

    model: Any
    params: Any
    emit: Callable[..., Any]
    empty: Callable[..., Any]
    ends: Callable[[jax.Array], jax.Array]


class _Rows(NamedTuple):
    """Completions that are decoded together, with one row each.

    Attributes:
      number: i32 [W], p G + g of the completion; N for none.
      position: i32 [], or [W] where slots are refilled; of the token that is fed next.
      token: i32 [W], that token.
      alive: bool [W].
      cache: a Cache of W prompts with one completion each.
      written: columns [W, T] of the completions.
    """

    number: jax.Array
    position: jax.Array
    token: jax.Array
    alive: jax.Array
    cache: decode.Cache
    written: Any


class _Batch(NamedTuple):
    """What rows are filled from: context of the prompts, uniforms [N, T], limits [N]."""

    context: decode.DecodeContext
    uniforms: jax.Array
    limits: jax.Array


def sample_plainly(policy: Policy, tokens, length, uniforms, limits, shape):
    """Samples completions of each prompt in one loop, which ends when all of them have ended.

    Args:
      policy: what is sampled from.
      tokens: i32 [P, S] prompts, right-padded.
      length: i32 [P], real tokens of each prompt.
      uniforms: number of a token -> float32 [P, G].
      limits: i32 [P, G], at most so many tokens of each completion; None for T.
      shape: (P, G, T).

    Returns:
      The columns of `policy.emit`, [P, G, T] each.
    """
    prompts, group, max_tokens = shape
    context, last = _prompts(policy, tokens, length, max_tokens)
    first = policy.emit(last[:, None], uniforms(0), jnp.ones((prompts, group), bool))
    alive = ~policy.ends(first.tokens)
    if limits is not None:
        alive &= limits > 1
    carry = jnp.int32(0), first.tokens, alive, _put(policy.empty(shape), first, 0)
    return _decode_groups(policy, context, carry, uniforms, limits, max_tokens, floor=0)[3]


def sample(policy: Policy, tokens, length, uniforms, limits, plan: Plan):
    """Samples completions of each prompt in the loops of a plan.

    Args:
      policy: what is sampled from.
      tokens: i32 [P, S] prompts, right-padded.
      length: i32 [P], real tokens of each prompt.
      uniforms: float32 [P, G, T], one for each token.
      limits: i32 [P, G], at most so many tokens of each completion.
      plan: of make_plan.

    Returns:
      The columns of `policy.emit`, [P, G, T] each.
    """
    shape, max_tokens = uniforms.shape, uniforms.shape[-1]
    context, last = _prompts(policy, tokens, length, max_tokens)
    batch = _Batch(context, uniforms.reshape(-1, max_tokens), limits.reshape(-1))
    first = _first_tokens(policy, last, uniforms[..., 0], in_turn=plan.idle > 0)
    alive = ~policy.ends(first.tokens) & (limits > 1)
    written = _put(policy.empty(shape), first, 0)
    flat = jax.tree.map(lambda x: x.reshape(-1, max_tokens), written)
    if plan.idle:
        flat, rows = _refilled(policy, batch, flat, alive.reshape(-1), plan)
    else:
        carry = jnp.int32(0), first.tokens, alive, written

        def column(index):
            return jax.lax.dynamic_index_in_dim(uniforms, index, axis=-1, keepdims=False)

        carry = _decode_groups(
            policy, context, carry, column, limits, plan.stages[0].length, next_width(plan.stages)
        )
        rows = _as_rows(*carry)
        flat = rows.written
    flat = _decode_rest(policy, batch, flat, rows, plan.stages[1:])
    return jax.tree.map(lambda x: x.reshape(shape), flat)


def _decode_rest(policy, batch, flat, rows, stages):
    """Decodes the rows that are alive to their ends, in parts as wide as the first stage."""
    if not stages:
        return flat
    (width, size), floor = stages[0], next_width(stages)
    order, count = jnp.argsort(~rows.alive, stable=True), jnp.sum(rows.alive)

    def decode_part(carry):
        flat, first = carry
        place = first + jnp.arange(width)
        part = jax.tree.map(lambda x: x.at[order[place]].get(mode="clip") if x.ndim else x, rows)
        part = part._replace(
            number=jnp.where(place < count, part.number, len(batch.limits)),
            alive=place < count,
            cache=_lengthened(part.cache, size),
        )
        part = _decode_rows(policy, batch, part, floor)
        flat = _decode_rest(policy, batch, _write_back(flat, part), part, stages[1:])
        return flat, first + width

    return jax.lax.while_loop(lambda c: c[1] < count, decode_part, (flat, 0))[0]


def _prompts(policy, tokens, length, max_tokens):
    """The context of decoding, and the hidden states [P, D] that predict the first tokens."""
    prompt_cache, last = transformer.prefill(policy.model, policy.params, tokens, length)
    make_context = decode.make_decode_context
    return make_context(policy.model, policy.params, prompt_cache, max_tokens), last


def _first_tokens(policy, last, uniforms, in_turn):
    """Draws from hidden states [P, D] that groups share.

    Prompt by prompt if memory is to follow the slots: V numbers for each completion are much.
    """
    if not in_turn:
        return policy.emit(last[:, None], uniforms, jnp.ones(uniforms.shape, bool))

    def of_prompt(inputs):
        hidden, uniform = inputs
        drawn = policy.emit(hidden[None, None], uniform[None], jnp.ones((1, uniform.size), bool))
        return jax.tree.map(lambda x: x[0], drawn)

    return jax.lax.map(of_prompt, (last, uniforms))


def _decode_groups(policy, context, carry, uniforms, limits, size, floor) -> Any:
    """Decodes all completions until no more than `floor` are alive, or `size` tokens are cached.

    Here groups share the caches of their prompts. Takes and returns the number of the token that is
    fed next, these tokens [P, G], which of them are alive, and the columns [P, G, T]; returns the
    cache too.
    """
    (prompts, group), max_tokens = carry[1].shape, carry[3].tokens.shape[-1]

    def step(carry):
        index, token, alive, written, cache = carry
        hidden, cache = decode.decode(policy.model, context, cache, token, index)
        columns = policy.emit(hidden, uniforms(index + 1), alive)
        alive = alive & ~policy.ends(columns.tokens)
        if limits is not None:
            alive &= index + 2 < limits
        return index + 1, columns.tokens, alive, _put(written, columns, index + 1), cache

    cache = decode.empty_cache(policy.model, prompts, group, size)
    bound = min(size, max_tokens - 1)
    start: Any = *carry, cache
    return jax.lax.while_loop(lambda c: (c[0] < bound) & _more_than(floor, c[2]), step, start)


def _more_than(floor, alive):
    return jnp.any(alive) if isinstance(floor, int) and floor == 0 else jnp.sum(alive) > floor


def _as_rows(index, token, alive, written, cache) -> _Rows:
    """The state of `_decode_groups` with a row for each completion."""
    number = jnp.arange(alive.size, dtype=jnp.int32)
    if alive.shape[1] > 1:
        cache = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), cache)
    written = jax.tree.map(lambda x: x.reshape(number.size, -1), written)
    return _Rows(number, index, token.reshape(-1), alive.reshape(-1), cache, written)


def _refilled(policy, batch, flat, alive, plan):
    """The first loop with fewer slots than completions: ended ones take the next of the queue."""
    (total, max_tokens), width = batch.uniforms.shape, plan.stages[0].width
    queue, count = jnp.argsort(~alive, stable=True).astype(jnp.int32), jnp.sum(alive)
    tokens = flat.tokens[:, 0]
    none = jnp.zeros(width, jnp.int32)
    rows = _Rows(
        none + total,
        none,
        none,
        none > 0,
        decode.empty_cache(policy.model, width, 1, max_tokens),
        policy.empty((width, max_tokens)),
    )

    def refill(carry):
        flat, rows, taken = carry
        flat = _write_back(flat, rows)
        place = taken + jnp.cumsum(~rows.alive) - 1
        fresh = ~rows.alive & (place < count)
        number = queue.at[place].get(mode="clip")
        number = jnp.where(fresh, number, jnp.where(rows.alive, rows.number, total))
        rows = rows._replace(
            number=number,
            position=jnp.where(fresh, 0, rows.position),
            token=jnp.where(fresh, tokens.at[number].get(mode="clip"), rows.token),
            alive=rows.alive | fresh,
            written=jax.tree.map(lambda x: x.at[number].get(mode="clip"), flat),
        )
        taken = taken + jnp.sum(fresh)
        left = jnp.where(taken < count, width - plan.idle, next_width(plan.stages))
        return flat, _decode_rows(policy, batch, rows, left), taken

    flat, rows, _ = jax.lax.while_loop(
        lambda c: (c[2] < count) | (jnp.sum(c[1].alive) > next_width(plan.stages)),
        refill,
        (flat, rows, 0),
    )
    return _write_back(flat, rows), rows


def _decode_rows(policy, batch, rows, floor) -> _Rows:
    """Decodes rows until no more than `floor` of them are alive, or one has filled its cache."""
    max_tokens = batch.uniforms.shape[-1]
    group = len(batch.limits) // len(batch.context.length)
    prompt = jnp.minimum(rows.number // group, len(batch.context.length) - 1)
    context = batch.context._replace(
        keys=tuple(x[prompt] for x in batch.context.keys),
        values=tuple(x[prompt] for x in batch.context.values),
        length=batch.context.length[prompt],
    )
    uniforms, limits = (x.at[rows.number].get(mode="clip") for x in (batch.uniforms, batch.limits))
    aligned = rows.position.ndim == 0

    def step(rows):
        hidden, cache = decode.decode(
            policy.model, context, rows.cache, rows.token[:, None], rows.position
        )
        following = rows.position + 1
        column = (
            uniforms[:, following]
            if aligned
            else jnp.take_along_axis(uniforms, following[:, None], axis=1)[:, 0]
        )
        columns = policy.emit(hidden, column[:, None], rows.alive[:, None])
        columns = jax.tree.map(lambda x: x[:, 0], columns)
        alive = rows.alive & ~policy.ends(columns.tokens) & (following + 1 < limits)
        written = _put(rows.written, columns, following, rows.alive)
        if not aligned:
            following = jnp.where(rows.alive, following, rows.position)
        return _Rows(rows.number, following, columns.tokens, alive, cache, written)

    bound = min(rows.cache.keys[0].shape[-1], max_tokens - 1)

    def goes_on(rows):
        return jnp.all(~rows.alive | (rows.position < bound)) & _more_than(floor, rows.alive)

    return jax.lax.while_loop(goes_on, step, rows)


def _write_back(flat, rows: _Rows):
    """Copies the columns of rows to their places among all completions."""
    return jax.tree.map(
        lambda whole, part: whole.at[rows.number].set(part, mode="drop", unique_indices=False),
        flat,
        rows.written,
    )


def _put(written, columns, index, alive: Any = None):
    """Writes columns [...] at `index`, i32 [] or [W], of [..., T]."""
    if jnp.ndim(index) == 0:
        return jax.tree.map(
            lambda all_, now: jax.lax.dynamic_update_index_in_dim(all_, now, index, axis=-1),
            written,
            columns,
        )

    def put(all_, now):
        here = (jnp.arange(all_.shape[-1]) == index[:, None]) & alive[:, None]
        return jnp.where(here, now[:, None], all_)

    return jax.tree.map(put, written, columns)


def _lengthened(cache, size):
    """Pads the tokens of a cache with zeros to `size`."""

    def pad(x, axis):
        more = [(0, size - x.shape[axis] if i == axis % x.ndim else 0) for i in range(x.ndim)]
        return jnp.pad(x, more)

    return decode.Cache(
        tuple(pad(x, -1) for x in cache.keys), tuple(pad(x, -2) for x in cache.values)
    )


def prompt_axes() -> tuple[str, ...]:
    """Returns the axes of the mesh of `sharding.layout` that prompts are split over."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = spmd.logical_to_mesh_axes(("prompts",))
    axes = axes[0] if axes and axes[0] else ()
    return tuple(axis for axis in np.ravel(axes).tolist() if mesh.shape.get(axis, 1) > 1)


def on_each_shard(function, axes):
    """Runs a function of (params, *batch) by itself on the devices that have a part of the prompts.

    Their loops may take different numbers of steps. Parameters are whole along `axes`.
    """
    rules = [(name, axis) for name, axis in nn.get_logical_axis_rules() if name != "prompts"]

    def of_shard(params, *batch):
        with nn.logical_axis_rules([*rules, ("prompts", None)]):
            return function(params, *batch)

    def run(params, *batch):
        rows = PartitionSpec(axes)
        specs = PartitionSpec(), *(rows for _ in batch)
        return jax.shard_map(
            of_shard, in_specs=specs, out_specs=rows, axis_names=set(axes), check_vma=False
        )(params, *batch)

    return run
