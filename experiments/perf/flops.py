"""FLOP and memory of one device in one training step, by formula.

For a token, with L layers, D width, H query heads and Hkv key heads of width d, F the SwiGLU's
width, V the vocabulary, and K keys whose scores are computed:

    projections  2 L (2 D H d + 2 D Hkv d + 3 D F)
    attention    4 L H d K
    head         2 D V

With plain attention K counts masked keys too: the scores of the whole square are computed. The
others leave the blocks out that causality hides. Elementwise operations are left out. The tensor
axis of the mesh splits all three.

The size of the train state is exact, from its shardings. Activations and caches are estimated: the
compiler for CPU fuses, widens and schedules otherwise than that of a GPU or a TPU.
"""

import math
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from experiments.experiment import Experiment
from experiments.learner import TrainState
from experiments.models.attention import KEY_BLOCK, QUERY_BLOCK, implementation
from experiments.models.config import ModelConfig
from experiments.models.layers import QUERIES, query_blocks
from experiments.policy import trained_shapes

_FLOAT32 = 4
_HEAD_CHUNK = 1024  # rows of the vocabulary at a time, of fade_jax.entropies


class Work(NamedTuple):
    """The work of one device in one step.

    Attributes:
      model: sizes of the model.
      prompts: P of this device; the tensor axis shares them.
      group: G.
      prompt: S, tokens.
      completion: T, tokens; every completion is counted at full length.
      tensor: devices that split heads, SwiGLU and vocabulary.
      updates: optimizer updates.
      microbatches: parts of an update.
      epochs: passes over the prompts.
      item: bytes of an activation.
      adapter: numbers in the adapters of one layer, of LoRA; 0 where all parameters are trained.
      backend: of JAX on this device, which decides how attention is computed.
    """

    model: ModelConfig
    prompts: int
    group: int
    prompt: int
    completion: int
    tensor: int
    updates: int
    microbatches: int
    epochs: int
    item: int
    adapter: int = 0
    backend: str = "gpu"


def work_of(experiment: Experiment, mesh: Mesh | None = None) -> Work:
    """Returns the work of one device of a run, or of one of its sampling devices, of `mesh`."""
    config, mesh = experiment.config, mesh or experiment.mesh
    return Work(
        experiment.model,
        prompts=config.prompts // (mesh.shape["data"] * mesh.shape["fsdp"]),
        group=config.group_size,
        prompt=experiment.task.max_prompt,
        completion=experiment.task.max_completion,
        tensor=mesh.shape["tensor"],
        updates=config.learner.epochs * config.learner.minibatches,
        microbatches=config.learner.microbatches,
        epochs=config.learner.epochs,
        item=2 if experiment.model.dtype == "bfloat16" else 4,
        adapter=_adapter_size(experiment),
    )


def _adapter_size(experiment: Experiment) -> int:
    if not experiment.config.lora.rank:
        return 0
    shapes = trained_shapes(experiment.config, experiment.model)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes)) // experiment.model.num_layers


class Flops(NamedTuple):
    """FLOP on one device in one step."""

    projections: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        """The sum of all three."""
        return sum(self)


def layer_products(model: ModelConfig) -> float:
    """FLOP of one token in the projections and the SwiGLU of one layer."""
    width = (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    return 2 * model.d_model * (width + 3 * model.d_ff)


def _scores(model: ModelConfig, queries: float, keys: float) -> float:
    return 4 * model.num_layers * model.num_heads * model.head_dim * queries * keys


class Attention(NamedTuple):
    """Attention of one device in one forward pass of `learn`, over prompts or over completions.

    Attributes:
      name: of the implementation.
      scores: computed, of all layers and heads.
      passes: over the scores in the train step, a forward one counted as 1.
    """

    name: str
    scores: float
    passes: float


_TILE = 128  # queries of a block of a fused kernel, of which a half is computed in vain


def attention(work: Work) -> tuple[Attention, Attention]:
    """Returns the attention over the prompts and that over the completions.

    Without blocks, the backward pass is twice the forward one, and attention is computed once more
    where queries are cut. With blocks, the scores are a fifth product of the backward pass beside
    its four. With remat the forward pass comes twice. Before cuDNN, each completion has its prompt
    in its row.
    """
    model, inputs = work.model, work.completion - 1  # the last token predicts nothing
    heads = model.num_layers * model.num_heads / work.tensor

    def part(sequences, before, queries) -> Attention:
        name = implementation(model, before + queries, work.backend)
        scores = queries * before + queries * queries
        passes = 3 + model.remat + (query_blocks(queries) > 1)
        if name != "plain":
            row = before + queries if name == "cudnn" else queries
            tile = KEY_BLOCK if name == "blocks" else _TILE
            scores = (before + queries - row) * queries + row * min(row, (row + tile) / 2)
            passes = 3.5 + model.remat
        return Attention(name, sequences * scores * heads, passes)

    return (
        part(work.prompts, 0, work.prompt),
        part(work.prompts * work.group, work.prompt, inputs),
    )


def forward(work: Work) -> Flops:
    """FLOP of one forward pass of `learn` over prompts and completions, log-probs included."""
    model, sequences = work.model, work.prompts * work.group
    tokens = work.prompts * work.prompt + sequences * (work.completion - 1)
    return Flops(
        model.num_layers * layer_products(model) * tokens / work.tensor,
        sum(4 * model.head_dim * part.scores for part in attention(work)),
        2 * model.d_model * model.vocab_size * sequences * work.completion / work.tensor,
    )


def learn_flops(work: Work) -> Flops:
    """FLOP of the train step: forward, backward (twice that) and rematerialization.

    With remat the backward pass computes the products of a layer but its last, `down`, again,
    unless they are kept; and the logits. The passes over the scores are those of `attention`. With
    LoRA weights have no gradients, and the backward pass is once the forward one. The products of
    the adapters come on top, as if the tensor axis split them.
    """
    model, once = work.model, forward(work)
    backward = 1 if work.adapter else 2
    down = 2 * model.d_model * model.d_ff / layer_products(model)
    again = 1 - down if model.remat and model.remat_keeps == "nothing" else 0
    scores = sum(part.scores * part.passes for part in attention(work))
    adapters = once.projections * 2 * work.adapter / layer_products(model)
    projections = once.projections * (1 + again + backward) + adapters * (3 + again)
    return Flops(
        projections * work.epochs,
        4 * model.head_dim * scores * work.epochs,
        once.head * (2 + backward) * work.epochs,
    )


def sample_flops(work: Work) -> Flops:
    """FLOP of the rollout step: prompts once, then each token over the whole of its cache."""
    model, sequences = work.model, work.prompts * work.group
    steps = work.completion - 1
    tokens = work.prompts * work.prompt + sequences * steps
    scores = 4 * model.head_dim * work.tensor * attention(work)[0].scores
    scores += _scores(model, sequences * steps, work.prompt + work.completion + 1)
    return Flops(
        model.num_layers * layer_products(model) * tokens / work.tensor,
        scores / work.tensor,
        2 * model.d_model * model.vocab_size * (work.prompts + sequences * steps) / work.tensor,
    )


def shard_bytes(tree) -> int:
    """Returns the bytes on one device of arrays that have shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def state_bytes(state: TrainState) -> dict[str, int]:
    """Bytes of the train state on one device, without PRNG keys.

    "rest" is the head before RL, past parameters, the reference and the small states.
    """
    rest = state._replace(key=(), params=(), base=(), opt_state=())
    weights = state.params, state.base
    parts = {"weights": weights, "optimizer": state.opt_state, "rest": rest}
    return {name: shard_bytes(tree) for name, tree in parts.items()}


def learn_bytes(work: Work, state: TrainState) -> dict[str, float]:
    """Bytes that the train step needs beside the state, for its largest microbatch.

    gradients  2 x the shards of what is trained: the sum and the addend
    residuals  L x tokens x D, the inputs that remat keeps; with products kept also q, k, v, the
               output of attention and 2 arrays of width F
    layer      the current layer: 6 arrays of width D, of which 2 in float32, and twice (with their
               gradients) q, k, v and 3 arrays of width F; the gathered weights of two layers
    attention  4 arrays of float32 scores of a block of queries; with another implementation than
               plain also, or with a kernel only, twice its inputs and output (float32 in blocks)
    head       4 chunks of logits, the hidden states and their float32 gradient
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
    chunk = min(_HEAD_CHUNK, model.vocab_size / work.tensor)
    return {
        "gradients": (1 + (work.microbatches > 1)) * shard_bytes(state.params),
        "residuals": kept * tokens * work.item,
        "layer": layers * inner + 2 * _layer_bytes(work),
        "attention": layers * _attention_bytes(work, prompts * work.group),
        "head": completions * (4 * chunk * _FLOAT32 + model.d_model * (work.item + _FLOAT32)),
    }


def _attention_bytes(work: Work, sequences: float) -> float:
    """Bytes that attention over so many completions needs in the layer at hand."""
    model, queries, keys = work.model, work.completion - 1, work.prompt + work.completion
    name = attention(work)[1].name
    heads = (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim / work.tensor
    arrays = 0 if name == "plain" else 2 * sequences * keys * heads
    if name == "plain" and query_blocks(queries) > 1:
        queries = min(queries, QUERIES)
    if name == "blocks":
        queries, keys = min(queries, QUERY_BLOCK), min(keys, KEY_BLOCK)
    scores = sequences * queries * keys * model.num_heads / work.tensor
    if name not in ("plain", "blocks"):
        return arrays * work.item
    return 4 * scores * _FLOAT32 + arrays * _FLOAT32


def sample_bytes(work: Work) -> dict[str, float]:
    """Bytes that the rollout step needs beside the state.

    copy    parameters in the compute dtype, the head in float32, split over the tensor axis only
    apart   the layers again, unstacked for decoding; the prompts need them stacked
    cache   2 L Hkv d for each token of every prompt and completion
    logits  4 float32 arrays [P, G, V]
    """
    logits = work.prompts * work.group * work.model.vocab_size / work.tensor
    return {
        "copy": copy_bytes(work),
        "apart": work.model.num_layers * _layer_bytes(work),
        "cache": cache_bytes(work),
        "logits": 4 * _FLOAT32 * logits,
    }


def copy_bytes(work: Work) -> float:
    """Bytes of the parameters that decoding reads for each token."""
    model = work.model
    head = model.vocab_size * model.d_model / work.tensor
    embedding = 0 if model.tied_head else head * work.item
    return model.num_layers * _layer_bytes(work) + head * _FLOAT32 + embedding


def cache_bytes(work: Work) -> float:
    """Bytes of cached keys and values; the tensor axis splits the heads."""
    model = work.model
    tokens = work.prompts * (work.prompt + work.group * work.completion)
    token = 2 * model.num_layers * model.num_kv_heads * model.head_dim * work.item
    return tokens * token / work.tensor


def _kept_width(work: Work) -> float:
    """Numbers of a token that remat keeps in each layer."""
    model = work.model
    if model.remat_keeps == "nothing":
        return model.d_model
    heads = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    return 2 * model.d_model + (heads + 2 * model.d_ff) / work.tensor


def _layer_bytes(work: Work) -> float:
    model = work.model
    width = (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim + 3 * model.d_ff
    return model.d_model * width * work.item / work.tensor


def handover_bytes(sent, trainers: int, mesh: Mesh | None) -> dict[str, float]:
    """Bytes of the weights' way to the sampling devices after one step, without a multicast.

    Args:
      sent: abstract parameters as the sampling devices get them, with their shardings.
      trainers: devices that train, which share the sending.
      mesh: of the sampling devices; None without any.
    """
    if mesh is None:
        return {"received": 0, "sent": 0}
    received = shard_bytes(sent)
    return {"received": received, "sent": received * mesh.size / trainers}
