"""Frequencies of YaRN against hand-worked values, the formula in float64, and transformers."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import rotary
from experiments.models.config import ModelConfig, RopeScaling
from tests.experiments.models import numpy_transformer

# Qwen2.5's, as its authors set it for 131072 tokens.
QWEN = ModelConfig(
    vocab_size=8,
    num_layers=1,
    d_model=8,
    num_heads=1,
    num_kv_heads=1,
    head_dim=128,
    d_ff=8,
    rope_theta=1e6,
    rope_scaling=RopeScaling("yarn", 4.0, original_max_positions=32768),
    max_positions=131072,
)
SCALINGS = {
    "qwen": RopeScaling("yarn", 4.0, original_max_positions=32768),
    "untruncated": RopeScaling("yarn", 4.0, original_max_positions=32768, truncate=False),
    "wide blend": RopeScaling(
        "yarn", 40.0, original_max_positions=4096, beta_fast=64.0, beta_slow=0.5
    ),
    "no blend": RopeScaling(
        "yarn", 2.0, original_max_positions=4096, beta_fast=3.0, beta_slow=3.0, truncate=False
    ),
    "short": RopeScaling("yarn", 8.0, original_max_positions=16, attention_factor=0.7),
}
SHORTER_THAN_A_TURN = RopeScaling("yarn", 8.0, original_max_positions=3)


def test_frequencies_of_qwen_are_as_worked_by_hand():
    """Pair 64 ln(32768/2πβ)/ln 10^6: 23.59 for 32 turns, 39.65 for one; so 23 and 40."""
    found = rotary.frequencies(QWEN)
    plain = 1e6 ** (-np.arange(64) / 64)
    np.testing.assert_allclose(found[:24], plain[:24], rtol=1e-6)
    np.testing.assert_allclose(found[40:], plain[40:] / 4, rtol=1e-6)
    # Pair 31: 8 of 17 steps, 9/17 + 8/17/4 = 11/17.
    np.testing.assert_allclose(found[31], plain[31] * 11 / 17, rtol=1e-6)


def test_rotation_scales_cosines_and_sines():
    cos, sin = rotary.rotation(QWEN, jnp.arange(3))
    scale = 1.1386294361119891  # 0.1 ln 4 + 1
    np.testing.assert_allclose(cos[0], scale, rtol=1e-6)
    np.testing.assert_allclose(cos**2 + sin**2, scale**2, rtol=1e-5)
    given = dataclasses.replace(QWEN.rope_scaling, attention_factor=0.5)
    cos, _ = rotary.rotation(dataclasses.replace(QWEN, rope_scaling=given), jnp.arange(1))
    np.testing.assert_array_equal(cos, 0.5)


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("theta", [1e6, 1e4, 20.0])
def test_frequencies_equal_the_formula_in_float64(name, theta):
    config = dataclasses.replace(QWEN, rope_scaling=SCALINGS[name], rope_theta=theta)
    expected = numpy_transformer.angular_frequencies(config)
    np.testing.assert_allclose(rotary.frequencies(config), expected, rtol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("scaling", [*SCALINGS.values(), SHORTER_THAN_A_TURN])
@pytest.mark.parametrize("theta", [1e6, 1e4, 20.0])
def test_frequencies_equal_transformers(scaling, theta):
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs = transformers.Qwen2Config(
        hidden_size=256,
        num_attention_heads=2,
        max_position_embeddings=131072,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": theta,
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_max_positions,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate,
            "attention_factor": scaling.attention_factor,
        },
    )
    frequencies, scale = ROPE_INIT_FUNCTIONS["yarn"](theirs)
    config = dataclasses.replace(QWEN, rope_scaling=scaling, rope_theta=theta)
    np.testing.assert_allclose(rotary.frequencies(config), frequencies, rtol=2e-6)
    cos, _ = rotary.rotation(config, jnp.arange(1))
    np.testing.assert_allclose(cos, scale, rtol=1e-6)
