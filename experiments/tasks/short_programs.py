"""One-line functions over numbers, texts and lists, described in words: programming in small.

The prompt holds the answer's first line and `return`; the model writes the expression.
Problems are made from kinds, such as "the last {a} elements of x", with different numbers and
letters. Whole kinds are held out: what is evaluated has to be understood, not remembered. Expected
outputs are those of the kind's own expression, on random arguments.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from experiments.sandbox import Limits
from experiments.tasks.base import (
    check_at_least,
    check_at_most,
    check_fraction,
    check_seed,
    eos_ids,
)
from experiments.tasks.chats import prompt_style
from experiments.tasks.programming import check_sandbox, open_program_checker, split_held_out
from experiments.tasks.programs import CallTests
from experiments.tasks.programs import Problem as ProgrammingProblem
from experiments.tasks.questions import drop_repeats
from experiments.tasks.text_task import Problem, TextTask, require_tokenizer, text_task

_LIMITS = Limits(seconds=1.0, memory_bytes=1 << 28)
_CASES = 12
_NAMES = ("f", "g", "solve", "compute", "result", "answer", "transform", "calculate")


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
      argument: "number", "text" or "list".
      words: what the function returns, with the parameters a, b (numbers) and c, d (letters).
      expression: the same in Python, of x.
    """

    argument: str
    words: str
    expression: str


KINDS: dict[str, Kind] = {
    name: Kind(*parts)
    for name, *parts in (
        ("add", "number", "x plus {a}", "x + {a}"),
        ("subtract", "number", "x minus {a}", "x - {a}"),
        ("multiply", "number", "x times {a}", "x * {a}"),
        ("negate", "number", "minus x", "-x"),
        ("square_add", "number", "the square of x, plus {a}", "x ** 2 + {a}"),
        ("cube_subtract", "number", "the cube of x, minus {a}", "x ** 3 - {a}"),
        ("remainder", "number", "the remainder of x divided by {a}", "x % {a}"),
        ("floor", "number", "x divided by {a}, rounded down", "x // {a}"),
        ("even", "number", "True if x is even, else False", "x % 2 == 0"),
        ("odd", "number", "True if x is odd, else False", "x % 2 == 1"),
        ("divisible", "number", "True if x is divisible by {a}, else False", "x % {a} == 0"),
        ("larger", "number", "the larger of x and {a}", "max(x, {a})"),
        ("smaller", "number", "the smaller of x and {a}", "min(x, {a})"),
        ("distance", "number", "the absolute difference of x and {a}", "abs(x - {a})"),
        ("above", "number", "True if x is greater than {a}, else False", "x > {a}"),
        ("digit_sum", "number", "the sum of the digits of the absolute value of x",
         "sum(int(d) for d in str(abs(x)))"),
        ("digit_count", "number", "the number of digits of the absolute value of x",
         "len(str(abs(x)))"),
        ("last_digit", "number", "the last digit of the absolute value of x", "abs(x) % 10"),
        ("linear", "number", "{a} times x, plus {b}", "{a} * x + {b}"),
        ("sum_to", "number", "the sum of all integers from 1 to the absolute value of x",
         "sum(range(1, abs(x) + 1))"),
        ("as_text", "number", "x as a string", "str(x)"),
        ("multiples", "number", "a list of the first {a} multiples of x, starting with x",
         "[x * i for i in range(1, {a} + 1)]"),
        ("upper", "text", "x in upper case", "x.upper()"),
        ("lower", "text", "x in lower case", "x.lower()"),
        ("reverse", "text", "x reversed", "x[::-1]"),
        ("length", "text", "the length of the string x", "len(x)"),
        ("first_characters", "text", "the first {a} characters of x", "x[:{a}]"),
        ("last_characters", "text", "the last {a} characters of x", "x[-{a}:]"),
        ("count_letter", "text", "how often the letter '{c}' occurs in x", "x.count('{c}')"),
        ("replace", "text", "x with every '{c}' replaced by '{d}'", "x.replace('{c}', '{d}')"),
        ("repeat", "text", "x repeated {a} times", "x * {a}"),
        ("starts", "text", "True if x starts with '{c}', else False", "x.startswith('{c}')"),
        ("ends", "text", "True if x ends with '{c}', else False", "x.endswith('{c}')"),
        ("contains", "text", "True if x contains '{c}', else False", "'{c}' in x"),
        ("word_count", "text", "the number of words in x", "len(x.split())"),
        ("first_word", "text", "the first word of x", "x.split()[0]"),
        ("last_word", "text", "the last word of x", "x.split()[-1]"),
        ("no_spaces", "text", "x without spaces", "x.replace(' ', '')"),
        ("capital", "text", "x with its first letter in upper case",
         "x[:1].upper() + x[1:]"),
        ("no_vowels", "text", "x without the letters a, e, i, o, u",
         "''.join(c for c in x if c not in 'aeiou')"),
        ("palindrome", "text", "True if x is the same backwards, else False", "x == x[::-1]"),
        ("hyphens", "text", "the words of x joined by '-'", "'-'.join(x.split())"),
        ("words", "text", "a list of the words of x", "x.split()"),
        ("add_end", "text", "x followed by '{c}'", "x + '{c}'"),
        ("every_other", "text", "every second character of x, starting with the first", "x[::2]"),
        ("sorted_letters", "text", "the characters of x in sorted order, as a string",
         "''.join(sorted(x))"),
        ("sum", "list", "the sum of the list x", "sum(x)"),
        ("maximum", "list", "the largest element of the list x", "max(x)"),
        ("minimum", "list", "the smallest element of the list x", "min(x)"),
        ("list_length", "list", "the number of elements of the list x", "len(x)"),
        ("first", "list", "the first element of the list x", "x[0]"),
        ("last", "list", "the last element of the list x", "x[-1]"),
        ("list_reverse", "list", "the list x reversed", "x[::-1]"),
        ("sort", "list", "the list x sorted in ascending order", "sorted(x)"),
        ("sort_down", "list", "the list x sorted in descending order", "sorted(x)[::-1]"),
        ("squares_sum", "list", "the sum of the squares of the elements of x",
         "sum(i * i for i in x)"),
        ("evens", "list", "a list of the even elements of x", "[i for i in x if i % 2 == 0]"),
        ("greater", "list", "a list of the elements of x that are greater than {a}",
         "[i for i in x if i > {a}]"),
        ("each_add", "list", "a list of the elements of x, each plus {a}", "[i + {a} for i in x]"),
        ("each_times", "list", "a list of the elements of x, each times {a}",
         "[i * {a} for i in x]"),
        ("count", "list", "how often {a} occurs in the list x", "x.count({a})"),
        ("distinct", "list", "the number of different elements of x", "len(set(x))"),
        ("take", "list", "the first {a} elements of x", "x[:{a}]"),
        ("take_last", "list", "the last {a} elements of x", "x[-{a}:]"),
        ("drop", "list", "the list x without its first {a} elements", "x[{a}:]"),
        ("positives", "list", "the number of positive elements of x", "sum(i > 0 for i in x)"),
        ("sum_above", "list", "the sum of the elements of x that are greater than {a}",
         "sum(i for i in x if i > {a})"),
        ("member", "list", "True if {a} is in the list x, else False", "{a} in x"),
        ("spread", "list", "the largest element of x minus the smallest", "max(x) - min(x)"),
        ("double", "list", "the list x followed by itself", "x + x"),
        ("second_smallest", "list", "the second smallest element of x", "sorted(x)[1]"),
        ("absolute", "list", "a list of the absolute values of the elements of x",
         "[abs(i) for i in x]"),
    )
}  # fmt: skip


# Of no kind above; they show the form of an answer.
EXAMPLES = (
    (
        "Write a Python function f(x) that returns x divided by 2.",
        "```python\ndef f(x):\n    return x / 2\n```",
    ),
    (
        "Write a Python function f(x) that returns x with a space between all characters.",
        "```python\ndef f(x):\n    return ' '.join(x)\n```",
    ),
)


def make(
    tokenizer: Any,
    held_out: float = 0.25,
    variants: int = 8,
    shots: int = 1,
    sandbox: str = "bubblewrap",
    system: str = "",
    template: str = "chat",
    template_kwargs: Mapping = MappingProxyType({}),
    seed: int = 0,
    max_prompt: int = 256,
    max_completion: int = 24,
) -> TextTask:
    """Makes the task from a config's `task.kwargs`.

    Args:
      tokenizer: encode, decode, eos_id, pad_id, vocab_size; for a chat see chats.Chat.
      held_out: fraction of the kinds that are evaluated and never trained on.
      variants: problems of each kind, which differ in their parameters and the function's name.
      shots: worked examples, of kinds of their own; at most 2.
      sandbox: backend, a key of experiments.sandbox.backends.BACKENDS.
      system: the system prompt of a chat; "" for none.
      template: "chat", by the model's own chat template, or "plain".
      template_kwargs: variables of the model's template.
      seed: of parameters, arguments and the order of the evaluation prompts.
      max_prompt: tokens of the longest prompt kept.
      max_completion: tokens of the longest answer that counts, EOS included.

    Raises:
      ValueError: for impossible values, naming the field and its value.
    """
    require_tokenizer(tokenizer, "short_programs")
    check_seed(seed)
    check_fraction("held_out", held_out)
    check_at_least("variants", variants, 1)
    check_at_least("shots", shots, 0)
    check_at_most("shots", shots, len(EXAMPLES))
    check_at_least("max_completion", max_completion, 2)
    check_sandbox(sandbox)
    style = prompt_style(tokenizer, template, system, template_kwargs)
    train, held = split_held_out(make_problems(variants, seed), held_out, "kind")

    def encoded(problems: list[ProgrammingProblem]) -> list[Problem]:
        return [
            Problem(
                style.prompt(problem.prompt, EXAMPLES[:shots], problem.answer_prefix),
                problem,
                f"```python\n{problem.solution}\n```".removeprefix(problem.answer_prefix),
            )
            for problem in problems
        ]

    return text_task(
        tokenizer,
        train=[encoded(train)],
        evaluation=[encoded(held)],
        pattern=(0,),
        evaluation_pattern=(0,),
        open_checker=functools.partial(open_program_checker, sandbox),
        eos_id=style.eos_id,
        eos_ids=eos_ids(tokenizer),
        max_prompt=max_prompt,
        max_completion=max_completion,
        seed=seed,
        dropped={},
    )


def make_problems(variants: int, seed: int) -> list[ProgrammingProblem]:
    """Makes the problems of all kinds, without repeats.

    Args:
      variants: of each kind; fewer where names and parameters repeat.
      seed: of parameters and arguments.
    """
    problems = []
    for number, (name, kind) in enumerate(KINDS.items()):
        rng = np.random.default_rng([seed, number])
        made = [_problem(name, kind, rng, i) for i in range(variants)]
        kept, _ = drop_repeats([(problem.prompt, problem) for problem in made], set())
        problems += [problem for _, problem in kept]
    return problems


def _problem(name: str, kind: Kind, rng: np.random.Generator, i: int) -> ProgrammingProblem:
    letters = [str(c) for c in rng.choice(list("abcdeilmnorst"), 2, replace=False)]
    numbers = [int(n) for n in rng.choice(np.arange(2, 10), 2, replace=False)]
    values = dict(zip("abcd", (*numbers, *letters)))
    expression = kind.expression.format(**values)
    function: Callable[[Any], Any] = eval(f"lambda x: {expression}")  # of KINDS, ours
    arguments: list[Any] = []
    while len({repr(function(x)) for x in arguments}) < 2:  # a constant must not be right
        arguments = [_ARGUMENTS[kind.argument](rng, values) for _ in range(_CASES)]
    called = _NAMES[i % len(_NAMES)]
    return ProgrammingProblem(
        id=f"{name}/{i}",
        prompt=f"Write a Python function {called}(x) that returns {kind.words.format(**values)}.",
        tests=CallTests(called, tuple(((x,), function(x)) for x in arguments)),
        limits=_LIMITS,
        answer_prefix=f"```python\ndef {called}(x):\n    return",
        solution=f"def {called}(x):\n    return {expression}",
        metadata={"kind": name},
    )


def _number(rng: np.random.Generator, values: Mapping[str, Any]) -> int:
    """Near the parameters half of the time, where comparisons change."""
    if rng.random() < 0.5:
        return int(values["a"] * rng.integers(1, 4) + rng.integers(-1, 2))
    return int(rng.integers(-30, 200))


def _text(rng: np.random.Generator, values: Mapping[str, Any]) -> str:
    """Two to four words that hold the letters of the parameters; some read the same backwards."""
    letters = [values["c"], values["d"], *"aeinorst"]
    words = ["".join(rng.choice(letters, rng.integers(2, 6))) for _ in range(rng.integers(2, 5))]
    if rng.random() < 0.15:
        return words[0] + words[0][::-1]
    before, after = rng.choice(["", values["c"]], 2)
    text = f"{before}{' '.join(words)}{after}"
    return text.capitalize() if rng.random() < 0.2 else text


def _list(rng: np.random.Generator, values: Mapping[str, Any]) -> list[int]:
    size = int(rng.integers(3, 13))
    return [int(n) for n in rng.choice([values["a"], *range(-9, 20)], size)]


_ARGUMENTS: dict[str, Callable[[np.random.Generator, Mapping[str, Any]], Any]] = {
    "number": _number,
    "text": _text,
    "list": _list,
}
