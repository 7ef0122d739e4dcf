"""Writes small GGUF files and byte-pair vocabularies for the tests of their readers."""

import numpy as np
from gguf import GGUFWriter

# The printable stand-ins that byte-level vocabularies have for the bytes of the tests' texts.
_ALPHABET = [*"0123456789+=*abcdefghijklmnopqrstuvwxyz'<>|_.é", "Ġ", "Ċ", "Ã", "©"]
_MERGES = ["Ġ Ġ", "h e", "l l", "he ll", "hell o", "Ġ hello", "1 2", "Ġ 1", "Ã ©"]
SPECIAL = ["<|end|>", "<|pad|>"]
VOCABULARY = [*SPECIAL, *_ALPHABET, *(merge.replace(" ", "") for merge in _MERGES), "<kept>"]

_STORED = {
    "embedding": "token_embd.weight",
    "head": "output.weight",
    "final_norm": "output_norm.weight",
    "attention_norm": "attn_norm.weight",
    "query": "attn_q.weight",
    "query_bias": "attn_q.bias",
    "query_norm": "attn_q_norm.weight",
    "key": "attn_k.weight",
    "key_bias": "attn_k.bias",
    "key_norm": "attn_k_norm.weight",
    "value": "attn_v.weight",
    "value_bias": "attn_v.bias",
    "output": "attn_output.weight",
    "mlp_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
}


def write_gguf(path, family, config, params, *, leave_out=(), metadata=(), tensors=()):
    """Writes a model in float32, with the tokenizer of VOCABULARY.

    `leave_out` names fields and tensors to skip; `metadata` holds (key, string or number), `tensors`
    (name, array) or (name, packed array, its quantisation) to add.
    """
    writer = GGUFWriter(path, family)
    rope_type = config.rope_scaling.kind if config.rope_scaling else None
    fields = {
        "block_count": config.num_layers,
        "embedding_length": config.d_model,
        "feed_forward_length": config.d_ff,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "context_length": config.max_positions,
        "vocab_size": config.vocab_size,
    }
    for name, value in fields.items():
        if name not in leave_out:
            writer.add_uint32(f"{family}.{name}", value)
    writer.add_float32(f"{family}.attention.layer_norm_rms_epsilon", config.norm_eps)
    writer.add_float32(f"{family}.rope.freq_base", config.rope_theta)
    if rope_type:
        writer.add_string(f"{family}.rope.scaling.type", rope_type)
        writer.add_float32(f"{family}.rope.scaling.factor", config.rope_scaling.factor)
    _add_tokenizer(writer, leave_out)
    for key, value in metadata:
        adders = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
        adders[type(value)](key, value)
    for name, value in _tensors(family, config, params):
        if name not in leave_out:
            writer.add_tensor(name, np.ascontiguousarray(value, np.float32))
    for name, value, *quantisation in tensors:
        writer.add_tensor(name, value, None, *quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer, leave_out):
    writer.add_tokenizer_model("gpt2")
    if "tokenizer.ggml.pre" not in leave_out:
        writer.add_tokenizer_pre("smollm")
    writer.add_token_list(VOCABULARY)
    # 1 is a normal token, 3 a control token, 4 one that a user added.
    kinds = [3 if t in SPECIAL else 4 if t == "<kept>" else 1 for t in VOCABULARY]
    writer.add_token_types(kinds)
    writer.add_token_merges(_MERGES)
    if "tokenizer.ggml.eos_token_id" not in leave_out:
        writer.add_eos_token_id(0)
    if "tokenizer.ggml.padding_token_id" not in leave_out:
        writer.add_pad_token_id(1)


def _tensors(family, config, params):
    for name, value in params.items():
        if name != "layers":
            yield _STORED[name], value
    for name, stack in params["layers"].items():
        for layer, value in enumerate(stack):
            # Matrices are stored [out, in].
            rows = value.T if value.ndim == 2 else value
            if family == "llama" and name in ("query", "key"):
                rows = _interleaved(rows, config.head_dim)
            yield f"blk.{layer}.{_STORED[name]}", rows


def _interleaved(rows, head_dim):
    """Rows i and i + d/2 of each head, a rotary pair, become rows 2i and 2i + 1."""
    out = np.empty_like(rows)
    for start in range(0, len(rows), head_dim):
        for i in range(head_dim // 2):
            out[start + 2 * i] = rows[start + i]
            out[start + 2 * i + 1] = rows[start + i + head_dim // 2]
    return out
