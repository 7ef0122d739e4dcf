"""One layer of a decoder-only transformer, whatever its tokens attend to.

Axes as in experiments.models.transformer.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments import sharding
from experiments.models import rotary
from experiments.models.config import ModelConfig
from experiments.models.linear import linear, linear_of_few


def rms_norm(x, scale, eps):
    """x / √(mean x² + eps) · scale over the last axis, in float32; returns x's dtype."""
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * inverse * scale).astype(x.dtype)


class Block(nn.Module):
    """One layer: x + attention(norm x), then x + SwiGLU(norm x).

    Attributes:
      config: a ModelConfig.
      turned: whether the weights are [out, in] instead of [in, out], for `linear_of_few`.
    """

    config: ModelConfig
    turned: bool = False

    @nn.compact
    def __call__(self, x, angles, attend):
        """Runs the layer on tokens that differ in nothing but what they attend to.

        Args:
          x: [P, G, Q, D].
          angles: (cos, sin), each [P, 1, Q, Dh/2].
          attend: from the tokens' queries [P, G, Q, Hkv, R, Dh], scaled, and keys and values
            [P, G, Q, Hkv, Dh] each, queries and keys rotated, to what every query found, in the
            queries' shape, and anything that is to come out of the layer.

        Returns:
          x [P, G, Q, D], and what else `attend` returned.
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
        y, out = attend(query, key, value)
        y = sharding.by_prompt(y.reshape(*x.shape[:3], -1))
        x = x + product("output", y, back, c.d_model)
        x = sharding.by_prompt(x, None, None, None)

        y = sharding.by_prompt(norm("mlp_norm", x), None, None, None)
        gate = sharding.by_prompt(product("gate", y, project, c.d_ff))
        up = sharding.by_prompt(product("up", y, project, c.d_ff))
        x = x + product("down", nn.silu(gate) * up, back, c.d_model)
        return sharding.by_prompt(x, None, None, None), out
