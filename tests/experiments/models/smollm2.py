"""Where SmolLM2's GGUF file is on this machine, and the texts it is compared on."""

import os
from pathlib import Path

from experiments.models.smollm2 import FILE

PROMPTS = (
    ("The capital of France is", " Paris. It lies on the Seine."),
    ("2 + 3 = 5\n4 * 2 = 8\n9 - 6 = 3\n7 + 1 = 8\n6 + 3 =", " 9\n"),
    ("def fibonacci(n):\n", "    if n <= 1:\n        return n\n"),
    ("<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n", "Blue<|im_end|>"),
)

TEXTS = (
    "Hello, world!",
    "12 + 34 = 46\n  7*8 = 56",
    "  three  spaces   and\ttabs\n\n\nlines \n",
    "I'll say it's 1,234.50 € for Zoë’s naïve café — 東京 2024年 🙂",
    "<|im_start|>system\nA 1<|im_end|>",
)


def path():
    """The file at $SMOLLM2_GGUF, else where `make smollm2` puts it; None where there is none."""
    named = os.environ.get("SMOLLM2_GGUF")
    found = Path(named) if named else Path("~/.cache/fade_jax").expanduser() / FILE
    return found if found.is_file() else None


def transformers_tokenizer(file):
    """The tokenizer that transformers makes from the file, with SmolLM2's split of digits.

    transformers ignores the file's `tokenizer.ggml.pre = smollm` and splits as GPT-2 does, so that
    spaces before a number come out otherwise than in the tokenizer that the model was trained with.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    return tokenizer
