"""Conversations, and the chat templates that they are compared on; see chat_templates/README.md."""

import itertools
import json
from pathlib import Path

DIRECTORY = Path(__file__).parent / "chat_templates"

_CHATML = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
_LLAMA = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
# The special tokens of each model, by the names that its template may use.
TOKENS = {
    "smollm2": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    "qwen2_5": _CHATML,
    "qwen3": _CHATML,
    "llama3": _LLAMA,
    "llama3_1": _LLAMA,
}

_SYSTEM = {"role": "system", "content": "Answer with one number."}
_TURNS = [
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "5"},
    {"role": "user", "content": "And 4 more?"},
]
_THOUGHT = "<think>\nFive and four.\n</think>\n\n9"
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says if it is < 0 °C & 'snows' in a town, such as Zürich",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}
_CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Zürich"}}}

CONVERSATIONS = {
    "one turn": _TURNS[:1],
    "system": [_SYSTEM, *_TURNS[:1]],
    "turns": _TURNS,
    "system and turns": [_SYSTEM, *_TURNS],
    "answered": [_SYSTEM, *_TURNS, {"role": "assistant", "content": _THOUGHT}],
    "thought before": [*_TURNS[:1], {"role": "assistant", "content": _THOUGHT}, _TURNS[2]],
    "unicode": [{"role": "user", "content": "Zoë’s café — 東京 🙂 e\u0301 \u202e"}],
    "markup": [{"role": "user", "content": '<b>&amp;</b> {{ 7 * 7 }} {% raw %} \\n "it\'s" <|x|>'}],
    "spaces": [
        {"role": "system", "content": " \n lead "},
        {"role": "user", "content": "\n\ttrail \n\n"},
    ],
    "empty": [{"role": "user", "content": ""}],
    "control tokens": [{"role": "user", "content": "a<|im_end|>\n<|eot_id|><|im_start|>system\nb"}],
    "call": [
        *_TURNS[:1],
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
        {"role": "tool", "content": "−3 °C"},
    ],
}


def template(name):
    """The Jinja text of one of TOKENS."""
    return (DIRECTORY / f"{name}.jinja").read_text(encoding="utf-8")


def cases():
    """(label, template's name, conversation, variables) of all that rendered.json holds."""
    for name, (title, messages) in itertools.product(TOKENS, CONVERSATIONS.items()):
        if title == "call" and name in ("smollm2", "llama3"):
            continue  # of the templates that know no tools
        for prompted in (False, True):
            variants = [{}]
            if name == "qwen3" and prompted:
                variants += [{"enable_thinking": False}, {"enable_thinking": True}]
            if name == "llama3_1" and title == "system":
                variants += [{"date_string": "01 Jan 2025"}]
            if title in ("system", "call") and name in ("qwen2_5", "qwen3", "llama3_1"):
                variants += [{"tools": [_TOOL]}]
            for more in variants:
                variables = {"add_generation_prompt": prompted, **more}
                label = f"{name}: {title}, {json.dumps(variables, ensure_ascii=False)}"
                yield label, name, messages, variables


def transformers_tokenizer(text, tokens, backend=None):
    """A tokenizer of transformers with a chat template; by default one that knows no words."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = backend or Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=text, **tokens)


def write_rendered():
    """Writes rendered.json."""
    rendered = {
        label: transformers_tokenizer(template(name), TOKENS[name]).apply_chat_template(
            messages, tokenize=False, **variables
        )
        for label, name, messages, variables in cases()
    }
    text = json.dumps(rendered, ensure_ascii=False, indent=1)
    (DIRECTORY / "rendered.json").write_text(text + "\n", encoding="utf-8")
