"""A decoder-only transformer whose prompt is computed once and shared by a group of completions.

Axes: P prompts, G completions of each, S prompt positions (right-padded), T completion positions,
L layers, D width, V vocabulary, Hkv heads of keys and values, R query heads to each of them, Dh
width of a head. Completion token t of a prompt of `length` real tokens sits at position length + t.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.models import rotary
from experiments.models.config import ModelConfig


class Prefix(NamedTuple):
    """Keys and values of the prompts, one copy per prompt whatever the size of the group."""

    keys: jax.Array  # [L, P, S, Hkv, Dh]
    values: jax.Array  # [L, P, S, Hkv, Dh]
    length: jax.Array  # i32 [P], real tokens


class Cache(NamedTuple):
    """Keys and values of the completions sampled so far."""

    keys: jax.Array  # [L, P, G, T, Hkv, Dh]
    values: jax.Array  # [L, P, G, T, Hkv, Dh]


def rms_norm(x, scale, eps):
    """x / √(mean x² + eps) · scale over the last axis, in float32; returns x's dtype."""
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * inverse * scale).astype(x.dtype)


def attention(query, prefix, own, prefix_mask, own_mask):
    """Softmax attention over a shared prefix and over each completion's own keys.

    out = (Σ_s e_s v_s + Σ_u e_u v_u) / (Σ_s e_s + Σ_u e_u),  e = exp(q·k - max): one softmax over
    both, with neither the prefix repeated for the group nor the keys for the query heads.

    Args:
      query: [P, G, Q, Hkv, R, Dh], scaled and rotated.
      prefix: (keys, values), each [P, S, Hkv, Dh], or None where there is none.
      own: (keys, values), each [P, G, U, Hkv, Dh].
      prefix_mask: bool [P, S], or None.
      own_mask: bool [Q, U]; each query sees at least one key.

    Returns:
      [P, G, Q, Hkv, R, Dh], in query's dtype.
    """
    f32 = jnp.float32
    keys, values = own
    scores = jnp.einsum("pgqhrd,pguhd->pghqru", query, keys, preferred_element_type=f32)
    scores = jnp.where(own_mask[:, None, :], scores, -jnp.inf)
    top = jnp.max(scores, axis=-1)
    if prefix is None:
        weights = jnp.exp(scores - jax.lax.stop_gradient(top)[..., None])
        total = jnp.sum(weights, axis=-1)
        mixed = _mix_own(weights, values)
    else:
        prefix_keys, prefix_values = prefix
        prefix_scores = jnp.einsum(
            "pgqhrd,pshd->phgqrs", query, prefix_keys, preferred_element_type=f32
        )
        prefix_scores = jnp.where(prefix_mask[:, None, None, None, None], prefix_scores, -jnp.inf)
        top = jax.lax.stop_gradient(
            jnp.maximum(top, jnp.swapaxes(jnp.max(prefix_scores, axis=-1), 1, 2))
        )
        weights = jnp.exp(scores - top[..., None])
        prefix_weights = jnp.exp(prefix_scores - jnp.swapaxes(top, 1, 2)[..., None])
        total = jnp.sum(weights, axis=-1) + jnp.swapaxes(jnp.sum(prefix_weights, axis=-1), 1, 2)
        mixed = _mix_own(weights, values) + jnp.einsum(
            "phgqrs,pshd->pgqhrd",
            prefix_weights.astype(values.dtype),
            prefix_values,
            preferred_element_type=f32,
        )
    return (mixed / jnp.moveaxis(total, 2, 3)[..., None]).astype(query.dtype)


def _mix_own(weights, values):
    return jnp.einsum(
        "pghqru,pguhd->pgqhrd",
        weights.astype(values.dtype),
        values,
        preferred_element_type=jnp.float32,
    )


class Block(nn.Module):
    """One layer: x + attention(norm x), then x + SwiGLU(norm x)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x, prefix, cache, angles, masks, index):
        """Runs the layer on [P, G, Q, D].

        Args:
          x: [P, G, Q, D].
          prefix: (keys, values) of this layer's prompts [P, S, Hkv, Dh], or None.
          cache: (keys, values) of this layer's completions [P, G, T, Hkv, Dh], or None.
          angles: (cos, sin), each [P, 1, Q, Dh/2].
          masks: (prefix mask [P, S] or None, own mask [Q, U]), U = T with a cache, else Q.
          index: i32 [], where the new keys belong in the cache; None without one.

        Returns:
          x [P, G, Q, D], and the new (keys, values), each [P, G, Q, Hkv, Dh].
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

        def heads(name, value, count):
            weight = parameter(name, project, c.d_model, count * c.head_dim)
            out = value @ weight.astype(dtype)
            if c.qkv_bias:
                bias = parameter(f"{name}_bias", nn.initializers.zeros, count * c.head_dim)
                out = out + bias.astype(dtype)
            return out.reshape(*value.shape[:-1], count, c.head_dim)

        y = norm("attention_norm", x)
        query = heads("query", y, c.num_heads)
        key = heads("key", y, c.num_kv_heads)
        value = heads("value", y, c.num_kv_heads)
        if c.qk_norm:
            query, key = norm("query_norm", query), norm("key_norm", key)
        query = (rotary.rotate(query, *angles) * c.head_dim**-0.5).astype(dtype)
        query = query.reshape(*query.shape[:3], c.num_kv_heads, queries_per_key, c.head_dim)
        new = rotary.rotate(key, *angles).astype(dtype), value
        own = new if cache is None else tuple(_write(old, at, index) for old, at in zip(cache, new))
        y = attention(query, prefix, own, *masks)
        weight = parameter("output", back, c.num_heads * c.head_dim, c.d_model)
        x = x + y.reshape(*x.shape[:3], -1) @ weight.astype(dtype)

        y = norm("mlp_norm", x)
        gate = y @ parameter("gate", project, c.d_model, c.d_ff).astype(dtype)
        up = y @ parameter("up", project, c.d_model, c.d_ff).astype(dtype)
        weight = parameter("down", back, c.d_ff, c.d_model)
        return x + (nn.silu(gate) * up) @ weight.astype(dtype), new


def _write(cache, new, index):
    return jax.lax.dynamic_update_slice_in_dim(cache, new, index, axis=-3)


class Transformer(nn.Module):
    """Embedding, L scanned layers whose parameters are stacked [L, ...], and the final norm."""

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens, prefix, cache, angles, masks, index):
        """Hidden states after the final norm, for tokens i32 [P, G, Q]; the head is not applied.

        Args:
          tokens: i32 [P, G, Q].
          prefix: (keys, values) of all layers, or None.
          cache: (keys, values) of all layers, or None.
          angles: as in Block.
          masks: as in Block.
          index: as in Block.

        Returns:
          hidden [P, G, Q, D], and the new (keys, values) of all layers [L, P, G, Q, Hkv, Dh].
        """
        c = self.config
        table = (c.vocab_size, c.d_model)
        initializer = nn.initializers.normal(c.d_model**-0.5)
        embedding = self.param("embedding", initializer, table, jnp.float32)
        if not c.tied_head:
            self.param("head", initializer, table, jnp.float32)
        x = embedding[tokens].astype(c.dtype)
        block = nn.remat(Block, prevent_cse=False) if c.remat else Block
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=c.num_layers,
        )(c, name="layers")
        x, new = layers(x, prefix, cache, angles, masks, index)
        scale = self.param("final_norm", nn.initializers.ones, (c.d_model,), jnp.float32)
        return rms_norm(x, scale, c.norm_eps), new


def init_params(config, key):
    """Fresh float32 parameters: normal with variance 1/fan-in, norms 1, biases 0.

    Args:
      config: a ModelConfig.
      key: a PRNG key.

    Returns:
      A nested dict of arrays; those of the layers are stacked [L, ...].
    """
    angles = rotary.rotation(config, jnp.zeros((1, 1, 1), jnp.int32))
    masks = None, jnp.ones((1, 1), bool)
    tokens = jnp.zeros((1, 1, 1), jnp.int32)
    return Transformer(config).init(key, tokens, None, None, angles, masks, None)["params"]


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
    _check_positions(config, tokens.shape[1])
    steps = jnp.arange(tokens.shape[1])
    angles = rotary.rotation(config, steps[None, None])
    masks = None, steps[:, None] >= steps
    hidden, (keys, values) = Transformer(config).apply(
        {"params": params}, tokens[:, None], None, None, angles, masks, None
    )
    last = jnp.take_along_axis(hidden[:, 0], (length - 1)[:, None, None], axis=1)[:, 0]
    return Prefix(keys[:, :, 0], values[:, :, 0], length), last


def extend(config, params, prefix, tokens):
    """One causal pass over G completions of each prompt, differentiable, also in the prefix.

    Args:
      config: a ModelConfig.
      params: as from init_params.
      prefix: from prefill.
      tokens: i32 [P, G, T]; what follows an end-of-sequence token changes nothing before it.

    Returns:
      The hidden state [P, G, T, D] at each completion token, which predicts the next one.

    Raises:
      ValueError: S + T exceeds config.max_positions.
    """
    steps = jnp.arange(tokens.shape[2])
    _check_positions(config, prefix.keys.shape[2] + tokens.shape[2])
    angles = rotary.rotation(config, prefix.length[:, None, None] + steps)
    masks = _real(prefix), steps[:, None] >= steps
    hidden, _ = Transformer(config).apply(
        {"params": params}, tokens, (prefix.keys, prefix.values), None, angles, masks, None
    )
    return hidden


def empty_cache(config, prompts, group, max_tokens):
    """Room for `group` completions of `max_tokens` tokens for each of `prompts` prompts."""
    shape = (
        config.num_layers,
        prompts,
        group,
        max_tokens,
        config.num_kv_heads,
        config.head_dim,
    )
    return Cache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))


def decode(config, params, prefix, cache, tokens, index):
    """Feeds completion token number `index` of every completion.

    Args:
      config: a ModelConfig.
      params: as from init_params.
      prefix: from prefill.
      cache: holds the tokens before `index`.
      tokens: i32 [P, G].
      index: i32 [], from 0 to T - 1.

    Returns:
      The hidden state [P, G, D], which predicts token index + 1, and the cache with this token.

    Raises:
      ValueError: S + T exceeds config.max_positions.
    """
    max_tokens = cache.keys.shape[3]
    _check_positions(config, prefix.keys.shape[2] + max_tokens)
    angles = rotary.rotation(config, (prefix.length + index)[:, None, None])
    masks = _real(prefix), (jnp.arange(max_tokens) <= index)[None]
    hidden, new = Transformer(config).apply(
        {"params": params},
        tokens[:, :, None],
        (prefix.keys, prefix.values),
        tuple(cache),
        angles,
        masks,
        index,
    )
    return hidden[:, :, 0], Cache(*(_write(old, at, index) for old, at in zip(cache, new)))


def unembedding(config, params):
    """The output head's rows [V, D]: logits = hidden @ unembedding.T."""
    return params["embedding" if config.tied_head else "head"]


def _real(prefix):
    return jnp.arange(prefix.keys.shape[2]) < prefix.length[:, None]


def _check_positions(config, positions):
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
