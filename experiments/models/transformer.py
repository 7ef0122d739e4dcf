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
from experiments.models import rotary
from experiments.models.config import ModelConfig
from experiments.models.linear import NAME, linear, linear_of_few


class Prefix(NamedTuple):
    """Keys and values of the prompts, one copy per prompt whatever the size of the group."""

    keys: jax.Array  # [L, P, Hkv, Dh, S]
    values: jax.Array  # [L, P, Hkv, S, Dh]
    length: jax.Array  # i32 [P], real tokens


def rms_norm(x, scale, eps):
    """x / √(mean x² + eps) · scale over the last axis, in float32; returns x's dtype."""
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * inverse * scale).astype(x.dtype)


# Queries whose scores are held at a time: [P, G, heads, 8192, 8192] would not fit any device.
QUERIES = 256


def query_blocks(count):
    """The number of blocks in which `attention` goes over `count` queries; up to 2 are one."""
    return 1 if count <= 2 * QUERIES else -(-count // QUERIES)


def attention(query, sources):
    """`_attention` in blocks of queries, each computed anew in the backward pass (2112.05682).

    The arguments and the result are those of `_attention`.
    """
    count = query.shape[2]
    blocks = query_blocks(count)
    if blocks == 1:
        return _attention(query, sources)
    extra = blocks * QUERIES - count

    def split(x, axis):
        """[..., Q, ...] to [blocks, ..., queries, ...].

        The last block is filled with queries of 0 that see every key: one that sees none would
        have a gradient that is not a number.
        """
        fill = [(0, extra if i == axis else 0) for i in range(x.ndim)]
        x = jnp.pad(x, fill, constant_values=x.dtype == bool)
        x = x.reshape(*x.shape[:axis], blocks, QUERIES, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    masks = [mask for _, _, mask in sources]
    by_query = [mask.ndim > 2 and mask.shape[-3] == count for mask in masks]
    parts = [split(mask, mask.ndim - 3) for mask, own in zip(masks, by_query) if own]

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def block(inputs):
        part, own_masks = inputs[0], iter(inputs[1])
        kept = [next(own_masks) if own else mask for mask, own in zip(masks, by_query)]
        return _attention(part, [(k, v, mask) for (k, v, _), mask in zip(sources, kept)])

    out = jnp.moveaxis(jax.lax.map(block, (split(query, 2), parts)), 0, 2)
    return out.reshape(*query.shape[:2], -1, *query.shape[3:])[:, :, :count]


def _attention(query, sources):
    """Softmax attention over several sources of keys and values at once.

    out = Σ_j e_j v_j / Σ_j e_j,  e_j = exp(q·k_j - max), j over the keys of all sources. No source
    is copied, nor repeated for the group or for the query heads.

    Args:
      query: [P, G, Q, Hkv, R, Dh], scaled and rotated.
      sources: (keys, values, mask) each; keys are [P, Hkv, Dh, N] and values [P, Hkv, N, Dh] where
        the group shares them, else with G after P; mask is bool, broadcast against
        [P, G, Hkv, Q, R, N], and lets every query see at least one key of some source.

    Returns:
      [P, G, Q, Hkv, R, Dh], in query's dtype.
    """
    query = jnp.moveaxis(query, 2, 3)  # [P, G, Hkv, Q, R, Dh]
    scores = [
        jnp.where(mask, _dot("pghqrd,p{}hdn->pghqrn", query, keys), -jnp.inf)
        for keys, _, mask in sources
    ]
    top = functools.reduce(jnp.maximum, [jnp.max(s, axis=-1, keepdims=True) for s in scores])
    weights = [jnp.exp(s - jax.lax.stop_gradient(top)) for s in scores]
    total = sum(jnp.sum(w, axis=-1, keepdims=True) for w in weights)
    mixed = sum(
        _dot("pghqrn,p{}hnd->pghqrd", w.astype(values.dtype), values)
        for w, (_, values, _) in zip(weights, sources)
    )
    return jnp.moveaxis(mixed / total, 3, 2).astype(query.dtype)


def _dot(axes, left, right):
    if right.ndim == 5:
        return jnp.einsum(axes.format("g"), left, right, preferred_element_type=jnp.float32)
    # The batched axes first: XLA's CPU backend has no bfloat16 product for the other order.
    axes = axes.replace("pgh", "phg").format("")
    left = jnp.swapaxes(left, 1, 2)
    out = jnp.einsum(axes, left, right, preferred_element_type=jnp.float32)
    return jnp.swapaxes(out, 1, 2)


class Block(nn.Module):
    """One layer: x + attention(norm x), then x + SwiGLU(norm x).

    Attributes:
      config: a ModelConfig.
      turned: whether the weights are [out, in] instead of [in, out], for `linear_of_few`.
    """

    config: ModelConfig
    turned: bool = False

    @nn.compact
    def __call__(self, x, past, masks, angles, write=lambda own: own):
        """Runs the layer on [P, G, Q, D].

        Args:
          x: [P, G, Q, D].
          past: (keys, values) of this layer for each source there is beside the tokens themselves.
          masks: one for each of `past`, then one for the tokens themselves; see `attention`.
          angles: (cos, sin), each [P, 1, Q, Dh/2].
          write: from the tokens' own (keys [P, G, Hkv, Dh, Q], values [P, G, Hkv, Q, Dh]) to those
            that they attend to in their place.

        Returns:
          x [P, G, Q, D], and the (keys, values) that `write` returned.
        """
        c = self.config
        dtype = x.dtype
        queries_per_key = c.num_heads // c.num_kv_heads
        project = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=0, out_axis=-1)
        # Smaller by √(2L), so that the residual stream keeps its scale through 2L additions.
        back = nn.initializers.variance_scaling(
            0.5 / c.num_layers, "fan_in", "normal", in_axis=0, out_axis=-1
        )

        def parameter(name, initializer, *shape):
            return self.param(name, initializer, shape, jnp.float32)

        def norm(name, value):
            return rms_norm(
                value, parameter(name, nn.initializers.ones, value.shape[-1]), c.norm_eps
            )

        def product(name, value, initializer, columns):
            shape = value.shape[-1], columns
            if self.turned:
                return linear_of_few(value, parameter(name, initializer, *shape[::-1]))
            return linear(value, parameter(name, initializer, *shape))

        def heads(name, value, count):
            out = product(name, value, project, count * c.head_dim)
            if c.qkv_bias:
                bias = parameter(f"{name}_bias", nn.initializers.zeros, count * c.head_dim)
                out = out + bias.astype(dtype)
            out = out.reshape(*value.shape[:-1], count, c.head_dim)
            return sharding.by_prompt(out)

        x = sharding.by_prompt(x, None, None, None)
        y = sharding.by_prompt(norm("attention_norm", x), None, None, None)
        query = heads("query", y, c.num_heads)
        key = heads("key", y, c.num_kv_heads)
        value = heads("value", y, c.num_kv_heads)
        if c.qk_norm:
            query, key = norm("query_norm", query), norm("key_norm", key)
        query = (rotary.rotate(query, *angles) * c.head_dim**-0.5).astype(dtype)
        query = query.reshape(*query.shape[:3], c.num_kv_heads, queries_per_key, c.head_dim)
        key = rotary.rotate(key, *angles).astype(dtype)
        own = write((jnp.moveaxis(key, 2, 4), jnp.swapaxes(value, 2, 3)))
        y = attention(query, [(*kv, mask) for kv, mask in zip((*past, own), masks)])
        y = sharding.by_prompt(y.reshape(*x.shape[:3], -1))
        x = x + product("output", y, back, c.d_model)
        x = sharding.by_prompt(x, None, None, None)

        y = sharding.by_prompt(norm("mlp_norm", x), None, None, None)
        gate = sharding.by_prompt(product("gate", y, project, c.d_ff))
        up = sharding.by_prompt(product("up", y, project, c.d_ff))
        x = x + product("down", nn.silu(gate) * up, back, c.d_model)
        return sharding.by_prompt(x, None, None, None), own


# What the backward pass of a rematerialised layer finds kept, by ModelConfig.remat_keeps.
_KEPT = {
    "nothing": None,
    "products": jax.checkpoint_policies.save_only_these_names(NAME),
}


class Transformer(nn.Module):
    """Embedding, L scanned layers whose parameters are stacked [L, ...], and the final norm."""

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens, masks, angles):
        """Hidden states after the final norm; the head is not applied.

        Args:
          tokens: i32 [P, G, Q].
          masks: as in Block.
          angles: as in Block.

        Returns:
          hidden [P, G, Q, D], and the tokens' own keys [L, P, G, Hkv, Dh, Q] and values
          [L, P, G, Hkv, Q, Dh].
        """
        c = self.config
        table = (c.vocab_size, c.d_model)
        initializer = nn.initializers.normal(c.d_model**-0.5)
        embedding = self.param("embedding", initializer, table, jnp.float32)
        if not c.tied_head:
            self.param("head", initializer, table, jnp.float32)
        x = embed(c, {"embedding": embedding}, tokens)
        policy = _KEPT[c.remat_keeps]
        block = nn.remat(Block, prevent_cse=False, policy=policy) if c.remat else Block
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.num_layers,
        )(c, name="layers")
        x, new = layers(x, (), masks, angles)
        scale = self.param("final_norm", nn.initializers.ones, (c.d_model,), jnp.float32)
        return final_norm(c, {"final_norm": scale}, x), new


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
    angles = rotary.rotation(config, jnp.zeros((1, 1, 1), jnp.int32))
    masks = (jnp.ones((1, 1, 1), bool),)
    tokens = jnp.zeros((1, 1, 1), jnp.int32)
    return Transformer(config).init(key, tokens, masks, angles)["params"]


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
    angles = rotary.rotation(config, steps[None, None])
    hidden, (keys, values) = Transformer(config).apply(
        {"params": params}, tokens[:, None], (_causal(steps),), angles
    )
    return Prefix(keys[:, :, 0], values[:, :, 0], length), _at_last(hidden, length)


def forward(config, params, tokens, length, completions):
    """One causal pass over the prompts, once each, and G completions of each; differentiable.

    Prompts and completions go through a layer together: in two passes, one after the other, each
    would have a gradient of all layers' weights, and the two would be held to be added.

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
    of_prompt, of_completion = (jnp.arange(x.shape[-1]) for x in (tokens, completions))
    prompt_angles = rotary.rotation(config, of_prompt[None, None])
    angles = rotary.rotation(config, length[:, None, None] + of_completion)
    prompt_masks = (_causal(of_prompt),)
    masks = real(length, tokens.shape[1]), _causal(of_completion)
    block = Block(config)

    def layer(carry, weights):
        prompt, x = carry
        apply = functools.partial(block.apply, {"params": weights})
        prompt, own = apply(prompt, (), prompt_masks, prompt_angles)
        x, _ = apply(x, (tuple(kv[:, 0] for kv in own),), masks, angles)
        return (prompt, x), None

    if config.remat:
        layer = jax.checkpoint(layer, prevent_cse=False, policy=_KEPT[config.remat_keeps])
    carry = embed(config, params, tokens[:, None]), embed(config, params, completions)
    hidden = jax.lax.scan(layer, carry, params["layers"])[0]
    prompt, x = (final_norm(config, params, x) for x in hidden)
    return _at_last(prompt, length), x


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
