"""Tokenizers from tokenizer.json or from the metadata of a GGUF file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.models import gguf
from experiments.models.config import read_json, reading

# How text is split before the byte-pair merges, by a GGUF file's `tokenizer.ggml.pre`: (pattern, or
# None for the GPT-2 split; single digits; Unicode normalization to NFC; whole words first).
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_SPLITS = {
    "gpt-2": (None, False, False, False),
    "smollm": (None, True, False, False),
    "qwen2": (_QWEN2, False, True, False),
    "llama-bpe": (_LLAMA3, False, False, True),
}
_CONTROL, _USER_DEFINED = 3, 4


@dataclass(frozen=True)
class Tokenizer:
    """Converts text to token ids and back.

    Args:
      backend: a tokenizers.Tokenizer.
      eos_id: the token that ends a completion.
      pad_id: the padding token; `eos_id` if the model has no padding token.
    """

    backend: Any
    eos_id: int
    pad_id: int

    @property
    def vocab_size(self):
        """Number of token ids."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text):
        """Returns the token ids of `text`, without added tokens or a chat template."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        """Returns the text of token ids, without special tokens."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, directory):
        """Writes tokenizer.json and tokenizer_config.json, for `load` and for transformers."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(directory / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.backend.id_to_token(self.eos_id),
            "pad_token": self.backend.id_to_token(self.pad_id),
        }
        path = directory / "tokenizer_config.json"
        path.write_text(json.dumps(settings, indent=2) + "\n")


def load(path):
    """Reads a tokenizer.

    Args:
      path: a directory with tokenizer.json, or a GGUF file.

    Returns:
      A Tokenizer.

    Raises:
      FileNotFoundError: there is no tokenizer at `path`.
      ValueError: its kind is not supported, or it has no end-of-sequence token.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _from_directory(path)
    if path.is_file():
        return _from_gguf(path)
    raise FileNotFoundError(f"no tokenizer at {path}: neither a directory nor a GGUF file")


def _from_directory(directory):
    from tokenizers import Tokenizer as Backend

    file = directory / "tokenizer.json"
    if not file.is_file():
        raise FileNotFoundError(f"no tokenizer.json in {directory}")
    with reading(file):
        backend = Backend.from_file(str(file))
    backend.no_truncation()
    backend.no_padding()
    named = _json(directory / "tokenizer_config.json")
    numbered = _json(directory / "config.json")
    with reading(directory):
        eos_id = _special("eos", backend, named, numbered)
        if eos_id is None:
            raise ValueError("neither tokenizer_config.json nor config.json names an eos")
        pad_id = _special("pad", backend, named, numbered)
        return _checked(Tokenizer(backend, eos_id, eos_id if pad_id is None else pad_id))


def _checked(tokenizer):
    for name in ("eos_id", "pad_id"):
        token = getattr(tokenizer, name)
        if type(token) is not int or not 0 <= token < tokenizer.vocab_size:
            allowed = f"a whole number in 0..{tokenizer.vocab_size - 1}"
            raise ValueError(f"{name} must be {allowed}; got {token!r}")
    return tokenizer


def _json(path):
    return read_json(path) if path.is_file() else {}


def _special(kind, backend, named, numbered):
    token = named.get(f"{kind}_token")
    if token is not None:
        return backend.token_to_id(token["content"] if isinstance(token, dict) else token)
    ids = numbered.get(f"{kind}_token_id")
    return ids[0] if isinstance(ids, list) else ids


def _from_gguf(path):
    reader = gguf.open_file(path)
    with reading(path):
        return _checked(_of_metadata(path, reader))


def _of_metadata(path, reader):
    from tokenizers import AddedToken, decoders, models, normalizers
    from tokenizers import Tokenizer as Backend

    model = gguf.value(reader, "tokenizer.ggml.model")
    split = gguf.value(reader, "tokenizer.ggml.pre", "gpt-2")
    if model != "gpt2" or split not in _SPLITS:
        raise ValueError(
            f"{path}: the tokenizer must be byte-level BPE (gpt2) with a split among "
            f"{', '.join(_SPLITS)}; got {model!r} with {split!r}"
        )
    pattern, digits, nfc, whole_words = _SPLITS[split]
    tokens = gguf.value(reader, "tokenizer.ggml.tokens")
    merges = gguf.value(reader, "tokenizer.ggml.merges")
    backend = Backend(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in merges],
            ignore_merges=whole_words,
        )
    )
    if nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _pre_tokenizer(pattern, digits)
    backend.decoder = decoders.ByteLevel()
    types = gguf.value(reader, "tokenizer.ggml.token_type")
    for kind, add in ((_CONTROL, backend.add_special_tokens), (_USER_DEFINED, backend.add_tokens)):
        add([AddedToken(t, normalized=False) for t, of in zip(tokens, types) if of == kind])
    eos_id = gguf.value(reader, "tokenizer.ggml.eos_token_id")
    if eos_id is None:
        raise ValueError(f"{path}: tokenizer.ggml.eos_token_id is missing")
    return Tokenizer(backend, eos_id, gguf.value(reader, "tokenizer.ggml.padding_token_id", eos_id))


def _pre_tokenizer(pattern, digits):
    from tokenizers import Regex, pre_tokenizers

    steps = []
    if digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    return pre_tokenizers.Sequence(steps)
