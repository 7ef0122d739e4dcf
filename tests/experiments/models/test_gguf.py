"""GGUF files of the three families, written from the Hugging Face fixtures."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from experiments.models import huggingface
from experiments.models.config import RopeScaling
from tests.experiments.models.checkpoints import write_gguf
from tests.experiments.models.common import FIXTURES


@pytest.mark.parametrize(
    ("family", "fixture"),
    [
        ("llama", "llama_tied"),
        ("llama", "llama_linear_rope"),
        ("qwen2", "qwen2_untied"),
        ("qwen3", "qwen3"),
    ],
)
def test_load_equals_hugging_face(tmp_path, family, fixture):
    config, params = huggingface.load_model(FIXTURES / fixture)
    write_gguf(tmp_path / "model.gguf", family, config, params)
    found, loaded = huggingface.load_model(tmp_path / "model.gguf")
    assert found == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


@pytest.mark.parametrize(
    ("fields", "factor"),
    [
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, 2.0),
        ({"rope.scaling.factor": 4.0}, 4.0),  # without a type it is linear
        ({"rope.scale_linear": 8.0}, 8.0),  # before rope.scaling
        ({"rope.scaling.type": "none", "rope.scaling.factor": 2.0}, None),
        ({"rope.scaling.type": "linear"}, None),
        ({"rope.scaling.factor": 0.0}, None),
        ({}, None),
    ],
)
def test_load_reads_every_spelling_of_rope_scaling(tmp_path, fields, factor):
    config, params = huggingface.load_model(FIXTURES / "llama_tied")
    path = tmp_path / "model.gguf"
    write_gguf(
        path, "llama", config, params, metadata=[(f"llama.{k}", v) for k, v in fields.items()]
    )
    found, _ = huggingface.load_model(path)
    assert found.rope_scaling == (None if factor is None else RopeScaling("linear", factor))


def test_load_reads_yarn(tmp_path):
    config, params = huggingface.load_model(FIXTURES / "qwen2_yarn")
    path = tmp_path / "model.gguf"
    more = {
        "original_context_length": 16,
        "yarn_beta_fast": 4.0,
        "yarn_beta_slow": 0.25,
        "yarn_ext_factor": 1.0,
        "yarn_log_multiplier": 0.0,
    }
    metadata = [(f"qwen2.rope.scaling.{name}", found) for name, found in more.items()]
    write_gguf(path, "qwen2", config, params, metadata=metadata)
    found, loaded = huggingface.load_model(path)
    assert found == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)

    write_gguf(path, "qwen2", config, params)  # llama.cpp's defaults
    found, _ = huggingface.load_model(path)
    assert found.rope_scaling == RopeScaling("yarn", 4.0, original_max_positions=64)
    assert found.max_positions == 256


def test_load_dequantizes(tmp_path):
    """Q8_0 keeps 8 bits and one scale for 32 weights: an error of half a step of max/127."""
    from gguf import GGMLQuantizationType, quants

    weights = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    config = huggingface.read_config(FIXTURES / "llama_tied" / "config.json")
    config = dataclasses.replace(config, vocab_size=4, d_model=64, num_layers=1)
    layer = {
        "attention_norm": (64,),
        "query": (64, 16),
        "key": (64, 8),
        "value": (64, 8),
        "output": (16, 64),
        "mlp_norm": (64,),
        "gate": (64, 24),
        "up": (64, 24),
        "down": (24, 64),
    }
    params = {
        "final_norm": np.ones(64, np.float32),
        "layers": {name: np.ones((1, *shape), np.float32) for name, shape in layer.items()},
    }
    packed = quants.quantize(weights, GGMLQuantizationType.Q8_0)
    path = tmp_path / "model.gguf"
    tensors = [("token_embd.weight", packed, GGMLQuantizationType.Q8_0)]
    write_gguf(path, "llama", config, params, tensors=tensors)
    _, loaded = huggingface.load_model(path)
    step = np.abs(weights.reshape(4, 2, 32)).max(-1, keepdims=True) / 127
    error = np.abs(loaded["embedding"] - weights).reshape(4, 2, 32)
    assert np.all(error <= 0.51 * step)
    assert np.any(error > 0)


def test_load_overrides(tmp_path):
    config, params = huggingface.load_model(FIXTURES / "llama_tied")
    write_gguf(tmp_path / "model.gguf", "llama", config, params)
    found, _ = huggingface.load_model(tmp_path / "model.gguf", dtype="bfloat16", remat=True)
    assert found == dataclasses.replace(config, dtype="bfloat16", remat=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"family": "mamba"},
            "general.architecture must be one of llama, qwen2, qwen3; got 'mamba'",
        ),
        ({"leave_out": ["feed_forward_length"]}, "llama.feed_forward_length is missing"),
        (
            {"leave_out": ["blk.1.attn_v.weight"]},
            "the checkpoint holds no tensor blk.1.attn_v.weight",
        ),
        ({"leave_out": ["token_embd.weight"]}, "holds no tensor token_embd.weight"),
        (
            {"tensors": [("blk.0.attn_q.bias", np.zeros(16, np.float32))]},
            "holds tensors that are not part of a llama model: blk.0.attn_q.bias",
        ),
        (
            {
                "leave_out": ["blk.1.ffn_up.weight"],
                "tensors": [("blk.1.ffn_up.weight", np.zeros((3, 16), np.float32))],
            },
            "blk.1.ffn_up.weight has shape (3, 16); the checkpoint's config asks for (24, 16)",
        ),
        (
            {"metadata": [("llama.rope.scaling.type", "longrope")]},
            "rope scaling must be none, linear or yarn in a GGUF file; got longrope",
        ),
        (
            {"metadata": [("llama.rope.scaling.type", "yarn")]},
            "llama.rope.scaling.factor is missing",
        ),
        (
            {
                "metadata": [
                    ("llama.rope.scaling.type", "yarn"),
                    ("llama.rope.scaling.factor", 2.0),
                    ("llama.rope.scaling.attn_factor", 0.5),
                ]
            },
            "llama.rope.scaling.attn_factor must be 1; got 0.5",
        ),
        (
            {"tensors": [("rope_freqs.weight", np.ones(2, np.float32))]},
            "rope scaling must be none, linear or yarn in a GGUF file; got rope_freqs.weight",
        ),
    ],
)
def test_open_model_raises(tmp_path, changes, message):
    config, params = huggingface.load_model(FIXTURES / "llama_tied")
    path = tmp_path / "model.gguf"
    family = changes.pop("family", "llama")
    write_gguf(path, family, config, params, **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        huggingface.open_model(path)


def test_open_model_raises_on_another_format(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"model.gguf is not a GGUF file"):
        huggingface.open_model(path)
