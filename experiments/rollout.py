"""Sampling from the policy with a key-value cache, and log-probabilities for the update.

Below: models. Above: learner.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.models import decode, transformer
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
    """Draws from softmax(logits) by inverse-CDF sampling with one uniform per draw.

    The Gumbel trick would need a random number for every logit. The CDF has two levels: over blocks
    of the vocabulary, then within the drawn block. It is float32, so probabilities below 2^-24 are
    not resolved. A token of logit -inf is never drawn, however the sums are rounded.

    Args:
      key: PRNG key.
      logits: [..., vocab].
      rows: (first, total) if these are rows of a batch of `total`, whose draws they get.

    Returns:
      Indices, int32 [...].
    """
    vocabulary = logits.shape[-1]
    blocks = math.gcd(vocabulary, BLOCKS)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    weights = weights.reshape(*weights.shape[:-1], blocks, -1)
    sums = jnp.sum(weights, axis=-1)
    shape = sums.shape[:-1]
    if rows is None:
        uniform = jax.random.uniform(key, shape)
    else:
        first, total = rows
        uniform = jax.random.uniform(key, (total, *shape[1:]))[first : first + shape[0]]
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
) -> Rollouts:
    """Samples `group_size` completions of each prompt.

    A prompt is computed once and its cache shared by the group. The loop ends as soon as all
    completions have ended.

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
      rows: (first, total) where these prompts are rows of a batch; see `draw`.
    """
    keep = functools.partial(truncate, top_p=top_p, top_k=top_k, vocab_size=vocab_size)
    prompts = tokens.shape[0]
    head = transformer.unembedding(model, params)
    prompt_cache, last = transformer.prefill(model, params, tokens, length)
    context = decode.make_decode_context(model, params, prompt_cache, max_tokens)

    def emit(t, hidden, rollouts, alive):
        """Draws token t from hidden [P, G, D], or from [P, 1, D] that the group shares."""
        logits = linear_small_batch(hidden.astype(jnp.float32), head) / temperature
        shape = (prompts, group_size, logits.shape[-1])
        drawn = draw(jax.random.fold_in(key, t), jnp.broadcast_to(keep(logits), shape), rows)
        log_probs = jax.nn.log_softmax(logits)
        log_probs = jnp.take_along_axis(
            jnp.broadcast_to(log_probs, shape), drawn[..., None], axis=-1
        )[..., 0]
        entropy = jnp.broadcast_to(token_entropy(logits), drawn.shape)
        columns = Rollouts(
            jnp.where(alive, drawn, pad_id),
            alive.astype(jnp.float32),
            jnp.where(alive, log_probs, 0.0),
            jnp.where(alive, entropy, 0.0),
        )
        rollouts = jax.tree.map(
            lambda all_, now: jax.lax.dynamic_update_index_in_dim(all_, now, t, axis=-1),
            rollouts,
            columns,
        )
        return rollouts, alive & ~is_end(drawn, eos_id), columns.tokens

    def step(carry):
        t, drawn, cache, rollouts, alive = carry
        hidden, cache = decode.decode(model, context, cache, drawn, t - 1)
        rollouts, alive, drawn = emit(t, hidden, rollouts, alive)
        return t + 1, drawn, cache, rollouts, alive

    shape = (prompts, group_size, max_tokens)
    empty = Rollouts(
        jnp.full(shape, pad_id, jnp.int32), *(jnp.zeros(shape, jnp.float32) for _ in range(3))
    )
    alive = jnp.ones(shape[:2], bool)
    rollouts, alive, drawn = emit(0, last[:, None], empty, alive)
    cache = decode.empty_cache(model, prompts, group_size, max_tokens)
    carry = (jnp.int32(1), drawn, cache, rollouts, alive)
    carry = jax.lax.while_loop(lambda c: (c[0] < max_tokens) & jnp.any(c[4]), step, carry)
    return carry[3]


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
