"""Sampling from the policy with a key-value cache, and log-probabilities for the update.

Below: models. Above: learner.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import slot_plan
from experiments import slots as slot_loops
from experiments.models import transformer
from experiments.models.config import ModelConfig
from experiments.models.layers import linear_small_batch
from experiments.tasks.base import is_end
from fade_jax.entropies import log_prob_and_entropy, token_entropy


class Rollouts(NamedTuple):
    """G completions of each of P prompts; all leaves are [P, G, T].

    Attributes:
      tokens: int32; pad_id after the end of a completion.
      token_mask: float32; 1 up to and including the first end token, then 0.
      log_probs: float32, nats; of the sampled tokens under the tempered policy over all rows of the
        head, before `truncate`, so that the ratio of the first update is 1. 0 where masked.
      entropies: float32, nats; of the same distribution. 0 where masked.
    """

    tokens: jax.Array
    token_mask: jax.Array
    log_probs: jax.Array
    entropies: jax.Array


def truncate(
    logits: jax.Array, *, top_p: float = 1.0, top_k: int = 0, vocab_size: int | None = None
) -> jax.Array:
    """Sets logits of padding rows, then outside the top-k, then outside the nucleus, to -inf.

    Args:
      logits: [..., vocab].
      top_p: keep the smallest set of tokens with at least this mass; 1 keeps all.
      top_k: keep this many tokens, and those that tie with the last; 0 keeps all.
      vocab_size: number of token ids; rows of the head from there on are padding. None keeps all.

    Returns:
      [..., vocab].
    """
    if vocab_size is not None and vocab_size < logits.shape[-1]:
        logits = jnp.where(jnp.arange(logits.shape[-1]) < vocab_size, logits, -jnp.inf)
    if top_k:
        smallest = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if top_p < 1.0:
        descending = jnp.sort(logits, axis=-1, descending=True)
        probs = jax.nn.softmax(descending, axis=-1)
        before = jnp.cumsum(probs, axis=-1) - probs
        # The token that crosses top_p belongs to the nucleus, which ends where the sums first reach
        # top_p: rounded, they may decrease after.
        inside = jax.lax.cummax(before, axis=before.ndim - 1) < top_p
        smallest = jnp.min(jnp.where(inside, descending, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    return logits


# Number of vocabulary blocks for the two-level CDF. A power of 2: no block straddles two devices
# where the head is sharded over the vocabulary.
BLOCKS = 256


def draw(key: jax.Array, logits: jax.Array, rows: tuple[int, int] | None = None) -> jax.Array:
    """Draws from softmax(logits), with the numbers of `draw_uniforms`.

    Args:
      key: PRNG key.
      logits: [..., vocab].
      rows: see `draw_uniforms`.

    Returns:
      Indices, int32 [...].
    """
    return invert_cdf(draw_uniforms(key, logits.shape[:-1], rows), logits)


def draw_uniforms(key: jax.Array, shape, rows: tuple[int, int] | None = None) -> jax.Array:
    """Draws numbers in [0, 1).

    Args:
      key: PRNG key.
      shape: of the result.
      rows: (first, total) if these are rows of a batch of `total`, whose numbers they get.
    """
    if rows is None:
        return jax.random.uniform(key, shape)
    first, total = rows
    return jax.random.uniform(key, (total, *shape[1:]))[first : first + shape[0]]


def invert_cdf(uniform: jax.Array, logits: jax.Array) -> jax.Array:
    """Draws from softmax(logits) by inverse-CDF sampling with one uniform per draw.

    The Gumbel trick would need a random number for every logit. The CDF has two levels: over blocks
    of the vocabulary, then within the drawn block. It is float32, so probabilities below 2^-24 are
    not resolved. A token of logit -inf is never drawn, however the sums are rounded.

    Args:
      uniform: in [0, 1), [...].
      logits: [..., vocab].

    Returns:
      Indices, int32 [...].
    """
    vocabulary = logits.shape[-1]
    blocks = math.gcd(vocabulary, BLOCKS)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    weights = weights.reshape(*weights.shape[:-1], blocks, -1)
    sums = jnp.sum(weights, axis=-1)
    target = uniform * jnp.sum(sums, axis=-1)
    block, rest = _first_beyond(sums, target)
    within = jnp.take_along_axis(weights, block[..., None, None], axis=-2)[..., 0, :]
    return block * (vocabulary // blocks) + _first_beyond(within, rest)[0]


def _first_beyond(weights, target):
    """The first index whose cumulative sum exceeds `target`, and `target` minus the sum before.

    Only indices of positive weight count: a parallel sum is rounded in another order at each index,
    so it may rise or fall where the weight is 0.
    """
    cumulative = jnp.cumsum(weights, axis=-1)
    # Rounding can lift the target to the total, which no cumulative weight exceeds.
    target = jnp.minimum(target, jnp.nextafter(cumulative[..., -1], 0.0))
    passed = cumulative <= target[..., None]
    places = jnp.arange(weights.shape[-1], dtype=jnp.int32)
    positive = weights > 0
    first = jnp.min(jnp.where(positive & ~passed, places, places.size), axis=-1)
    last = jnp.max(jnp.where(positive, places, 0), axis=-1)
    index = jnp.minimum(first, last)
    return index, target - jnp.max(jnp.where(passed, cumulative, 0.0), axis=-1)


def sample(
    model: ModelConfig,
    params,
    tokens: jax.Array,
    length: jax.Array,
    key: jax.Array,
    *,
    group_size: int,
    max_tokens: int,
    eos_id: int | Sequence[int],
    pad_id: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    vocab_size: int | None = None,
    rows: tuple[int, int] | None = None,
    limits: jax.Array | None = None,
    slots: int = 0,
    loops: int = 1,
) -> Rollouts:
    """Samples `group_size` completions of each prompt.

    A prompt is computed once and its cache shared by the group. The loop ends as soon as all
    completions have ended. With `slots` or `loops` the tokens are the same, computed in the order
    of experiments.slots; where prompts are split over devices, each device keeps its own.

    Args:
      model: static model config.
      params: parameters of the policy.
      tokens: int32 [P, S] prompts, right-padded.
      length: int32 [P] real tokens of each prompt.
      key: PRNG key; token t is drawn with fold_in(key, t).
      group_size: G.
      max_tokens: T.
      eos_id: the token or tokens that end a completion.
      pad_id: the token written after the end.
      temperature: > 0; the policy is softmax(logits / temperature).
      top_p: see `truncate`.
      top_k: see `truncate`.
      vocab_size: see `truncate`.
      rows: (first, total) where these prompts are rows of a batch; see `draw_uniforms`.
      limits: int32 [P, G], from 1 to T: at most so many tokens of each completion; None for T.
      slots: completions that a device decodes at a time; 0 for all.
      loops: decoding loops of decreasing width, at most, for completions longer than the others.
    """
    emit_arguments: Any = {
        "keep": functools.partial(truncate, top_p=top_p, top_k=top_k, vocab_size=vocab_size),
        "temperature": temperature,
        "pad_id": pad_id,
    }
    shape = (tokens.shape[0], group_size, max_tokens)

    def uniforms(t):
        return draw_uniforms(jax.random.fold_in(key, t), shape[:2], rows)

    def policy(params):
        emit = functools.partial(_emit, transformer.unembedding(model, params), **emit_arguments)
        empty = functools.partial(_empty, pad_id)
        return slot_loops.Policy(
            model, params, emit, empty, functools.partial(is_end, eos_id=eos_id)
        )

    axes = slot_loops.prompt_axes()
    shards = math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in axes)
    completions = shape[0] // shards * group_size
    plan = slot_plan.make_plan(completions, max_tokens, slots=slots, loops=loops)
    if plan is None or shape[0] % shards:
        return slot_loops.sample_plainly(policy(params), tokens, length, uniforms, limits, shape)
    if limits is None:
        limits = jnp.full(shape[:2], max_tokens, jnp.int32)
    numbers = jnp.moveaxis(jax.lax.map(uniforms, jnp.arange(max_tokens)), 0, -1)

    def sample_rows(params, tokens, length, numbers, limits):
        return slot_loops.sample(policy(params), tokens, length, numbers, limits, plan)

    run = slot_loops.on_each_shard(sample_rows, axes) if axes else sample_rows
    return run(params, tokens, length, numbers, limits)


def _empty(pad_id, shape) -> Rollouts:
    padding = (jnp.zeros(shape, jnp.float32) for _ in range(3))
    return Rollouts(jnp.full(shape, pad_id, jnp.int32), *padding)


def _emit(head, hidden, uniform, alive, *, keep, temperature, pad_id) -> Rollouts:
    """Draws a token of each completion from hidden [P, G, D], or [P, 1, D] for the whole group."""
    logits = linear_small_batch(hidden.astype(jnp.float32), head) / temperature
    shape = (*uniform.shape, logits.shape[-1])
    drawn = invert_cdf(uniform, jnp.broadcast_to(keep(logits), shape))
    log_probs = jax.nn.log_softmax(logits)
    log_probs = jnp.take_along_axis(jnp.broadcast_to(log_probs, shape), drawn[..., None], axis=-1)
    entropy = jnp.broadcast_to(token_entropy(logits), drawn.shape)
    return Rollouts(
        jnp.where(alive, drawn, pad_id),
        alive.astype(jnp.float32),
        jnp.where(alive, log_probs[..., 0], 0.0),
        jnp.where(alive, entropy, 0.0),
    )


def completion_log_probs(
    model: ModelConfig,
    params,
    tokens: jax.Array,
    length: jax.Array,
    completions: jax.Array,
    *,
    temperature: float = 1.0,
    vocabulary_shards: int = 1,
) -> jax.Array:
    """Returns the first part of `log_probs_and_entropies`, with the same arguments."""
    return log_probs_and_entropies(
        model,
        params,
        tokens,
        length,
        completions,
        temperature=temperature,
        vocabulary_shards=vocabulary_shards,
    )[0]


def log_probs_and_entropies(
    model: ModelConfig,
    params,
    tokens: jax.Array,
    length: jax.Array,
    completions: jax.Array,
    *,
    temperature: float = 1.0,
    vocabulary_shards: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Computes the log-probabilities of the completions' tokens, and the policy's entropies there.

    Both are differentiable in `params`. The logits [tokens, vocabulary] are never held, neither
    here nor in the backward pass.

    Args:
      model: static model config.
      params: parameters of the policy.
      tokens: int32 [P, S] prompts, right-padded.
      length: int32 [P] real tokens of each prompt.
      completions: int32 [P, G, T].
      temperature: of the policy.
      vocabulary_shards: devices that the head is split over.

    Returns:
      Two of float32 [P, G, T], nats.
    """
    hidden = completion_hidden(model, params, tokens, length, completions)
    head = transformer.unembedding(model, params)
    return log_prob_and_entropy(
        hidden, head, completions, temperature=temperature, shards=vocabulary_shards
    )


def completion_hidden(model: ModelConfig, params, tokens, length, completions) -> jax.Array:
    """Returns the hidden states [P, G, T, D] that predict the tokens of completions [P, G, T]."""
    prompts, group, count = completions.shape

    def repeat(last):
        return jnp.broadcast_to(last[:, None, None], (prompts, group, 1, last.shape[-1]))

    if count == 1:
        return repeat(transformer.prefill(model, params, tokens, length)[1])
    last, rest = transformer.forward(model, params, tokens, length, completions[..., :-1])
    return jnp.concatenate([repeat(last), rest], axis=2)
