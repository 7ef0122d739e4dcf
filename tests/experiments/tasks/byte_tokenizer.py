"""A tokenizer that needs no file: bytes, and a few words that are one token."""

import dataclasses
import re

SPECIAL = ("<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>")


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """Token i < 256 is byte i; 256.. are the special words."""

    special: tuple[str, ...] = SPECIAL

    @property
    def eos_id(self):
        return 256

    @property
    def pad_id(self):
        return 257

    @property
    def vocab_size(self):
        return 256 + len(self.special)

    @property
    def chat_template(self):
        return "chatml" if "<|im_end|>" in self.special else None

    @property
    def turn_end_id(self):
        return 256 + self.special.index("<|im_end|>")

    def encode_chat(self, messages, **variables):
        turns = (f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        return self.encode(f"{''.join(turns)}<|im_start|>assistant\n{variables.get('lead', '')}")

    def encode(self, text):
        tokens = []
        for part in re.split("(" + "|".join(map(re.escape, self.special)) + ")", text):
            if part in self.special:
                tokens.append(256 + self.special.index(part))
            else:
                tokens += part.encode()
        return tokens

    def decode(self, tokens):
        pieces = (bytes([t]) if t < 256 else self.special[t - 256].encode() for t in tokens)
        return b"".join(pieces).decode(errors="replace")
