"""Memory of one device: what lies there between steps, exactly; what a step needs, by formula.

Exact are the shards of the state, from its shardings. Modelled is the rest, because the CPU's
compiler fuses, widens and schedules otherwise than a GPU's or a TPU's.
"""

import math
from typing import NamedTuple

import jax

from experiments.learner import TrainState
from experiments.models.layers import QUERIES, query_blocks
from experiments.plan.work import Work

_FLOAT32 = 4
_HEAD_CHUNK = 1024  # rows of the vocabulary at a time, of fade_jax.entropies


class Resident(NamedTuple):
    """Bytes of the state on one device."""

    weights: int
    optimizer: int
    rest: int  # the head before RL, past parameters, the advantage's state


class Learning(NamedTuple):
    """Bytes that the train step needs beside the state."""

    gradients: float
    residuals: float
    layer: float
    attention: float
    head: float


class Sampling(NamedTuple):
    """Bytes that the rollout step needs beside the state."""

    copy: float
    apart: float
    cache: float
    logits: float


def shard_bytes(tree) -> int:
    """Bytes on one device of arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def resident(state: TrainState) -> Resident:
    """The state of a run on one device; keys of the PRNG are left out."""
    rest = state.step, state.advantage_state, state.initial_head, state.past_params
    return Resident(shard_bytes(state.params), shard_bytes(state.opt_state), shard_bytes(rest))


def learning(work: Work, state: TrainState) -> Learning:
    """The train step, for the largest of its microbatches.

    gradients  2 × the shards of the parameters: the sum, and the part that is added to it
    residuals  L × tokens × D, what remat keeps of each layer; with its products q, k, v, the output
               of attention and 2 arrays of width F too
    layer      of the layer at hand: 6 arrays of width D, of which 2 in float32, and twice (with
               their gradients) q, k, v and 3 arrays of width F; two layers of gathered weights
    attention  4 arrays of scores in float32 of a block of queries
    head       4 chunks of logits, hidden states and their gradient in float32
    """
    model, prompts = work.model, work.prompts * work.epochs / (work.updates * work.microbatches)
    completions = prompts * work.group * work.completion
    tokens = completions + prompts * work.prompt
    kept = model.num_layers * _kept_width(work) if model.remat else 0
    width = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim + 3 * model.d_ff
    inner = completions * (
        model.d_model * (4 * work.item + 2 * _FLOAT32) + 2 * width / work.tensor * work.item
    )
    layers = 1 if model.remat else model.num_layers
    queries = min(work.completion - 1, QUERIES)
    if query_blocks(work.completion - 1) == 1:
        queries = work.completion - 1
    scores = prompts * work.group * model.num_heads / work.tensor * queries
    scores *= work.prompt + work.completion
    chunk = min(_HEAD_CHUNK, model.vocab_size / work.tensor)
    return Learning(
        gradients=(1 + (work.microbatches > 1)) * shard_bytes(state.params),
        residuals=kept * tokens * work.item,
        layer=layers * inner + 2 * _layer_weights(work),
        attention=layers * 4 * scores * _FLOAT32,
        head=completions * (4 * chunk * _FLOAT32 + model.d_model * (work.item + _FLOAT32)),
    )


def sampling(work: Work) -> Sampling:
    """The rollout step.

    copy    the parameters in the type of the computation, the head in float32, whole but for the
            tensor axis
    apart   the layers once more, each by itself: the prompts want them stacked, every token apart
    cache   2 L Hkv d for each token of every prompt and completion
    logits  4 arrays [P, G, V] in float32
    """
    model = work.model
    return Sampling(
        copy=copy_bytes(work),
        apart=model.num_layers * _layer_weights(work),
        cache=cache_bytes(work),
        logits=4 * _FLOAT32 * work.prompts * work.group * model.vocab_size / work.tensor,
    )


def copy_bytes(work: Work) -> float:
    """Bytes of the parameters that the rollout step reads for each token."""
    model = work.model
    head = model.vocab_size * model.d_model / work.tensor
    embedding = 0 if model.tied_head else head * work.item
    return model.num_layers * _layer_weights(work) + head * _FLOAT32 + embedding


def cache_bytes(work: Work) -> float:
    """Bytes of keys and values; heads are split over the tensor axis."""
    model = work.model
    tokens = work.prompts * (work.prompt + work.group * work.completion)
    token = 2 * model.num_layers * model.num_kv_heads * model.head_dim * work.item
    return tokens * token / work.tensor


def _kept_width(work: Work) -> float:
    """Numbers that remat keeps of a token in each layer."""
    model = work.model
    if model.remat_keeps == "nothing":
        return model.d_model
    heads = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    return 2 * model.d_model + (heads + 2 * model.d_ff) / work.tensor


def _layer_weights(work: Work) -> float:
    model = work.model
    width = (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim + 3 * model.d_ff
    return model.d_model * width * work.item / work.tensor
