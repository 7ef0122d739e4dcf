"""Tokenizers from tokenizer.json or from the metadata of a GGUF file."""

import itertools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
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
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5


@dataclass(frozen=True)
class Tokenizer:
    """Converts text to token ids and back.

    Args:
      backend: a tokenizers.Tokenizer.
      eos_ids: the tokens that end a completion, `eos_id` first.
      pad_id: the padding token; `eos_id` if the model has no padding token.
    """

    backend: Any
    eos_ids: tuple[int, ...]
    pad_id: int

    @property
    def eos_id(self):
        """The end-of-sequence token."""
        return self.eos_ids[0]

    @cached_property
    def vocab_size(self):
        """The largest token id plus one; the embedding may have padding rows from there on."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    def encode(self, text):
        """Returns the token ids of `text`, without added tokens or a chat template."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        """Returns the text of token ids, special tokens included.

        An id without a token becomes U+FFFD: nothing in a completion is dropped, so that 7 and 2
        around a special token are not read as 72.
        """
        runs = itertools.groupby(map(int, ids), lambda i: self.backend.id_to_token(i) is not None)
        return "".join(
            self.backend.decode(list(run), skip_special_tokens=False)
            if known
            else "\ufffd" * len(list(run))
            for known, run in runs
        )

    def save(self, directory):
        """Writes tokenizer.json and its configs, for `load` and for transformers."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(directory / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.backend.id_to_token(self.eos_id),
            "pad_token": self.backend.id_to_token(self.pad_id),
        }
        generation = {"eos_token_id": list(self.eos_ids), "pad_token_id": self.pad_id}
        for name, content in (("tokenizer", settings), ("generation", generation)):
            path = directory / f"{name}_config.json"
            path.write_text(json.dumps(content, indent=2) + "\n")


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
    generation = _json(directory / "generation_config.json")
    with reading(directory):
        template = directory / "chat_template.jinja"
        template = template.read_text() if template.is_file() else named.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = {t["name"]: t["template"] for t in template}.get("default")
        texts = {
            f"{kind}_token": _text(named.get(f"{kind}_token")) for kind in ("bos", "eos", "pad")
        }
        named_ids = _ids("eos", backend, texts, numbered, generation)
        if not named_ids:
            raise ValueError("neither tokenizer_config.json nor config.json names an eos")
        eos_ids = (*dict.fromkeys([*named_ids, *_turn_end(directory, backend, template, texts)]),)
        pad_ids = _ids("pad", backend, texts, numbered)
        return _checked(Tokenizer(backend, eos_ids, pad_ids[0] if pad_ids else eos_ids[0]))


def _checked(tokenizer):
    allowed = f"a whole number in 0..{tokenizer.vocab_size - 1}"
    for token in (*tokenizer.eos_ids, tokenizer.pad_id):
        if type(token) is not int or not 0 <= token < tokenizer.vocab_size:
            raise ValueError(f"the ids of eos and pad must be {allowed}; got {token!r}")
    return tokenizer


def _json(path):
    return read_json(path) if path.is_file() else {}


def _text(token):
    return token["content"] if isinstance(token, Mapping) else token


def _ids(kind, backend, texts, *configs):
    """Token ids of one kind, from the text in tokenizer_config.json, then from other configs."""
    text = texts[f"{kind}_token"]
    found = [None if text is None else backend.token_to_id(text)]
    for config in configs:
        ids = config.get(f"{kind}_token_id")
        found += ids if isinstance(ids, list) else [ids]
    return [i for i in found if i is not None]


def _turn_end(path, backend, template, texts):
    """The special token that the chat template writes after an answer, in a list, or none."""
    if not template:
        return []
    import jinja2.sandbox

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    answer = "the answer"
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    try:
        text = environment.from_string(template).render(
            {name: token for name, token in texts.items() if token is not None},
            messages=messages,
            add_generation_prompt=False,
            strftime_now=lambda _: "",
        )
    except Exception as error:  # the template's code may raise anything
        logging.getLogger(__name__).warning("%s: chat template not read: %s", path, error)
        return []
    after = backend.encode(text.rpartition(answer)[2].lstrip(), add_special_tokens=False).ids[:1]
    special = backend.get_added_tokens_decoder()
    return [i for i in after if answer in text and i in special and special[i].special]


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
    types = gguf.value(reader, "tokenizer.ggml.token_type")
    backend = Backend(
        models.BPE(
            vocab={t: i for i, (t, kind) in enumerate(zip(tokens, types)) if kind != _UNUSED},
            merges=[tuple(merge.split(" ")) for merge in merges],
            ignore_merges=whole_words,
        )
    )
    if nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _pre_tokenizer(pattern, digits)
    backend.decoder = decoders.ByteLevel()
    for kind, add in ((_CONTROL, backend.add_special_tokens), (_USER_DEFINED, backend.add_tokens)):
        add([AddedToken(t, normalized=False) for t, of in zip(tokens, types) if of == kind])
    eos_id = gguf.value(reader, "tokenizer.ggml.eos_token_id")
    if eos_id is None:
        raise ValueError(f"{path}: tokenizer.ggml.eos_token_id is missing")
    # The ends of a turn and of a message to a tool, which llama.cpp stops at as well.
    ids = [eos_id, *(gguf.value(reader, f"tokenizer.ggml.{k}_token_id") for k in ("eot", "eom"))]
    bos_id = gguf.value(reader, "tokenizer.ggml.bos_token_id")
    texts = {"eos_token": tokens[eos_id], "bos_token": None if bos_id is None else tokens[bos_id]}
    template = gguf.value(reader, "tokenizer.chat_template")
    ids += _turn_end(path, backend, template, texts)
    eos_ids = tuple(dict.fromkeys(i for i in ids if i is not None))
    return Tokenizer(
        backend, eos_ids, gguf.value(reader, "tokenizer.ggml.padding_token_id", eos_id)
    )


def _pre_tokenizer(pattern, digits):
    from tokenizers import Regex, pre_tokenizers

    steps = []
    if digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    return pre_tokenizers.Sequence(steps)
