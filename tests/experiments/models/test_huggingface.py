"""Hugging Face directories: reading, writing and errors."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from experiments.models import huggingface
from experiments.models.config import RopeScaling
from tests.experiments.models.common import FIXTURES


@pytest.fixture
def copied(tmp_path):
    """Copies a fixture, with changes to its config.json; None removes a field."""

    def copy(name="llama_tied", **changes):
        directory = tmp_path / name
        shutil.copytree(FIXTURES / name, directory)
        path = directory / "config.json"
        settings = json.loads(path.read_text()) | changes
        settings = {key: value for key, value in settings.items() if value is not None}
        path.write_text(json.dumps(settings))
        return directory

    return copy


def test_load_transposes_matrices_and_stacks_layers():
    directory = FIXTURES / "llama_tied"
    config, params = huggingface.load_model(directory)
    stored = load_file(directory / "model.safetensors")
    assert (config.num_layers, config.num_heads, config.num_kv_heads) == (2, 4, 2)
    for layer in range(2):
        up = stored[f"model.layers.{layer}.mlp.up_proj.weight"]
        np.testing.assert_array_equal(params["layers"]["up"][layer], up.T)
        norm = stored[f"model.layers.{layer}.input_layernorm.weight"]
        np.testing.assert_array_equal(params["layers"]["attention_norm"][layer], norm)
    np.testing.assert_array_equal(params["embedding"], stored["model.embed_tokens.weight"])
    assert "head" not in params


@pytest.mark.parametrize("name", ["llama_linear_rope", "qwen2_sharded", "qwen3"])
def test_load_converts_to_float32(name):
    _, params = huggingface.load_model(FIXTURES / name)
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}


def test_load_shards_equal_single_file(copied):
    directory = copied("qwen2_sharded")
    expected = huggingface.load_model(directory)
    tensors = {}
    for shard in directory.glob("model-*.safetensors"):
        tensors |= load_file(shard)
        shard.unlink()
    (directory / "model.safetensors.index.json").unlink()
    save_file(tensors, directory / "model.safetensors")
    found = huggingface.load_model(directory)
    assert found[0] == expected[0]
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


def test_read_config_before_transformers_5(copied):
    scaling = {"type": "linear", "factor": 3.0}
    directory = copied(rope_parameters=None, rope_theta=123.0, rope_scaling=scaling)
    config, _ = huggingface.load_model(directory)
    assert (config.rope_theta, config.rope_scaling) == (123.0, RopeScaling("linear", 3.0))
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_scaling": scaling}))
    config = huggingface.read_config(path)
    assert config.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 64)


@pytest.mark.parametrize(
    ("changes", "expected", "max_positions"),
    [
        # As Qwen2.5's documentation sets it: the context before scaling.
        (
            {
                "max_position_embeddings": 64,
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                },
            },
            RopeScaling("yarn", 4.0, original_max_positions=64),
            256,
        ),
        # The context after scaling, and every option.
        (
            {
                "max_position_embeddings": 256,
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                    "beta_fast": 16.0,
                    "beta_slow": 2.0,
                    "attention_factor": 1.5,
                    "truncate": False,
                },
            },
            RopeScaling(
                "yarn",
                4.0,
                original_max_positions=64,
                beta_fast=16.0,
                beta_slow=2.0,
                attention_factor=1.5,
                truncate=False,
            ),
            256,
        ),
        # transformers takes the context of the config for the original one.
        (
            {
                "max_position_embeddings": 64,
                "rope_parameters": {"rope_type": "yarn", "factor": 2.5, "beta_fast": None},
            },
            RopeScaling("yarn", 2.5, original_max_positions=64),
            160,
        ),
        # 0.1 · 2 ln 4 + 1 = 1.2772589 over 0.1 · 0.5 ln 4 + 1 = 1.0693147.
        (
            {
                "max_position_embeddings": 64,
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "mscale": 2.0,
                    "mscale_all_dim": 0.5,
                },
            },
            RopeScaling("yarn", 4.0, original_max_positions=64, attention_factor=1.19446488),
            256,
        ),
    ],
)
def test_read_config_of_yarn(copied, tmp_path, changes, expected, max_positions):
    directory = copied(**{"rope_parameters": None, "rope_theta": 10_000.0} | changes)
    config, params = huggingface.load_model(directory)
    scale = config.rope_scaling.attention_factor
    if scale is not None:
        assert scale == pytest.approx(expected.attention_factor, rel=1e-7)
        expected = dataclasses.replace(expected, attention_factor=scale)
    assert (config.rope_scaling, config.max_positions) == (expected, max_positions)
    huggingface.save(tmp_path / "saved", config, params)
    assert huggingface.read_config(tmp_path / "saved" / "config.json") == config


def test_read_config_defaults(copied):
    directory = copied(head_dim=None, tie_word_embeddings=None, num_key_value_heads=None)
    config = huggingface.read_config(directory / "config.json")
    assert (config.head_dim, config.tied_head, config.num_kv_heads) == (4, False, 4)
    shutil.rmtree(directory)
    directory = copied(model_type="qwen3", head_dim=None)
    assert huggingface.read_config(directory / "config.json").head_dim == 128


def test_load_overrides(copied):
    directory = copied()
    plain, _ = huggingface.load_model(directory)
    config, _ = huggingface.load_model(directory, dtype="bfloat16", remat=True, max_positions=9)
    assert config == dataclasses.replace(plain, dtype="bfloat16", remat=True, max_positions=9)


def test_load_ignores_tied_head_and_rotary_frequencies(copied):
    directory = copied()
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    save_file(tensors, directory / "model.safetensors")
    _, params = huggingface.load_model(directory)
    assert "head" not in params


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type must be one of llama, qwen2, qwen3; got 'gpt2'"),
        ({"model_type": None}, "model_type must be one of llama, qwen2, qwen3; got None"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu'; got 'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window must be False; got True"),
        ({"attention_bias": True}, "attention_bias must be False; got True"),
        ({"mlp_bias": True}, "mlp_bias must be False; got True"),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "partial_rotary_factor must be 1; got 0.5",
        ),
        ({"hidden_size": None}, "hidden_size is missing"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
            "rope type must be default, linear, llama3 or yarn; got 'dynamic'",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": None}},
            "rope type yarn lacks factor",
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0}},
            "rope type llama3 lacks high_freq_factor, original_max_position_embeddings",
        ),
        ({"num_attention_heads": 3}, "num_heads must be a multiple of num_kv_heads, 2; got 3"),
        (
            {"intermediate_size": 32},
            "model.layers.0.mlp.down_proj.weight has shape (16, 24); the checkpoint's config "
            "asks for (16, 32)",
        ),
        ({"num_hidden_layers": 3}, "the checkpoint holds no tensor model.layers.2."),
        (
            {"num_hidden_layers": 1},
            "holds tensors that are not part of a llama model: model.layers.1.input_layernorm.weight",
        ),
        ({"tie_word_embeddings": False}, "the checkpoint holds no tensor lm_head.weight"),
    ],
)
def test_open_model_raises(copied, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        huggingface.open_model(copied(**changes))


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "I8"])
def test_open_model_refuses_other_types_of_tensors(copied, dtype):
    path = copied() / "model.safetensors"
    stored = path.read_bytes()
    size = 8 + int.from_bytes(stored[:8], "little")
    header = json.loads(stored[8:size])
    start, end = header["model.norm.weight"]["data_offsets"]
    count = end - start  # as many numbers of one byte
    header["model.norm.weight"] |= {"dtype": dtype, "shape": [count]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + stored[size:])
    message = f"tensor model.norm.weight must be stored as F64, F32, F16, BF16; got {dtype}"
    with pytest.raises(ValueError, match=message):
        huggingface.open_model(path.parent)


def test_open_model_raises_on_missing_files(copied):
    directory = copied("qwen2_sharded")
    (directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"names model-00002-of-00002.safetensors, which does"
    ):
        huggingface.open_model(directory)
    (directory / "model.safetensors.index.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"neither model.safetensors nor model.safetensors."
    ):
        huggingface.open_model(directory)
    (directory / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config.json in"):
        huggingface.open_model(directory)


def test_save_writes_the_format_of_transformers(tmp_path):
    config, params = huggingface.load_model(FIXTURES / "qwen3")
    huggingface.save(tmp_path, config, params)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["architectures"] == ["Qwen3ForCausalLM"]
    original = json.loads((FIXTURES / "qwen3" / "config.json").read_text())
    for name in ("model_type", "hidden_size", "head_dim", "intermediate_size", "vocab_size"):
        assert settings[name] == original[name]
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
    stored = load_file(FIXTURES / "qwen3" / "model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == stored.keys()
    for name, tensor in saved.items():
        np.testing.assert_array_equal(tensor, stored[name])


def test_save_raises_on_bias_and_norm(tmp_path):
    config, params = huggingface.load_model(FIXTURES / "qwen3")
    both = dataclasses.replace(config, qkv_bias=True)
    with pytest.raises(ValueError, match="no family has both qkv_bias and qk_norm"):
        huggingface.save(tmp_path, both, params)


def test_load_model_expands_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", str(FIXTURES))
    config, _ = huggingface.load_model("~/qwen3", remat=True)
    assert config.qk_norm
    assert config.remat


def test_load_model_raises_on_missing_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model at .*nowhere.gguf: .*`make smollm2`"):
        huggingface.load_model(tmp_path / "nowhere.gguf")


def test_import_is_lazy():
    code = (
        "import sys, experiments.models.huggingface, experiments.models.tokenizer\n"
        "print(sorted({'gguf', 'tokenizers', 'safetensors', 'torch'} & set(sys.modules)))"
    )
    command, root = [sys.executable, "-c", code], Path(__file__).parents[3]
    assert subprocess.check_output(command, cwd=root, text=True).strip() == "[]"
