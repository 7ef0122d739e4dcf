"""A decoder-only transformer that computes a prompt once for a whole group of completions.

Axes: P prompts, G completions of each, S prompt positions (right-padded), T completion positions,
L layers, D width, V vocabulary, Hkv heads of keys and values, R query heads to each of them, Dh
width of a head. Token t of a completion sits at position length + t, where `length` counts the real
tokens of its prompt.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.models import lora
from experiments.models.attention import Prompt, attend_causally
from experiments.models.config import ModelConfig
from experiments.models.layers import (
    MATMUL,
    Attend,
    Block,
    arrange_kv,
    attention,
    parameter,
    rms_norm,
    shard_prompts,
)
from experiments.models.rotary import rotation


class PromptCache(NamedTuple):
    """Keys and values of the prompts, held once per prompt for any size of the group."""

    keys: jax.Array  # [L, P, Hkv, Dh, S]
    values: jax.Array  # [L, P, Hkv, S, Dh]
    length: jax.Array  # i32 [P], real tokens


# What the backward pass keeps of a layer that it recomputes, by ModelConfig.remat_keeps.
_REMAT_POLICIES = {
    "nothing": None,
    "products": jax.checkpoint_policies.save_only_these_names(MATMUL),
}


class Transformer(nn.Module):
    """Embedding, L layers with parameters stacked [L, ...], and the final norm."""

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens: jax.Array, positions: jax.Array, attend: Attend):
        """Applies the model up to the output head.

        Args:
          tokens: i32 [P, G, Q].
          positions: i32, broadcast against tokens.
          attend: an Attend, the same for all layers.

        Returns:
          hidden [P, G, Q, D], and the second results of `attend`, stacked [L, ...].
        """
        c = self.config
        table = nn.initializers.normal(c.d_model**-0.5), (c.vocab_size, c.d_model)
        embedding = parameter(self, "embedding", *table, ("vocab", "embed"))
        if not c.tied_head:
            parameter(self, "head", *table, ("vocab", "embed"))
        block: Any = Block
        if c.remat:
            policy = _REMAT_POLICIES[c.remat_keeps]
            block = nn.remat(Block, prevent_cse=False, policy=policy, static_argnums=(3,))
        broadcast: Any = nn.broadcast
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=broadcast,
            length=c.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, name="layers")
        x, out = layers(embed(c, embedding, tokens), rotation(c, positions), attend)
        scale = parameter(self, "final_norm", nn.initializers.ones, (c.d_model,), ("embed",))
        return final_norm(c, scale, x), out


def embed(config, embedding, tokens):
    """Returns the rows [P, G, Q, D] of tokens [P, G, Q] in config.dtype."""
    return shard_prompts(jnp.asarray(embedding)[tokens].astype(config.dtype))


def final_norm(config, scale, x):
    """Returns the norm after the last layer, of x [P, G, Q, D]."""
    return shard_prompts(rms_norm(x, scale, config.norm_eps))


@functools.partial(jax.jit, static_argnums=0)
def init_params(config, key):
    """Draws float32 parameters: normal with variance 1/fan-in, norms 1, biases 0.

    Args:
      config: a ModelConfig.
      key: a PRNG key.

    Returns:
      A nested dict of arrays; those of the layers are stacked [L, ...].
    """
    return nn.unbox(_boxed_params(config, key))


def abstract_params(config):
    """Returns the tree of `init_params` with the shape and the logical axes of each parameter.

    Args:
      config: a ModelConfig.

    Returns:
      A nested dict of nn.LogicallyPartitioned that hold ShapeDtypeStructs. Axes are "vocab",
      "embed", "layers", "heads", "kv_heads", "head_dim" and "mlp".
    """
    return jax.eval_shape(functools.partial(_boxed_params, config), jax.random.key(0))


def _boxed_params(config, key):
    token = jnp.zeros((1, 1, 1), jnp.int32)
    return Transformer(config).init(key, token, token, _see_nothing)["params"]


def _see_nothing(query, key, value):
    """Stands in for attention, which has no parameters, in the initialization."""
    del key, value
    return query, None


def prefill(config, params, tokens, length):
    """Runs one causal pass over the prompts.

    Padding follows the real tokens, so causality hides it from them.

    Args:
      config: a ModelConfig.
      params: as from init_params.
      tokens: i32 [P, S], right-padded.
      length: i32 [P], real tokens, from 1 to S.

    Returns:
      The PromptCache, and the hidden state [P, D] at each prompt's last real token.

    Raises:
      ValueError: S exceeds config.max_positions.
    """
    check_positions(config, tokens.shape[1])
    positions = jnp.arange(tokens.shape[1])

    def attend(query, key, value):
        kv = arrange_kv(key, value)
        return attend_causally(config, query, key, value), tuple(x[:, 0] for x in kv)

    tokens, positions = tokens[:, None], positions[None, None]
    hidden, (keys, values) = _apply(config, params, tokens, positions, attend)
    return PromptCache(keys, values, length), _at_last(hidden, length)


def forward(config, params, tokens, length, completions):
    """Runs one differentiable causal pass over the prompts and G completions of each.

    A prompt and its completions go through the layers as one row of tokens, so that each weight has
    one matmul with all of them and one gradient; only attention tells them apart.

    Args:
      config: a ModelConfig.
      params: as from init_params.
      tokens: i32 [P, S], right-padded prompts.
      length: i32 [P], real tokens of the prompts, from 1 to S.
      completions: i32 [P, G, T]; tokens after the end of a completion change nothing before it.

    Returns:
      The hidden state [P, D] at each prompt's last real token, and [P, G, T, D] at each completion
      token; each predicts the next token.

    Raises:
      ValueError: S + T exceeds config.max_positions.
    """
    check_positions(config, tokens.shape[1] + completions.shape[2])
    (prompts, start), (group, count) = tokens.shape, completions.shape[1:]
    prompt_steps, completion_steps = jnp.arange(start), jnp.arange(count)

    def join(prompt, completion):
        """[P, S, ...] and [P, G, T, ...] to [P, 1, S + G T, ...]."""
        completion = completion.reshape(prompts, group * count, *completion.shape[3:])
        return jnp.concatenate([prompt, completion], axis=1)[:, None]

    def split(x):
        """[P, 1, S + G T, ...] to [P, 1, S, ...] and [P, G, T, ...]."""
        completion = x[:, 0, start:].reshape(prompts, group, count, *x.shape[3:])
        return x[:, :, :start], completion

    def attend(query, key, value):
        (prompt_query, query), (prompt_key, key), (prompt_value, value) = map(
            split, (query, key, value)
        )
        of_prompt = attend_causally(config, prompt_query, prompt_key, prompt_value)
        prompt = Prompt(prompt_key, prompt_value, length)
        of_completions = attend_causally(config, query, key, value, prompt)
        return join(of_prompt[:, 0], of_completions), None

    positions = join(
        jnp.broadcast_to(prompt_steps, tokens.shape),
        jnp.broadcast_to(length[:, None, None] + completion_steps, completions.shape),
    )
    hidden, _ = _apply(config, params, join(tokens, completions), positions, attend)
    prompt, completion = split(hidden)
    return _at_last(prompt, length), completion


# Parts that a packed row is cut into: the queries of each see no keys of later ones.
TILES = 4


def forward_packed(config, params, tokens, positions, prompt, completion):
    """Runs one differentiable causal pass over rows that hold several prompts and completions.

    A token sees what comes before it in its row of the same prompt: the prompt, and the completion
    that it belongs to.

    Args:
      config: a ModelConfig.
      params: as from init_params.
      tokens: i32 [R, W].
      positions: i32 [R, W], from the beginning of each prompt on.
      prompt: i32 [R, W], a number for each prompt of a row.
      completion: i32 [R, W], a number from 1 on for each completion of a row; 0 for prompts.

    Returns:
      Hidden states [R, W, D].
    """
    width = tokens.shape[1]
    steps = jnp.arange(width)
    tile = -(-width // TILES)

    def seen(rows, columns):
        """Mask [R, 1, 1, Q, 1, N] for `attention`."""
        same = prompt[:, rows, None] == prompt[:, None, columns]
        its_own = completion[:, rows, None] == completion[:, None, columns]
        mask = same & (its_own | (completion[:, None, columns] == 0))
        mask &= steps[rows, None] >= steps[columns]
        return mask[:, None, None, :, None]

    def attend(query, key, value):
        keys, values = arrange_kv(key, value)
        out = []
        for start in range(0, width, tile):
            end = min(start + tile, width)
            mask = seen(slice(start, end), slice(0, end))
            segment = keys[..., :end], values[..., :end, :], mask
            out.append(attention(query[:, :, start:end], [segment]))
        return jnp.concatenate(out, axis=2), None

    hidden, _ = _apply(config, params, tokens[:, None], positions[:, None], attend)
    return hidden[:, 0]


def _apply(config, params, *arguments) -> Any:
    return Transformer(config).apply({"params": params}, *arguments)


def _at_last(hidden, length):
    """Hidden states [P, D] at the last real tokens, of [P, 1, S, D]."""
    return jnp.take_along_axis(hidden[:, 0], (length - 1)[:, None, None], axis=1)[:, 0]


def unembedding(config, params):
    """Returns the output head's rows [V, D]: logits = hidden @ unembedding.T."""
    return params["embedding" if config.tied_head else "head"]


def cast_for_sampling(config, params):
    """Casts the parameters to config.dtype once, for many passes without an update.

    Passes return the same bits: norms and the output head stay float32, and all other parameters
    are cast at their use anyway. Adapters are merged, up to rounding to config.dtype.

    Args:
      config: a ModelConfig.
      params: as from init_params, or with adapters (models.lora).
    """
    head = "embedding" if config.tied_head else "head"

    def cast(path, leaf):
        name = path[-1].key
        return leaf if name == head or name.endswith("norm") else leaf.astype(config.dtype)

    return jax.tree.map_with_path(cast, lora.merge(params))


def check_positions(config, positions):
    """Raises a ValueError if `positions` tokens exceed config.max_positions."""
    if positions > config.max_positions:
        raise ValueError(
            f"prompt and completion must fit in max_positions = {config.max_positions} tokens; "
            f"got room for {positions}"
        )
