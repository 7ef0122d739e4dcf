"""Reads GGUF files, dequantized to float32."""

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any

from experiments.models import weights
from experiments.models.config import ModelConfig, RopeScaling, reading, scaled_context

FAMILIES = ("llama", "qwen2", "qwen3")

_NAMES = {
    "embedding": "token_embd.weight",
    "head": "output.weight",
    "final_norm": "output_norm.weight",
    "attention_norm": "blk.{layer}.attn_norm.weight",
    "query": "blk.{layer}.attn_q.weight",
    "query_bias": "blk.{layer}.attn_q.bias",
    "query_norm": "blk.{layer}.attn_q_norm.weight",
    "key": "blk.{layer}.attn_k.weight",
    "key_bias": "blk.{layer}.attn_k.bias",
    "key_norm": "blk.{layer}.attn_k_norm.weight",
    "value": "blk.{layer}.attn_v.weight",
    "value_bias": "blk.{layer}.attn_v.bias",
    "output": "blk.{layer}.attn_output.weight",
    "mlp_norm": "blk.{layer}.ffn_norm.weight",
    "gate": "blk.{layer}.ffn_gate.weight",
    "up": "blk.{layer}.ffn_up.weight",
    "down": "blk.{layer}.ffn_down.weight",
}


def open_file(path):
    """Opens a GGUF file.

    Args:
      path: of the file.

    Returns:
      A gguf.GGUFReader.

    Raises:
      ValueError: the file is not GGUF.
    """
    from gguf import GGUFReader

    with Path(path).open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is not a GGUF file")
    with reading(path):
        return GGUFReader(path)


def value(reader, key, default=None) -> Any:
    """Returns the metadata field `key` of an open file, or `default` if it is missing."""
    field = reader.get_field(key)
    return default if field is None else field.contents()


@contextlib.contextmanager
def open_checkpoint(path, **overrides):
    """Opens a model of the llama, qwen2 or qwen3 architecture.

    Args:
      path: of a GGUF file, with any quantization that the `gguf` package supports.
      **overrides: fields of ModelConfig to set, such as dtype, remat or max_positions.

    Yields:
      (ModelConfig, weights.Checkpoint), checked against each other.

    Raises:
      ValueError: the architecture or its scaling is not supported, or tensors do not match.
    """
    reader = open_file(path)
    with reading(path):
        opened = _open(path, reader, overrides)
    yield opened


def _open(path, reader, overrides):
    from gguf.quants import dequantize

    tensors = {tensor.name: tensor for tensor in reader.tensors}
    family = value(reader, "general.architecture")
    config = dataclasses.replace(_config(path, reader, family, tensors), **overrides)
    surplus = set(tensors) - weights.stored_names(config, _NAMES)
    if surplus:
        raise ValueError(
            f"{path} holds tensors that are not part of a {family} model: "
            f"{', '.join(sorted(surplus)[:5])}"
        )

    # The parts of a tensor are read one after another.
    @functools.lru_cache(maxsize=1)
    def whole(name):
        tensor = tensors[name]
        array = dequantize(tensor.data, tensor.tensor_type)
        if family == "llama" and ".attn_q." in name:
            return _unpermute(array, config.num_heads)
        if family == "llama" and ".attn_k." in name:
            return _unpermute(array, config.num_kv_heads)
        return array

    checkpoint = weights.Checkpoint(
        path=path,
        names=_NAMES,
        # GGUF names the axes from the last to the first.
        shapes={name: tuple(map(int, tensor.shape[::-1])) for name, tensor in tensors.items()},
        read=lambda name, index: whole(name)[index],
    )
    weights.check(config, checkpoint)
    return config, checkpoint


def _config(path, reader, family, tensors):
    if family not in FAMILIES:
        raise ValueError(
            f"{path}: general.architecture must be one of {', '.join(FAMILIES)}; got {family!r}"
        )

    def field(name):
        found = value(reader, f"{family}.{name}")
        if found is None:
            raise ValueError(f"{path}: {family}.{name} is missing")
        return found

    width, heads = field("embedding_length"), field("attention.head_count")
    head_dim = value(reader, f"{family}.attention.key_length", width // heads)
    rotated = value(reader, f"{family}.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise ValueError(
            f"{path}: all {head_dim} dimensions of a head must be rotated; got {rotated}"
        )
    embedding = tensors.get(_NAMES["embedding"])
    if embedding is None:
        raise ValueError(f"{path} holds no tensor {_NAMES['embedding']}")
    scaling = _rope_scaling(path, reader, family, tensors)
    return ModelConfig(
        vocab_size=int(embedding.shape[1]),
        num_layers=field("block_count"),
        d_model=width,
        num_heads=heads,
        num_kv_heads=value(reader, f"{family}.attention.head_count_kv", heads),
        head_dim=head_dim,
        d_ff=field("feed_forward_length"),
        rope_theta=value(reader, f"{family}.rope.freq_base", 10_000.0),
        rope_scaling=scaling,
        # Stored in float32: the shortest decimal form recovers the original number.
        norm_eps=float(f"{field('attention.layer_norm_rms_epsilon'):.7g}"),
        tied_head=_NAMES["head"] not in tensors,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        max_positions=scaled_context(field("context_length"), scaling),
    )


def _rope_scaling(path, reader, family, tensors):
    """As llama.cpp reads it: without a type it is linear; 0 is no factor; an older key exists."""
    kind = value(reader, f"{family}.rope.scaling.type", "linear")
    if "rope_freqs.weight" in tensors:
        kind = "rope_freqs.weight"
    older = value(reader, f"{family}.rope.scale_linear")
    factor = value(reader, f"{family}.rope.scaling.factor", older)
    if kind == "none" or (kind == "linear" and factor in (None, 0, 1)):
        return None
    if kind == "linear":
        return RopeScaling("linear", factor)
    if kind == "yarn":
        return _yarn(path, reader, family, factor)
    raise ValueError(
        f"{path}: rope scaling must be none, linear or yarn in a GGUF file; got {kind}"
    )


def _yarn(path, reader, family, factor):
    """As llama.cpp reads it; the settings that it has beside those of the paper must be neutral."""
    prefix = f"{family}.rope.scaling"
    if factor is None:
        raise ValueError(f"{path}: {prefix}.factor is missing")
    neutral = {
        "yarn_ext_factor": 1,
        "yarn_attn_factor": 1,
        "attn_factor": 1,
        "yarn_log_multiplier": 0,
    }
    for name, expected in neutral.items():
        found = value(reader, f"{prefix}.{name}", expected)
        if found != expected:
            raise ValueError(f"{path}: {prefix}.{name} must be {expected}; got {found}")
    context = value(reader, f"{family}.context_length")
    return RopeScaling(
        "yarn",
        factor,
        original_max_positions=value(reader, f"{prefix}.original_context_length", context),
        beta_fast=value(reader, f"{prefix}.yarn_beta_fast", 32.0),
        beta_slow=value(reader, f"{prefix}.yarn_beta_slow", 1.0),
    )


def _unpermute(array, heads):
    """Undoes the interleaving of a head's halves in files of the llama architecture."""
    paired = array.reshape(heads, -1, 2, *array.shape[1:])
    return paired.swapaxes(1, 2).reshape(array.shape)
