"""Rotary position embeddings, with the two scalings that the supported families use."""

import jax.numpy as jnp
import numpy as np


def frequencies(config):
    """Angular frequencies of the pairs of one head, in radians per position.

    f_i = θ^{-2i/d}; scaling "linear" gives f_i/s; "llama3" gives (1-b_i) f_i/s + b_i f_i with
    b_i = clip((N f_i/2π - low)/(high - low), 0, 1) and N the original context. arXiv 2104.09864.

    Args:
      config: a ModelConfig.

    Returns:
      numpy float32 [head_dim / 2].
    """
    plain = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        scaled = plain
    elif scaling.kind == "linear":
        scaled = plain / scaling.factor
    else:
        turns = scaling.original_max_positions * plain / (2 * np.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept = np.clip((turns - low) / (high - low), 0, 1)
        scaled = (1 - kept) * plain / scaling.factor + kept * plain
    return scaled.astype(np.float32)


def rotation(config, positions):
    """Cosines and sines of the rotary angles at `positions` [...]: float32 [..., head_dim / 2]."""
    angles = positions[..., None].astype(jnp.float32) * frequencies(config)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x, cos, sin):
    """Turns each pair (x_i, x_{i + d/2}) of the last axis by its angle, in float32.

    Args:
      x: [..., heads, d].
      cos: [..., d/2], one angle per pair, the same for all heads.
      sin: [..., d/2].

    Returns:
      [..., heads, d] in float32.
    """
    cos, sin = cos[..., None, :], sin[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
