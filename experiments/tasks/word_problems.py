"""Word problems answered by an equation: train on ASDiv, evaluate on SVAMP and MAWPS.

    Question: Seven red apples and two green apples are in the basket. How many apples are …?
    Equation: 7+2

An answer is one line: numbers, + - * / and parentheses, evaluated exactly and compared with the
reference to within rounding; "7+2=9" counts if both sides agree. The demonstrations are ASDiv's own
formulas; problems whose formula is not of this form (remainders, ratios, unknowns, units), or does
not give the problem's answer, are left out.

The data are JSON-lines files in one folder: asdiv.jsonl, svamp.jsonl and mawps_*.jsonl. A question
of SVAMP or MAWPS that ASDiv has too is left out of training; one that occurs twice counts once.
"""

import re
from pathlib import Path
from typing import Any

from experiments.tasks.answers import evaluate, is_close, parse_number
from experiments.tasks.base import check_at_least, check_seed, eos_ids
from experiments.tasks.questions import drop_repeats, read_json_lines
from experiments.tasks.text_task import Problem, TextTask, newline_id, require_tokenizer, text_task

# Fields of a line of each data set.
_ASDIV: dict[str, str] = dict.fromkeys(("body", "question", "answer", "formula"), "text")
_SVAMP = {"Body": "text", "Question": "text", "Answer": "number"}
_MAWPS = {"input": "text", "target": "number"}


def score(text: str, answer: float) -> float:
    """1 if the text is an equation with the answer's value, else 0."""
    value = evaluate(text)
    return float(value is not None and is_close(value, answer))


def make(
    tokenizer: Any,
    directory: str = "",
    seed: int = 0,
    max_prompt: int = 128,
    max_completion: int = 32,
) -> TextTask:
    """Makes the task from a config's `task.kwargs`: reads the data sets.

    Args:
      tokenizer: encode, decode, eos_id, pad_id, vocab_size; one token for a newline.
      directory: of asdiv.jsonl, svamp.jsonl and mawps_*.jsonl.
      seed: of the order of the evaluation prompts, of which SVAMP and MAWPS have half each.
      max_prompt: tokens of the longest prompt kept.
      max_completion: tokens of the longest answer that counts, newline included.

    Returns:
      The task.

    Raises:
      ValueError: for impossible values, naming the field and its value.
      FileNotFoundError: naming the path and the config field.
    """
    require_tokenizer(tokenizer, "word_problems")
    check_seed(seed)
    check_at_least("max_completion", max_completion, 4)
    folder = Path(directory).expanduser()
    mawps = sorted(folder.glob("mawps_*.jsonl")) or [folder / "mawps_addsub.jsonl"]
    asdiv_rows = _read(folder / "asdiv.jsonl", directory, _ASDIV)
    svamp_rows = _read(folder / "svamp.jsonl", directory, _SVAMP)
    mawps_rows = [row for path in mawps for row in _read(path, directory, _MAWPS)]

    seen: set[str] = set()
    svamp, svamp_repeats = drop_repeats(
        [(_join(row["Body"], row["Question"]), float(row["Answer"])) for row in svamp_rows], seen
    )
    mawps_kept, mawps_repeats = drop_repeats(
        [(_tidy(row["input"]), float(row["target"])) for row in mawps_rows], seen
    )
    asdiv = [(_join(row["body"], row["question"]), _formula(row)) for row in asdiv_rows]
    usable = [(question, formula) for question, formula in asdiv if formula is not None]
    train, train_repeats = drop_repeats(usable, seen)
    if not train:
        raise ValueError(f"{folder / 'asdiv.jsonl'} has no problem that can be trained on")
    return text_task(
        tokenizer,
        train=[[_problem(question, *formula) for question, formula in train]],
        evaluation=[
            [_problem(question, answer, None) for question, answer in kept]
            for kept in (svamp, mawps_kept)
        ],
        pattern=(0,),
        evaluation_pattern=(0, 1),
        score=score,
        eos_id=newline_id(tokenizer),
        eos_ids=eos_ids(tokenizer),
        max_prompt=max_prompt,
        max_completion=max_completion,
        seed=seed,
        dropped={
            "training problems without a formula of + - * /": len(asdiv) - len(usable),
            "training questions that repeat or are evaluated": train_repeats,
            "evaluation questions that repeat": svamp_repeats + mawps_repeats,
        },
    )


def _problem(question: str, answer: float, formula: str | None) -> Problem:
    demonstration = None if formula is None else f" {formula}"
    return Problem(f"Question: {question}\nEquation:", answer, demonstration)


def _formula(row: dict[str, Any]) -> tuple[float, str] | None:
    """Returns ASDiv's answer and the left side of its formula; None if they disagree."""
    answer = parse_number(re.sub(r"\(.*\)", "", row["answer"]))
    formula = re.sub(r"\s", "", row["formula"].split("=")[0])
    value = evaluate(formula)
    if answer is None or value is None or not is_close(value, float(answer)):
        return None
    return float(answer), formula


def _read(path: Path, directory: str, fields: dict[str, str]) -> list[dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: set config.task.kwargs.directory to the folder of "
            f"asdiv.jsonl, svamp.jsonl and mawps_*.jsonl, got {directory!r}"
        )
    return read_json_lines(path, fields)


def _join(body: str, question: str) -> str:
    """Joins body and question; SVAMP's bodies often lack their last full stop."""
    body, question = _tidy(body), _tidy(question)
    return f"{body}{'' if body[-1:] in '.,;:?!' else ','} {question}".strip()


def _tidy(text: str) -> str:
    """Removes the blanks that data sets put before punctuation and after currency signs."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\s+([.,;:?!])", r"\1", text).replace("$ ", "$")
