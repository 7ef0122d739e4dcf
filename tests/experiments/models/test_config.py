import dataclasses
import re

import pytest

from experiments.models.config import ModelConfig, RopeScaling

SIZES = {
    "vocab_size": 8,
    "num_layers": 1,
    "d_model": 8,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 2,
    "d_ff": 8,
}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("vocab_size", 0, "ModelConfig.vocab_size must be a positive whole number; got 0"),
        ("num_layers", 1.5, "ModelConfig.num_layers must be a positive whole number; got 1.5"),
        ("d_ff", True, "ModelConfig.d_ff must be a positive whole number; got True"),
        ("max_positions", -1, "ModelConfig.max_positions must be a positive whole number; got -1"),
        ("head_dim", 3, "ModelConfig.head_dim must be even; got 3"),
        ("num_heads", 3, "ModelConfig.num_heads must be a multiple of num_kv_heads, 2; got 3"),
        ("rope_theta", 0.0, "ModelConfig.rope_theta must be positive; got 0.0"),
        ("rope_scaling", "yarn", "ModelConfig.rope_scaling must be None or a RopeScaling"),
        ("norm_eps", 0.0, "ModelConfig.norm_eps must be positive; got 0.0"),
        ("dtype", "float16", "ModelConfig.dtype must be one of ('float32', 'bfloat16')"),
        ("remat_keeps", "all", "ModelConfig.remat_keeps must be one of ('nothing', 'products')"),
        ("attention", "flash", "ModelConfig.attention must be one of ('auto', 'plain', 'blocks'"),
    ],
)
def test_model_config_raises(field, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ModelConfig(**SIZES | {field: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("su", 2.0), "RopeScaling.kind must be one of ('linear', 'llama3', 'yarn'); got 'su'"),
        (("linear", 0.5), "RopeScaling.factor must be at least 1; got 0.5"),
        (("llama3", 2.0, 0.0), "RopeScaling.low_freq_factor must be positive; got 0.0"),
        (("llama3", 2.0, 4.0, 4.0), "RopeScaling.high_freq_factor must be greater than"),
        (("llama3", 2.0, 1.0, 4.0, 0), "RopeScaling.original_max_positions must be positive"),
        (("yarn", 2.0, 1, 4, 64, 1.0, 2.0), "RopeScaling.beta_fast must be at least beta_slow, 2"),
        (("yarn", 2.0, 1, 4, 64, 1.0, 0.0), "RopeScaling.beta_slow must be positive; got 0.0"),
        (
            ("yarn", 2.0, 1, 4, 64, 32, 1, 0.0),
            "RopeScaling.attention_factor must be None or a positive number; got 0.0",
        ),
        (("yarn", 2.0, 1, 4, 64, 32, 1, None, 1), "RopeScaling.truncate must be True or False"),
    ],
)
def test_rope_scaling_raises(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        RopeScaling(*arguments)


def test_model_config_refuses_yarn_without_wavelengths():
    with pytest.raises(ValueError, match=r"rope_theta must be greater than 1 for yarn; got 1.0"):
        ModelConfig(**SIZES, rope_theta=1.0, rope_scaling=RopeScaling("yarn", 2.0))


def test_model_config_hash_follows_equality():
    scaling = RopeScaling("linear", 2.0)
    one, other = (ModelConfig(**SIZES, rope_scaling=scaling) for _ in range(2))
    assert hash(one) == hash(other)
    assert one == other != dataclasses.replace(one, remat=True)
