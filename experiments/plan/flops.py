"""Floating-point operations of the matrix products of one device, by formula.

For a token, with L layers, D width, H query heads and Hkv heads of keys of width d, F the SwiGLU's
width, V the vocabulary, and K keys that its scores are computed for:

    projections  2 L (2 D H d + 2 D Hkv d + 3 D F)
    attention    4 L H d K
    head         2 D V

K counts masked keys too: the scores of the whole square are computed. Everything elementwise
is left out. The tensor axis shares all of it.
"""

from typing import NamedTuple

from experiments.models.config import ModelConfig
from experiments.models.layers import query_blocks
from experiments.plan.work import Work


class Flops(NamedTuple):
    """FLOP on one device in one step."""

    projections: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        """Of all three."""
        return sum(self)


def layer_products(model: ModelConfig) -> float:
    """FLOP of one token in the projections and the SwiGLU of one layer."""
    width = (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    return 2 * model.d_model * (width + 3 * model.d_ff)


def _scores(model: ModelConfig, queries: float, keys: float) -> float:
    return 4 * model.num_layers * model.num_heads * model.head_dim * queries * keys


class Passes(NamedTuple):
    """FLOP of attention over the prompts and over the completions, which see their prompts too."""

    prompts: float
    completions: float


def _learned_tokens(work: Work) -> int:
    return work.completion - 1  # the last token predicts nothing


def attention(work: Work) -> Passes:
    """Attention of one forward pass, as `learn` makes it."""
    extended = _learned_tokens(work)
    queries = work.prompts * work.prompt, work.prompts * work.group * extended
    return Passes(
        _scores(work.model, queries[0], work.prompt) / work.tensor,
        _scores(work.model, queries[1], work.prompt + extended) / work.tensor,
    )


def forward(work: Work) -> Flops:
    """One pass over prompts and completions with the log-probabilities, as `learn` makes it."""
    model, sequences = work.model, work.prompts * work.group
    tokens = work.prompts * work.prompt + sequences * _learned_tokens(work)
    return Flops(
        model.num_layers * layer_products(model) * tokens / work.tensor,
        sum(attention(work)),
        2 * model.d_model * model.vocab_size * sequences * work.completion / work.tensor,
    )


def learn_flops(work: Work) -> Flops:
    """The train step: forward, twice that backward, and what the backward pass computes anew.

    With remat attention, and all products of a layer but its last, `down`, if they are not kept;
    attention once more inside blocks of queries; the head's logits.
    """
    model, once = work.model, forward(work)
    down = 2 * model.d_model * model.d_ff / layer_products(model)
    anew = 1 - down if model.remat and model.remat_keeps == "nothing" else 0
    lengths = Passes(work.prompt, _learned_tokens(work))
    passes = [3 + model.remat + (query_blocks(length) > 1) for length in lengths]
    return Flops(
        once.projections * (3 + anew) * work.epochs,
        sum(flops * count for flops, count in zip(attention(work), passes)) * work.epochs,
        once.head * 4 * work.epochs,
    )


def sample_flops(work: Work) -> Flops:
    """The rollout step: prompts once, then every token over the whole of its cache."""
    model, sequences = work.model, work.prompts * work.group
    steps = work.completion - 1
    tokens = work.prompts * work.prompt + sequences * steps
    attention = _scores(model, work.prompts * work.prompt, work.prompt)
    attention += _scores(model, sequences * steps, work.prompt + work.completion + 1)
    return Flops(
        model.num_layers * layer_products(model) * tokens / work.tensor,
        attention / work.tensor,
        2 * model.d_model * model.vocab_size * (work.prompts + sequences * steps) / work.tensor,
    )
