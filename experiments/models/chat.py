"""Chat templates: Jinja text that comes with a model and turns messages into a prompt.

Rendered as transformers renders them, in Jinja's sandbox, with a bound on time and sizes, since a
template is code that somebody else wrote.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

_LARGEST = 10**7  # characters, items, or bits of a product or power


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template.

    Args:
      text: the Jinja source.
      tokens: the texts of special tokens, by the names that templates use: bos_token, eos_token...
      path: of the model, for error messages.
      seconds: of processor time that a render may take.
    """

    text: str
    tokens: Mapping[str, str]
    path: str = ""
    seconds: float = 10.0

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Writes a conversation as one text, special tokens included.

        Args:
          messages: each with a role and a content; values that are None count as absent.
          add_generation_prompt: whether the text ends where the answer begins.
          **variables: of the template, such as Qwen3's enable_thinking.

        Raises:
          ValueError: naming the model's path, if the template refuses, fails or takes too long.
        """
        if not messages:
            raise ValueError(f"{self.path}: a chat must have at least one message, got none")
        known = [{k: v for k, v in m.items() if v is not None} for m in messages]
        try:
            with _time_limit(self.seconds):
                return self._compiled.render(
                    {"tools": None, "documents": None, **self.tokens, **variables},
                    messages=known,
                    add_generation_prompt=add_generation_prompt,
                )
        except Exception as error:  # the template's code may raise anything
            kind = "" if type(error) in (TemplateError, TimeoutError) else type(error).__name__
            why = " ".join(f"{kind}: {error}".lstrip(": ").split())[:500]
            raise ValueError(f"{self.path}: its chat template cannot be rendered: {why}") from error

    def after_answer(self) -> str:
        """Returns what the template writes after an answer: the end of the turn.

        Raises:
          ValueError: as `render`.
        """
        answer = "the answer"
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
        _, found, after = self.render(messages, add_generation_prompt=False).rpartition(answer)
        return after.lstrip() if found else ""

    @cached_property
    def _compiled(self):
        return _environment().from_string(self.text)


def default_template(found: Any) -> str | None:
    """Returns the template of tokenizer_config.json: a text, or the default of several by name."""
    if isinstance(found, list):
        found = {each["name"]: each["template"] for each in found}
    return found.get("default") if isinstance(found, Mapping) else found


class _Generation(Extension):
    """{% generation %} … {% endgeneration %}, which marks answers for masks: its body, here."""

    tags = {"generation"}  # noqa: RUF012 as in jinja2

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which bounds ranges, with a bound on products and powers too."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context, operator, left, right):
        if _result_size(operator, left, right) > _LARGEST:
            raise SecurityError(f"the result of {operator} is too large")
        return super().call_binop(context, operator, left, right)


def _result_size(operator: str, left: Any, right: Any) -> float:
    """Of a product or power: the characters or items of a sequence, the bits of a whole number."""
    sizes = [x.bit_length() if isinstance(x, int) else 1 for x in (left, right)]
    if operator == "**":
        return sizes[0] * abs(right) if isinstance(right, int) else 1
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, Sequence) and isinstance(count, int):
            return len(sequence) * count
    return sum(sizes)


def _environment() -> ImmutableSandboxedEnvironment:
    """What transformers gives to templates."""
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """Jinja's own filter escapes the characters of HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message):
    raise TemplateError(message)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the code of a template, whatever its loops, after so much work.

    A trace function sees every line of a compiled template, in any thread.
    """
    last = time.thread_time() + seconds

    def trace(frame, event, argument):
        if time.thread_time() > last:
            raise TimeoutError(f"it takes longer than {seconds:g} seconds")
        return trace if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
