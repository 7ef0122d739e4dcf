"""A decoder-only transformer whose prompt is computed once and shared by a group of completions.

Axes: P prompts, G completions of each, S prompt positions (right-padded), T completion positions,
L layers, D width, V vocabulary, Hkv heads of keys and values, R query heads to each of them, Dh
width of a head. Completion token t of a prompt of `length` real tokens sits at position length + t.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments import sharding
from experiments.models.config import ModelConfig
from experiments.models.layers import NAME, Block, as_source, attention, rms_norm, rotation


class Prefix(NamedTuple):
    """Keys and values of the prompts, one copy per prompt whatever the size of the group."""

    keys: jax.Array  # [L, P, Hkv, Dh, S]
    values: jax.Array  # [L, P, Hkv, S, Dh]
    length: jax.Array  # i32 [P], real tokens


class _Parameters(nn.Module):
    """Embedding, L layers whose parameters are stacked [L, ...], and the final norm."""

    config: ModelConfig

    @nn.compact
    def __call__(self):
        c = self.config
        table = (c.vocab_size, c.d_model)
        initializer = nn.initializers.normal(c.d_model**-0.5)
        self.param("embedding", initializer, table, jnp.float32)
        if not c.tied_head:
            self.param("head", initializer, table, jnp.float32)
        layers = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.num_layers,
        )(c, name="layers")
        angles = rotation(c, jnp.zeros((1, 1, 1), jnp.int32))
        # Attention has no parameters of its own.
        layers(jnp.zeros((1, 1, 1, c.d_model), c.dtype), angles, lambda query, *_: (query, None))
        self.param("final_norm", nn.initializers.ones, (c.d_model,), jnp.float32)


def embed(config, params, tokens):
    """The embedding's rows [P, G, Q, D] of tokens [P, G, Q], in config.dtype."""
    rows = jnp.asarray(params["embedding"])[tokens].astype(config.dtype)
    return sharding.by_prompt(rows, None, None, None)


def final_norm(config, params, x):
    """The norm after the last layer, of x [P, G, Q, D]."""
    return sharding.by_prompt(rms_norm(x, params["final_norm"], config.norm_eps), None, None, None)


@functools.partial(jax.jit, static_argnums=0)
def init_params(config, key):
    """Fresh float32 parameters: normal with variance 1/fan-in, norms 1, biases 0.

    Args:
      config: a ModelConfig.
      key: a PRNG key.

    Returns:
      A nested dict of arrays; those of the layers are stacked [L, ...].
    """
    return _Parameters(config).init(key)["params"]


# What the backward pass of a rematerialised layer finds kept, by ModelConfig.remat_keeps.
_KEPT = {
    "nothing": None,
    "products": jax.checkpoint_policies.save_only_these_names(NAME),
}


def _hidden(config, params, tokens, positions, attend):
    """All layers, one after another, and the final norm.

    Args:
      config: a ModelConfig.
      params: as from init_params.
      tokens: i32 [P, G, Q].
      positions: i32, broadcast against tokens.
      attend: as in Block.

    Returns:
      hidden [P, G, Q, D], and what `attend` lets out, stacked [L, ...].
    """
    angles = rotation(config, positions)
    block = Block(config)

    def layer(x, weights):
        return block.apply({"params": weights}, x, angles, attend)

    if config.remat:
        layer = jax.checkpoint(layer, prevent_cse=False, policy=_KEPT[config.remat_keeps])
    x, out = jax.lax.scan(layer, embed(config, params, tokens), params["layers"])
    return final_norm(config, params, x), out


def prefill(config, params, tokens, length):
    """One causal pass over the prompts, once each.

    Padding sits after the real tokens, so that causality alone hides it from them.

    Args:
      config: a ModelConfig.
      params: as from init_params.
      tokens: i32 [P, S], right-padded.
      length: i32 [P], real tokens, from 1 to S.

    Returns:
      The Prefix, and the hidden state [P, D] at each prompt's last real token.

    Raises:
      ValueError: S exceeds config.max_positions.
    """
    check_positions(config, tokens.shape[1])
    steps = jnp.arange(tokens.shape[1])
    mask = _causal(steps)

    def attend(query, key, value):
        own = as_source(key, value)
        return attention(query, [(*own, mask)]), tuple(kv[:, 0] for kv in own)

    hidden, kept = _hidden(config, params, tokens[:, None], steps[None, None], attend)
    return Prefix(*kept, length), _at_last(hidden, length)


def forward(config, params, tokens, length, completions):
    """One causal pass over the prompts, once each, and G completions of each; differentiable.

    A prompt and its completions go through the layers as one row of tokens, so that each weight has
    one product with all of them and one gradient; only attention tells them apart.

    Args:
      config: a ModelConfig.
      params: as from init_params.
      tokens: i32 [P, S], right-padded prompts.
      length: i32 [P], real tokens of the prompts, from 1 to S.
      completions: i32 [P, G, T]; what follows an end-of-sequence token changes nothing before it.

    Returns:
      The hidden state [P, D] at each prompt's last real token, and [P, G, T, D] at each completion
      token; each predicts the next token.

    Raises:
      ValueError: S + T exceeds config.max_positions.
    """
    check_positions(config, tokens.shape[1] + completions.shape[2])
    (prompts, start), (group, count) = tokens.shape, completions.shape[1:]
    of_prompt, of_completion = jnp.arange(start), jnp.arange(count)
    causal, seen = _causal(of_prompt), (real(length, start), _causal(of_completion))

    def joined(prompt, completion):
        """[P, S, ...] and [P, G, T, ...] to [P, 1, S + G T, ...]."""
        completion = completion.reshape(prompts, group * count, *completion.shape[3:])
        return jnp.concatenate([prompt, completion], axis=1)[:, None]

    def parts(x):
        """`joined`'s inverse, but the prompts have an axis for their group, of 1."""
        completion = x[:, 0, start:].reshape(prompts, group, count, *x.shape[3:])
        return x[:, :, :start], completion

    def attend(*projected):
        (query, *prompt), (queries, *completion) = zip(*map(parts, projected))
        prompt, completion = as_source(*prompt), as_source(*completion)
        shared = tuple(kv[:, 0] for kv in prompt)
        found = attention(query, [(*prompt, causal)])
        of_group = attention(queries, [(*kv, mask) for kv, mask in zip((shared, completion), seen)])
        return joined(found[:, 0], of_group), None

    positions = joined(
        jnp.broadcast_to(of_prompt, tokens.shape),
        jnp.broadcast_to(length[:, None, None] + of_completion, completions.shape),
    )
    hidden, _ = _hidden(config, params, joined(tokens, completions), positions, attend)
    prompt, completion = parts(hidden)
    return _at_last(prompt, length), completion


def _at_last(hidden, length):
    """[P, D] at the last real tokens, of [P, 1, S, D]."""
    return jnp.take_along_axis(hidden[:, 0], (length - 1)[:, None, None], axis=1)[:, 0]


def unembedding(config, params):
    """The output head's rows [V, D]: logits = hidden @ unembedding.T."""
    return params["embedding" if config.tied_head else "head"]


def sampling_copy(config, params):
    """The parameters in the type that they are computed in, for many passes without an update.

    What comes out of a pass is the same: norms and the output head stay float32, and every other
    parameter is cast where it is used.

    Args:
      config: a ModelConfig.
      params: as from init_params.
    """
    kept = "embedding" if config.tied_head else "head"

    def cast(path, leaf):
        name = path[-1].key
        return leaf if name == kept or name.endswith("norm") else leaf.astype(config.dtype)

    return jax.tree.map_with_path(cast, params)


def _causal(steps):
    return (steps[:, None] >= steps)[:, None]


def real(length, positions):
    """Which of the prompts' `positions` tokens are real, a mask [P, 1, 1, 1, 1, S]."""
    return (jnp.arange(positions) < length[:, None])[:, None, None, None, None]


def check_positions(config, positions):
    """Raises a ValueError if a sequence of so many tokens exceeds config.max_positions."""
    if positions > config.max_positions:
        raise ValueError(
            f"prompt and completion must fit in max_positions = {config.max_positions} tokens; "
            f"got room for {positions}"
        )


_LAYER_AXES = {
    "attention_norm": ("embed",),
    "query": ("embed", "heads"),
    "query_bias": ("heads",),
    "query_norm": ("head_dim",),
    "key": ("embed", "kv_heads"),
    "key_bias": ("kv_heads",),
    "key_norm": ("head_dim",),
    "value": ("embed", "kv_heads"),
    "value_bias": ("kv_heads",),
    "output": ("heads", "embed"),
    "mlp_norm": ("embed",),
    "gate": ("embed", "mlp"),
    "up": ("embed", "mlp"),
    "down": ("mlp", "embed"),
}
_AXES = {
    "embedding": ("vocab", "embed"),
    "head": ("vocab", "embed"),
    "final_norm": ("embed",),
    "layers": {name: ("layers", *axes) for name, axes in _LAYER_AXES.items()},
}


def parameter_axes(params):
    """The logical axes of every parameter, for sharding rules to map to a mesh.

    Args:
      params: as from init_params.

    Returns:
      The same nested dict with a tuple of axis names in each array's place: "vocab", "embed",
      "layers", "heads", "kv_heads", "head_dim" or "mlp".
    """
    return _matching_axes(params, _AXES)


def _matching_axes(params, axes):
    if isinstance(params, dict):
        return {name: _matching_axes(value, axes[name]) for name, value in params.items()}
    return axes
