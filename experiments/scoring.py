"""Log-probabilities and entropies of a batch under a policy, padded or in packed rows.

config.learner.packed_tokens says which. Below: rollout, packing. Above: learner.
"""

from typing import Any

import jax
import jax.numpy as jnp

from experiments import packing
from experiments.config import Config
from experiments.gradients import Batch, split_rows
from experiments.models import transformer
from experiments.models.config import ModelConfig
from experiments.rollout import completion_log_probs, log_probs_and_entropies
from fade_jax.entropies import log_prob_and_entropy


def pack_batch(
    model: ModelConfig, settings: Config, batch: Batch, counts: jax.Array | None = None
) -> packing.Packed:
    """Packs a batch as config.learner.packed_tokens says; see `packing.pack`."""
    (prompts, prompt), (_, group, completion) = batch.prompts.shape, batch.completions.shape
    sizes = packing.packed_sizes(
        model,
        settings.learner.packed_tokens,
        prompts=prompts,
        prompt=prompt,
        group=group,
        completion=completion,
    )
    return packing.pack(sizes, batch, counts)


def part_log_probs(
    model: ModelConfig, settings: Config, params, part: Batch | packing.Chunk, completion: int
) -> tuple[Batch, tuple[jax.Array, jax.Array]]:
    """Computes log-probabilities and entropies of a microbatch, or of a chunk of packed rows.

    Both are differentiable in `params`.

    Args:
      model: static model config.
      settings: the run's config.
      params: parameters of the policy.
      part: of a batch.
      completion: T, tokens of the longest completion.

    Returns:
      The batch that a loss reads, and two of its shape, float32, nats.
    """
    if isinstance(part, packing.Chunk):
        found = chunk_log_probs(model, params, part, completion, **_head_arguments(settings))
        return part.batch, found
    inputs = part.prompts, part.length, part.completions
    return part, log_probs_and_entropies(model, params, *inputs, **_head_arguments(settings))


def log_probs_in_parts(model: ModelConfig, settings: Config, prompts, rollouts, params):
    """Computes log-probabilities of rollouts without a gradient, one part after another.

    Args:
      model: static model config.
      settings: the run's config.
      prompts: P prompts.
      rollouts: [P, G, T].
      params: parameters of the policy.

    Returns:
      float32 [P, G, T], nats. Those of packed rollouts are 0 from the end of each on.
    """
    head, (number, group, longest) = _head_arguments(settings), rollouts.tokens.shape
    inputs = prompts.tokens, prompts.length, rollouts.tokens
    if not settings.learner.packed_tokens:
        count = settings.learner.minibatches * settings.learner.microbatches
        parts = split_rows(inputs, count)
        found = jax.lax.map(lambda part: completion_log_probs(model, params, *part, **head), parts)
        return found.reshape(rollouts.tokens.shape)
    nothing: Any = ()
    read_by_loss = nothing, nothing, nothing
    packed = pack_batch(model, settings, Batch(*inputs, rollouts.token_mask, *read_by_loss))

    def add(index, out):
        chunk = packed.take(index)
        found, _ = chunk_log_probs(model, params, chunk, longest, **head)
        return out.at[chunk.rows.items].set(found, mode="drop")

    zeros = jnp.zeros((number * group, longest), jnp.float32)
    return jax.lax.fori_loop(0, packed.chunks, add, zeros).reshape(rollouts.tokens.shape)


def _head_arguments(settings: Config) -> dict[str, Any]:
    return {
        "temperature": settings.sampling.temperature,
        "vocabulary_shards": settings.mesh.tensor,
    }


def chunk_log_probs(
    model: ModelConfig,
    params,
    chunk: packing.Chunk,
    completion: int,
    *,
    temperature: float = 1.0,
    vocabulary_shards: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Computes what `rollout.log_probs_and_entropies` does, for the completions of packed rows.

    Args:
      model: static model config.
      params: parameters of the policy.
      chunk: R packed rows.
      completion: T, tokens of the longest completion.
      temperature: of the policy.
      vocabulary_shards: devices that the head is split over.

    Returns:
      Two of float32 [R, M, T], nats; 0 from each completion's end on.
    """
    rows, pick = chunk.rows, jax.vmap(lambda values, index: values[index])
    hidden = transformer.forward_packed(
        model, params, rows.tokens, rows.positions, rows.prompt, rows.completion
    )
    found = log_prob_and_entropy(
        pick(hidden, rows.source),
        transformer.unembedding(model, params),
        rows.target,
        temperature=temperature,
        shards=vocabulary_shards,
    )
    steps = jnp.arange(completion)
    index = jnp.minimum(rows.first[..., None] + steps, rows.source.shape[1] - 1)
    real = steps < chunk.lengths[..., None]
    log_probs, entropies = (jnp.where(real, pick(x, index), 0.0) for x in found)
    return log_probs, entropies
