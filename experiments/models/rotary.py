"""Rotary position embeddings, and how they are scaled to contexts longer than that of training."""

import math

import jax.numpy as jnp
import numpy as np


def frequencies(config):
    """Returns the angular frequencies of the pairs of a head, in radians per position.

    f_i = θ^{-2i/d}; scaling "linear" gives f_i/s; "llama3" gives (1-b_i) f_i/s + b_i f_i with
    b_i = clip((N f_i/2π - low)/(high - low), 0, 1) and N the original context. arXiv:2104.09864.
    "yarn" has b_i = 1 - clip((i - first)/(last - first), 0, 1): pair `first` turns beta_fast times
    in the original context, pair `last` beta_slow times. arXiv:2309.00071.

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
    elif scaling.kind == "yarn":
        first, last = _yarn_range(config)
        kept = 1 - np.clip((np.arange(config.head_dim // 2) - first) / (last - first), 0, 1)
        scaled = (1 - kept) * plain / scaling.factor + kept * plain
    else:
        turns = scaling.original_max_positions * plain / (2 * np.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept = np.clip((turns - low) / (high - low), 0, 1)
        scaled = (1 - kept) * plain / scaling.factor + kept * plain
    return scaled.astype(np.float32)


def _yarn_range(config):
    """Returns the pairs between which YaRN blends the frequencies, as transformers rounds them."""
    scaling, width = config.rope_scaling, config.head_dim

    def pair(turns):  # N θ^{-2i/d} = 2π turns, solved for i
        wavelength = scaling.original_max_positions / turns
        return width * math.log(wavelength / (2 * math.pi)) / (2 * math.log(config.rope_theta))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    return first, last if last != first else first + 0.001


def rotation(config, positions):
    """Returns the cosines and sines of the rotary angles, float32 [..., head_dim / 2] each.

    With "yarn" both are scaled, and so the scores of attention by the square.

    Args:
      config: a ModelConfig.
      positions: [...].
    """
    angles = positions[..., None].astype(jnp.float32) * frequencies(config)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "yarn":
        return cos, sin
    scale = scaling.attention_factor
    if scale is None:
        scale = 0.1 * math.log(scaling.factor) + 1
    return cos * scale, sin * scale


def rotate(x, cos, sin):
    """Rotates each pair (x_i, x_{i + d/2}) of the last axis by its angle, in float32.

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
