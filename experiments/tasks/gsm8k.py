"""GSM8K: grade-school word problems with a worked solution, through tensorflow-datasets.

Read as array_record through `tfds.data_source`, which needs no TensorFlow. Training and
demonstrations are the train split, evaluation the test split; a question of the test split is never
trained on. Demonstrations are the worked answers without their <<calculator annotations>>.

Prompts are `plain`,

    Question: … ?
    Answer:

or a `chat` in the model's own template, with a system message; either can begin with worked
examples from the train split, which are then not trained on. A demonstration ends with the
tokenizer's EOS, in a chat with the end of the turn; a completion ends with any end token of the
tokenizer. In a chat, special tokens in a question stay text.
Its final answer counts whatever its format: see `final_answer`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from experiments.tasks.answers import final_answer, is_close, parse_number
from experiments.tasks.base import check_at_least, check_seed, eos_ids
from experiments.tasks.chats import Chat, check_template
from experiments.tasks.questions import drop_repeats
from experiments.tasks.text_task import Problem, TextTask, require_tokenizer, text_task

INSTRUCTION = "Solve the problem step by step. End with a line '#### ' and the number."


def score(text: str, answer: float) -> float:
    """1 if the final answer of the text is the reference, to within rounding; else 0."""
    value = final_answer(text)
    return float(value is not None and is_close(value, answer))


def make(
    tokenizer: Any,
    data_dir: str = "",
    template: str = "chat",
    system: str = INSTRUCTION,
    template_kwargs: Mapping = MappingProxyType({}),
    shots: int = 0,
    seed: int = 0,
    max_prompt: int = 256,
    max_completion: int = 256,
) -> TextTask:
    """Makes the task from a config's `task.kwargs`: reads the data set.

    Args:
      tokenizer: encode, decode, eos_id, pad_id, vocab_size; for a chat chat_template, encode_chat
        and turn_end_id too.
      data_dir: the tensorflow-datasets folder, that of gsm8k/1.0.0; if empty, TFDS_DATA_DIR.
      template: "plain", or "chat" for the model's own.
      system: message that begins a chat; none if empty.
      template_kwargs: variables of the model's template, such as {"enable_thinking": False}.
      shots: worked examples in every prompt, the shortest of the train split.
      seed: of the order of the evaluation prompts.
      max_prompt: tokens of the longest prompt kept.
      max_completion: tokens of the longest answer that counts, EOS included.

    Returns:
      The task.

    Raises:
      ValueError: for impossible values, naming the field and its value.
      FileNotFoundError: naming the path and the config field.
    """
    require_tokenizer(tokenizer, "gsm8k")
    check_template(template)
    chat = None if template == "plain" else Chat(tokenizer, system, template_kwargs)

    def encode(question: str, examples: list[tuple[str, str]]) -> str | Sequence[int]:
        if chat is None:
            return _plain(question, examples)
        return chat.prompt(question, [(q, _worked(a)) for q, a in examples])

    check_seed(seed)
    check_at_least("shots", shots, 0)
    check_at_least("max_completion", max_completion, 2)
    seen: set[str] = set()
    test, test_repeats = drop_repeats(_read(data_dir, "test"), seen)
    train, train_repeats = drop_repeats(_read(data_dir, "train"), seen)
    # A stable order: the same shots whatever the order of the records.
    train.sort(key=lambda row: (len(row[0]) + len(row[1]), row))
    examples, train = train[:shots], train[shots:]
    return text_task(
        tokenizer,
        train=[
            [
                Problem(encode(q, examples), _reference(a), _demonstration(a, template))
                for q, a in train
            ]
        ],
        evaluation=[[Problem(encode(q, examples), _reference(a), None) for q, a in test]],
        pattern=(0,),
        evaluation_pattern=(0,),
        score=score,
        eos_id=tokenizer.eos_id if chat is None else chat.eos_id,
        eos_ids=eos_ids(tokenizer),
        max_prompt=max_prompt,
        max_completion=max_completion,
        seed=seed,
        dropped={
            "training questions that repeat or are evaluated": train_repeats,
            "evaluation questions that repeat": test_repeats,
        },
    )


def _plain(question: str, examples: list[tuple[str, str]]) -> str:
    worked = "".join(f"Question: {q}\nAnswer: {_worked(a)}\n\n" for q, a in examples)
    return f"{worked}Question: {question}\nAnswer:"


def _worked(answer: str) -> str:
    """A reference solution without its calculator annotations."""
    return re.sub(r"<<[^>]*>>", "", answer).strip()


def _demonstration(answer: str, template: str) -> str:
    # In plain text a blank follows "Answer:"; in a chat the turn begins on a new line.
    return f" {_worked(answer)}" if template == "plain" else _worked(answer)


def _reference(answer: str) -> float:
    return float(parse_number(answer.split("####")[-1]) or 0)


def _read(data_dir: str, split: str) -> list[tuple[str, str]]:
    """(question, answer) pairs of one split."""
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR", "")).expanduser()
    info = root / "gsm8k" / "1.0.0" / "dataset_info.json"
    if not (data_dir or os.environ.get("TFDS_DATA_DIR")) or not info.is_file():
        raise FileNotFoundError(
            f"{info} does not exist: set config.task.kwargs.data_dir (or TFDS_DATA_DIR) to the "
            f"tensorflow-datasets folder with gsm8k as array_record, got {data_dir!r}"
        )
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text.gsm8k  # registers the data set, which tfds does lazily

    try:
        # Never a download: data_source would start one, and go on trying for minutes.
        source: Any = tfds.data_source("gsm8k", split=split, data_dir=str(root), download=False)
        rows = [(row["question"].decode(), row["answer"].decode()) for row in source]
    except Exception as error:  # of a damaged file, of whatever type
        text = " ".join(str(error).split())
        raise ValueError(
            f"{info.parent} has no readable {split} split: {type(error).__name__}: {text}"
        ) from error
    for number, (_, answer) in enumerate(rows):
        if parse_number(answer.split("####")[-1]) is None:
            raise ValueError(
                f"{info.parent}, record {number} of {split}: the answer must end with #### and a"
                f" number, got {answer[-100:]!r}"
            )
    return rows
