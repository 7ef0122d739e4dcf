"""Reads and writes Hugging Face directories: config.json and safetensors."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.models import gguf, weights
from experiments.models.config import (
    ModelConfig,
    RopeScaling,
    read_json,
    reading,
    scaled_context,
)

FAMILIES = ("llama", "qwen2", "qwen3")
SAVED_DTYPES = ("bfloat16", "float16", "float32")

_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "final_norm": "model.norm.weight",
    "attention_norm": "model.layers.{layer}.input_layernorm.weight",
    "query": "model.layers.{layer}.self_attn.q_proj.weight",
    "query_bias": "model.layers.{layer}.self_attn.q_proj.bias",
    "query_norm": "model.layers.{layer}.self_attn.q_norm.weight",
    "key": "model.layers.{layer}.self_attn.k_proj.weight",
    "key_bias": "model.layers.{layer}.self_attn.k_proj.bias",
    "key_norm": "model.layers.{layer}.self_attn.k_norm.weight",
    "value": "model.layers.{layer}.self_attn.v_proj.weight",
    "value_bias": "model.layers.{layer}.self_attn.v_proj.bias",
    "output": "model.layers.{layer}.self_attn.o_proj.weight",
    "mlp_norm": "model.layers.{layer}.post_attention_layernorm.weight",
    "gate": "model.layers.{layer}.mlp.gate_proj.weight",
    "up": "model.layers.{layer}.mlp.up_proj.weight",
    "down": "model.layers.{layer}.mlp.down_proj.weight",
}

_DTYPES = ("F64", "F32", "F16", "BF16")

# {a rope type: {a field of RopeScaling that it needs: its name in config.json}}
_ROPE_FIELDS = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_positions": "original_max_position_embeddings",
    },
    "yarn": {"factor": "factor", "original_max_positions": "original_max_position_embeddings"},
}
_YARN_OPTIONS = ("beta_fast", "beta_slow", "attention_factor", "truncate")


def open_model(path, **overrides) -> tuple[ModelConfig, Callable[..., Any]]:
    """Checks a GGUF file or a Hugging Face directory, and reads its config.

    Args:
      path: of the file or directory; "~" is the home directory.
      **overrides: fields of ModelConfig to set, such as dtype, remat or max_positions.

    Returns:
      (ModelConfig, load). Each call of load(shardings=None, dtype=np.float32) reads the parameters
      anew, onto devices or into numpy arrays; see weights.load.

    Raises:
      FileNotFoundError: `path` does not exist, or the directory lacks a file.
      ValueError: the model is not supported, or tensors are missing or of another shape.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"no model at {path}: it must be a GGUF file (`make smollm2` fetches one) or a "
            "directory with config.json and model.safetensors"
        )
    opened = open_directory if path.is_dir() else gguf.open_checkpoint

    def load_params(shardings=None, dtype=np.float32):
        with opened(path, **overrides) as (config, checkpoint):
            return weights.load(config, checkpoint, shardings, dtype)

    with opened(path, **overrides) as (config, _):
        return config, load_params


def load_model(path, **overrides):
    """Reads a model to the host; see `open_model`.

    Returns:
      (ModelConfig, params), the parameters in numpy float32 for any stored dtype.
    """
    config, load_params = open_model(path, **overrides)
    return config, load_params()


@contextlib.contextmanager
def open_directory(directory, **overrides):
    """Opens a Llama (such as SmolLM2), Qwen2, Qwen2.5 or Qwen3 model.

    Args:
      directory: with config.json and model.safetensors, or model.safetensors.index.json and its
        shards.
      **overrides: fields of ModelConfig to set, such as dtype, remat or max_positions.

    Yields:
      (ModelConfig, weights.Checkpoint), checked against each other.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the architecture or one of its settings is not supported, or tensors do not match.
    """
    directory = Path(directory)
    config = dataclasses.replace(read_config(directory / "config.json"), **overrides)
    with contextlib.ExitStack() as stack:
        with reading(directory):
            checkpoint = _checkpoint(directory, config, _readers(directory, stack))
        yield config, checkpoint


def _checkpoint(directory, config, readers):
    names = weights.stored_names(config, _NAMES)
    surplus = {name for name in set(readers) - names if not _is_redundant(config, name)}
    if surplus:
        raise ValueError(
            f"{directory} holds tensors that are not part of a {_family(config)} model: "
            f"{', '.join(sorted(surplus)[:5])}"
        )
    slices = {name: readers[name].get_slice(name) for name in sorted(names & set(readers))}
    for name, tensor in slices.items():
        dtype = tensor.get_dtype()
        if dtype not in _DTYPES:
            raise ValueError(
                f"{directory}: tensor {name} must be stored as {', '.join(_DTYPES)}; got {dtype}"
            )
    checkpoint = weights.Checkpoint(
        path=directory,
        names=_NAMES,
        shapes={name: tuple(tensor.get_shape()) for name, tensor in slices.items()},
        read=lambda name, index: slices[name][index],
    )
    weights.check(config, checkpoint)
    return checkpoint


def save(directory, config, params, dtype="float32", shard_bytes=5 * 10**9):
    """Writes a model for `load_model` and transformers.

    Until a file is written the host holds all of it (safetensors has no writer of single tensors),
    and the next tensor two or three times: in float32, in the order of the file, in `dtype`.

    Args:
      directory: created if needed; config.json and the weights are replaced: model.safetensors, or
        shards and model.safetensors.index.json.
      config: a ModelConfig of the Llama, Qwen2 or Qwen3 family.
      params: its parameters, numpy or on devices of this process.
      dtype: of the weights, one of SAVED_DTYPES.
      shard_bytes: most bytes of weights in one file that holds several tensors.

    Raises:
      ValueError: no family has both qkv_bias and qk_norm; or a weight is too large for `dtype`.
    """
    settings = _settings(config) | {"dtype": dtype, "torch_dtype": dtype}
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for old in ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"):
        for path in directory.glob(old):
            path.unlink()
    tensors = ((name, cast(name, x, dtype)) for name, x in weights.unstack(_NAMES, params))
    _save_shards(directory, tensors, shard_bytes)
    (directory / "config.json").write_text(json.dumps(settings, indent=2) + "\n")


def stored_name(name, layer):
    """Returns the checkpoint's name of one layer's tensor by our name."""
    return _NAMES[name].format(layer=layer)


def cast(name, tensor, dtype):
    """Casts a tensor; raises a ValueError with its name if it is not finite in `dtype`."""
    # A weight beyond the range of the dtype becomes an infinity, which the check finds.
    with np.errstate(over="ignore"):
        out = tensor.astype(jnp.dtype(dtype))
    if not np.all(np.isfinite(out)):
        raise ValueError(f"{name} must hold numbers that are finite in {dtype}, it holds others")
    return out


def save_tensors(path, tensors):
    """Writes arrays by name to one safetensors file."""
    from safetensors.numpy import save_file

    path.touch()
    mode = path.stat().st_mode  # safetensors makes files that only their owner can read
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(mode)


def _save_shards(directory, tensors, shard_bytes):
    """Writes (name, array) pairs, in order, to as few files as their order permits."""
    shard, shards, total = {}, [], 0

    def write():
        path = directory / f"{len(shards)}.part"
        save_tensors(path, shard)
        shards.append((path, [*shard]))
        shard.clear()

    for name, tensor in tensors:
        if shard and sum(x.nbytes for x in shard.values()) + tensor.nbytes > shard_bytes:
            write()
        shard[name] = tensor
        total += tensor.nbytes
    write()
    if len(shards) == 1:
        shards[0][0].replace(directory / "model.safetensors")
        return
    weight_map = {}
    for number, (path, names) in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        path.replace(directory / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def read_config(path):
    """Reads a ModelConfig from a config.json.

    Args:
      path: of a config.json.

    Returns:
      A ModelConfig.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the architecture or one of its settings is not supported, or a field is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}")
    settings = read_json(path)
    with reading(path):
        return _model_config(path, settings)


def _model_config(path, settings):
    family = settings.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"{path}: model_type must be one of {', '.join(FAMILIES)}; got {family!r}")
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    _check_settings(path, settings | rope)

    def field(name):
        if settings.get(name) is None:
            raise ValueError(f"{path}: {name} is missing")
        return settings[name]

    max_positions = field("max_position_embeddings")
    scaling = _rope_scaling(path, rope, max_positions)
    heads = field("num_attention_heads")
    head_dim = settings.get("head_dim")
    if head_dim is None:
        # transformers' defaults.
        head_dim = 128 if family == "qwen3" else field("hidden_size") // heads
    return ModelConfig(
        vocab_size=field("vocab_size"),
        num_layers=field("num_hidden_layers"),
        d_model=field("hidden_size"),
        num_heads=heads,
        num_kv_heads=settings.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        d_ff=field("intermediate_size"),
        rope_theta=rope.get("rope_theta") or settings.get("rope_theta") or 10_000.0,
        rope_scaling=scaling,
        norm_eps=field("rms_norm_eps"),
        tied_head=settings.get("tie_word_embeddings") or False,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        max_positions=scaled_context(max_positions, scaling),
    )


def _check_settings(path, settings):
    """Rejects settings that would change the computation and are not implemented."""
    supported = {
        "hidden_act": "silu",
        "use_sliding_window": False,
        "attention_bias": False,
        "mlp_bias": False,
        "partial_rotary_factor": 1,
    }
    for name, value in supported.items():
        found = settings.get(name)
        if found is not None and found != value:
            raise ValueError(f"{path}: {name} must be {value!r}; got {found!r}")


def _rope_scaling(path, rope, max_positions):
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind not in _ROPE_FIELDS:
        raise ValueError(f"{path}: rope type must be default, linear, llama3 or yarn; got {kind!r}")
    rope = {name: value for name, value in rope.items() if value is not None}
    options = {}
    if kind == "yarn":  # with transformers' defaults
        rope = {"original_max_position_embeddings": max_positions} | rope
        options = {name: rope[name] for name in _YARN_OPTIONS if name in rope}
    fields = _ROPE_FIELDS[kind]
    missing = [name for name in fields.values() if name not in rope]
    if missing:
        raise ValueError(f"{path}: rope type {kind} lacks {', '.join(missing)}")
    scaling = RopeScaling(kind, **{ours: rope[name] for ours, name in fields.items()}, **options)
    mscale, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
    if kind == "yarn" and scaling.attention_factor is None and mscale and all_dim:
        top, bottom = (0.1 * m * math.log(scaling.factor) + 1 for m in (mscale, all_dim))
        scaling = dataclasses.replace(scaling, attention_factor=top / bottom)
    return scaling


def _readers(directory, stack) -> dict[str, Any]:
    """Maps each tensor's name to the open file that holds it."""
    from safetensors import safe_open

    single, index = (directory / f"model.safetensors{end}" for end in ("", ".index.json"))
    if single.is_file():
        with reading(single):
            file = stack.enter_context(safe_open(single, framework="numpy"))
        return dict.fromkeys(file.keys(), file)
    if not index.is_file():
        raise FileNotFoundError(f"neither {single.name} nor {index.name} in {directory}")
    weight_map: Any = read_json(index).get("weight_map")
    with reading(index):
        names = sorted({str(name) for name in weight_map.values()})
    files = {}
    for name in names:
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{index} names {name}, which does not exist")
        with reading(directory / name):
            files[name] = stack.enter_context(safe_open(directory / name, framework="numpy"))
    return {tensor: files[str(name)] for tensor, name in weight_map.items()}


def _is_redundant(config, name):
    # Some checkpoints repeat a tied head, or store the rotary frequencies.
    return (config.tied_head and name == _NAMES["head"]) or name.endswith("rotary_emb.inv_freq")


def _family(config):
    if config.qkv_bias and config.qk_norm:
        raise ValueError("no family has both qkv_bias and qk_norm; got both")
    return "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"


def _settings(config):
    family = _family(config)
    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    return {
        "architectures": [f"{names[family]}ForCausalLM"],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.d_model,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.d_ff,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
        "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_settings(config.rope_scaling),
    }


def _rope_settings(scaling):
    if scaling is None:
        return None
    fields = _ROPE_FIELDS[scaling.kind]
    if scaling.kind == "yarn":
        fields = fields | {name: name for name in _YARN_OPTIONS}
    values = {name: getattr(scaling, ours) for ours, name in fields.items()}
    return {"rope_type": scaling.kind} | {k: v for k, v in values.items() if v is not None}
