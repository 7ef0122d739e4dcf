"""Prompts of questions: plain, or by the model's own chat template.

Above: gsm8k, problems, programming, suites.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

TEMPLATES = ("plain", "chat")


def check_template(template: str) -> None:
    """Raises ValueError unless `template` is "plain" or "chat"."""
    if template not in TEMPLATES:
        raise ValueError(f"template must be one of {', '.join(TEMPLATES)}, got {template!r}")


class Plain:
    """Makes prompts of questions without a template; an answer ends with the tokenizer's EOS."""

    def __init__(self, tokenizer: Any):
        self.eos_id: int = tokenizer.eos_id

    def prompt(
        self, question: str, examples: Sequence[tuple[str, str]] = (), answer_prefix: str = ""
    ) -> str:
        """Returns the examples, the question and the answer's beginning, a blank line apart.

        Args:
          question: to be answered.
          examples: (question, answer) pairs before it.
          answer_prefix: how the answer begins, if that is given.
        """
        before = "".join(f"{asked}\n\n{answered}\n\n" for asked, answered in examples)
        return f"{before}{question}" + (f"\n\n{answer_prefix}" if answer_prefix else "")


class Chat:
    """Makes prompts of questions: a system message, worked examples, the question.

    Special tokens in a question stay text: no data can end a turn.
    """

    def __init__(self, tokenizer: Any, system: str = "", variables: Mapping = MappingProxyType({})):
        """Checks that the tokenizer has a template.

        Args:
          tokenizer: with chat_template, encode_chat and turn_end_id.
          system: message that begins a chat; none if empty.
          variables: of the template, such as {"enable_thinking": False}.

        Raises:
          ValueError: if there is no template, or a variable is not one that it can have.
        """
        if tokenizer.chat_template is None:
            raise ValueError(
                "template must be 'plain' for a tokenizer without a chat template, got 'chat'"
            )
        given = ("self", "messages", "add_generation_prompt")
        named = isinstance(variables, Mapping) and all(isinstance(name, str) for name in variables)
        if not named or any(name in given for name in variables):
            raise ValueError(
                "template_kwargs must be variables of the chat template other than"
                f" {', '.join(given)}, got {variables!r}"
            )
        self._tokenizer, self._system, self._variables = tokenizer, system, dict(variables)

    @property
    def eos_id(self) -> int:
        """The token that ends an answer."""
        turn_end = self._tokenizer.turn_end_id
        return self._tokenizer.eos_id if turn_end is None else turn_end

    def prompt(
        self, question: str, examples: Sequence[tuple[str, str]] = (), answer_prefix: str = ""
    ) -> list[int]:
        """Returns the token ids of a chat that ends where the answer begins.

        Args:
          question: of the user.
          examples: (question, answer) turns before it.
          answer_prefix: how the answer begins, if that is given.
        """
        turns = [("system", self._system)] if self._system else []
        for asked, answered in examples:
            turns += [("user", asked), ("assistant", answered)]
        turns.append(("user", question))
        messages = [{"role": role, "content": content} for role, content in turns]
        chat = self._tokenizer.encode_chat(messages, **self._variables)
        return [*chat, *(self._tokenizer.encode(answer_prefix) if answer_prefix else ())]


def prompt_style(
    tokenizer: Any, template: str, system: str = "", variables: Mapping = MappingProxyType({})
) -> Plain | Chat:
    """Returns what makes prompts; for its arguments see Chat.

    Raises:
      ValueError: for a template other than "plain" and "chat", or as Chat.
    """
    check_template(template)
    return Plain(tokenizer) if template == "plain" else Chat(tokenizer, system, variables)
