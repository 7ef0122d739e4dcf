"""Tokenizers from tokenizer.json or from the metadata of a GGUF file."""

import itertools
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.models import gguf
from experiments.models.chat import ChatTemplate, default_template
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
# The tokens that transformers gives to chat templates, as bos_token and so on.
_KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True)
class Tokenizer:
    """Converts text and chats to token ids, and ids to text.

    Args:
      backend: a tokenizers.Tokenizer.
      eos_ids: the tokens that end a completion, `eos_id` first.
      pad_id: the padding token; `eos_id` if the model has no padding token.
      chat_template: of the model; None if it has none.
      turn_end_id: the special token that the chat template writes after an answer, if any.
      path: where it was read, for error messages.
    """

    backend: Any
    eos_ids: tuple[int, ...]
    pad_id: int
    chat_template: ChatTemplate | None = None
    turn_end_id: int | None = None
    path: str = ""

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

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Returns a conversation as the model's chat template writes it; see ChatTemplate.render.

        `encode` would read special tokens in the messages as such; `encode_chat` does not.

        Raises:
          ValueError: there is no chat template, or it cannot be rendered.
        """
        if self.chat_template is None:
            raise ValueError(f"{self.path}: its tokenizer must have a chat template, it has none")
        return self.chat_template.render(messages, add_generation_prompt, **variables)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[int]:
        """Returns the token ids of a conversation.

        Special tokens are those that the template writes, a BOS among them; no other is added. In
        the messages and variables their texts are encoded as any text: no data can end a turn.
        """
        tokens = self.backend.get_added_tokens_decoder().values()
        special = sorted((t.content for t in tokens if t.special), key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, filter(None, special))) or r"(?!)")
        # In the messages a letter that no text has stands for a special token, until the template
        # has been rendered.
        given = json.dumps([list(messages), variables], ensure_ascii=False, default=str)
        free = (letter for letter in map(chr, range(0xE000, 0xF900)) if letter not in given)
        letters: dict[str, str] = {}

        def hide(text: str) -> str:
            return pattern.sub(
                lambda m: letters.get(m[0]) or letters.setdefault(m[0], next(free)), text
            )

        hidden, values = _map_texts(hide, (list(messages), variables))
        rendered = self.render_chat(hidden, add_generation_prompt, **values)
        if not letters:
            return self.encode(rendered)
        texts = str.maketrans({letter: text for text, letter in letters.items()})
        ids, start = [], 0
        for found in pattern.finditer(rendered):
            ids += self._encode_as_text(rendered[start : found.start()].translate(texts))
            ids.append(self.backend.token_to_id(found[0]))
            start = found.end()
        return ids + self._encode_as_text(rendered[start:].translate(texts))

    def _encode_as_text(self, text):
        return self._without_special_tokens.encode(text, add_special_tokens=False).ids

    @cached_property
    def _without_special_tokens(self):
        """A tokenizers.Tokenizer that takes the texts of special tokens for any text."""
        backend = type(self.backend).from_str(self.backend.to_str())
        backend.encode_special_tokens = True
        return backend

    def with_end_tokens(self, texts: Sequence[str]) -> "Tokenizer":
        """Returns a tokenizer with further end tokens, those of config.sampling.end_tokens.

        Raises:
          ValueError: a text is not one token.
        """
        ids = [self.backend.token_to_id(text) for text in texts]
        for text, i in zip(texts, ids):
            if i is None:
                raise ValueError(
                    f"config.sampling.end_tokens must be tokens of {self.path}, got {text!r}"
                )
        return replace(self, eos_ids=(*dict.fromkeys([*self.eos_ids, *ids]),))

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
        """Writes tokenizer.json, its configs and the template, for `load` and transformers."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(directory / "tokenizer.json"))
        template = self.chat_template
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **(template.tokens if template else {}),
            "eos_token": self.backend.id_to_token(self.eos_id),
            "pad_token": self.backend.id_to_token(self.pad_id),
        }
        if template:
            path = directory / "chat_template.jinja"
            path.write_text(template.text, encoding="utf-8", newline="")
        generation = {"eos_token_id": list(self.eos_ids), "pad_token_id": self.pad_id}
        for name, content in (("tokenizer", settings), ("generation", generation)):
            path = directory / f"{name}_config.json"
            path.write_text(json.dumps(content, indent=2) + "\n")


def _map_texts(change, value):
    """Applies `change` to all strings of nested lists and dicts, keys excepted."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _map_texts(change, part) for name, part in value.items()}
    return [_map_texts(change, x) for x in value] if isinstance(value, (list, tuple)) else value


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
        file = directory / "chat_template.jinja"
        template = (
            file.read_text(encoding="utf-8")
            if file.is_file()
            else default_template(named.get("chat_template"))
        )
        texts = {f"{kind}_token": _text(named.get(f"{kind}_token")) for kind in _KINDS}
        named_ids = _ids("eos", backend, texts, numbered, generation)
        if not named_ids:
            raise ValueError("neither tokenizer_config.json nor config.json names an eos")
        pad_ids = _ids("pad", backend, texts, numbered)
        return _with_chat(
            directory, backend, named_ids, [*pad_ids, named_ids[0]][0], template, texts
        )


def _with_chat(path, backend, end_ids, pad_id, template, texts):
    """The tokenizer, which ends a completion at the end of a turn too."""
    chat, turn_end = None, None
    if template:
        tokens = {name: token for name, token in texts.items() if token is not None}
        chat = ChatTemplate(template, tokens, str(path))
        turn_end = _turn_end(backend, chat)
    ids = [*end_ids, *([] if turn_end is None else [turn_end])]
    return _checked(Tokenizer(backend, (*dict.fromkeys(ids),), pad_id, chat, turn_end, str(path)))


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


def _turn_end(backend, chat):
    """The special token that the chat template writes after an answer, or None."""
    try:
        text = chat.after_answer()
    except ValueError as error:
        logging.getLogger(__name__).warning("%s", error)
        return None
    special = backend.get_added_tokens_decoder()
    after = backend.encode(text, add_special_tokens=False).ids[:1]
    return next((i for i in after if i in special and special[i].special), None)


def _from_gguf(path):
    reader = gguf.open_file(path)
    with reading(path):
        return _of_metadata(path, reader)


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
    # "seperator" is how GGUF spells it.
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding"}
    numbers = {
        kind: gguf.value(reader, f"tokenizer.ggml.{n}_token_id") for kind, n in named.items()
    }
    texts = {f"{kind}_token": None if i is None else tokens[i] for kind, i in numbers.items()}
    pad_id = eos_id if numbers["pad"] is None else numbers["pad"]
    template = gguf.value(reader, "tokenizer.chat_template")
    end_ids = [i for i in ids if i is not None]
    return _with_chat(path, backend, end_ids, pad_id, template, texts)


def _pre_tokenizer(pattern, digits):
    from tokenizers import Regex, pre_tokenizers

    steps = []
    if digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    return pre_tokenizers.Sequence(steps)
