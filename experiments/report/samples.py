"""Reads the completions that runs kept at their evaluations, and picks some for people to read.

Below: runs. Above: write.
"""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.report.runs import Run, by_method, furthest

logger = logging.getLogger(__name__)

MAX_PROMPTS = 4
MAX_CHARACTERS = 2000
_CONTROL = {code: "�" for code in (*range(32), 127) if chr(code) not in "\n\t"}


class Completion(NamedTuple):
    """A completion to show.

    Attributes:
      title: which one it is, its reward and verdict.
      detail: why, in one line; "" for none.
      text: at most MAX_CHARACTERS of it.
    """

    title: str
    detail: str
    text: str


class PromptSamples(NamedTuple):
    """Completions of one prompt.

    Attributes:
      number: among the held-out prompts, from 0.
      text: of the prompt, at most MAX_CHARACTERS.
      columns: for the first and the last evaluation, or for the only one: (step, completions).
    """

    number: int
    text: str
    columns: list[tuple[int, list[Completion]]]


class RunSamples(NamedTuple):
    """Samples of the run that stands for its method."""

    run: str
    prompts: list[PromptSamples]


def samples_of_methods(runs: Sequence[Run]) -> list[RunSamples]:
    """Returns the best and the worst completions of one run of each method.

    Args:
      runs: of a workdir. Of each method, the first that got furthest and kept completions is taken.

    Returns:
      At most MAX_PROMPTS prompts of the last evaluation of each of these runs, with completions of
      the first evaluation beside those of the last. Methods without completions are left out.
    """
    found = []
    for members in by_method(runs).values():
        for run in (*furthest(members), *members):
            if prompts := _prompts(run):
                found.append(RunSamples(run.name, prompts))
                break
    return found


def markdown_samples(runs: Sequence[RunSamples]) -> str:
    """Formats samples as Markdown; whatever a completion holds stays inside its fence."""
    parts = []
    for run in runs:
        parts.append(f"### {run.run}")
        for prompt in run.prompts:
            parts += [f"Prompt {prompt.number}:", fenced(prompt.text)]
            for step, completions in prompt.columns:
                for completion in completions:
                    detail = f": {code_span(completion.detail)}" if completion.detail else ""
                    parts.append(f"Step {step}, {completion.title}{detail}")
                    parts.append(fenced(completion.text))
    return "\n\n".join(parts)


def fenced(text: str) -> str:
    """Returns a fenced block, with a fence longer than any row of backticks in the text."""
    fence = "`" * max(3, 1 + _longest_row(text))
    return f"{fence}text\n{text}\n{fence}"


def code_span(text: str) -> str:
    """Returns a text of one line as a code span, likewise."""
    ticks = "`" * (1 + _longest_row(text))
    blank = " " if "`" in text else ""
    return f"{ticks}{blank}{text}{blank}{ticks}"


def _longest_row(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _prompts(run: Run) -> list[PromptSamples]:
    directory = (run.directory or Path()) / "samples"
    if run.directory is None or not directory.is_dir():
        return []
    steps = sorted(int(path.stem) for path in directory.glob("*.jsonl") if path.stem.isdigit())
    read = {step: _read(directory / f"{step}.jsonl") for step in {*steps[:1], *steps[-1:]}}
    shown = sorted(step for step, lines in read.items() if lines)
    if not shown:
        return []
    return [
        PromptSamples(
            index,
            _cut(str(lines[0].get("prompt", ""))),
            [(step, _ends(read[step][index])) for step in shown if index in read[step]],
        )
        for index, lines in list(read[shown[-1]].items())[:MAX_PROMPTS]
    ]


def _read(path: Path) -> dict[int, list[dict[str, Any]]]:
    """Returns the lines of a file by their prompts; a damaged line is left out with a warning."""
    groups: dict[int, list[dict[str, Any]]] = {}
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, text in enumerate(texts, 1):
        if not text:
            continue
        try:
            line = json.loads(text)
            groups.setdefault(int(line["index"]), []).append(line)
        except (ValueError, TypeError, KeyError):
            logger.warning("%s: line %d is damaged and is left out", path, number)
    return groups


def _ends(lines: list[dict[str, Any]]) -> list[Completion]:
    """Returns the completions of the largest and the smallest reward; an unknown one is neither."""
    known = [line for line in lines if isinstance(line.get("reward"), (int, float))] or lines
    if len(known) == 1:
        return [_completion("the only one", known[0])]

    def reward(line: dict[str, Any]) -> float:
        return line.get("reward") or 0.0

    best = max(known, key=reward)
    worst = min(reversed(known), key=reward)  # another one where all are equal
    return [_completion("best", best), _completion("worst", worst)]


def _completion(which: str, line: dict[str, Any]) -> Completion:
    reward = line.get("reward")
    facts = [
        "reward unknown" if reward is None else f"reward {reward:g}",
        str(line.get("verdict", "")),
        *(
            f"{name.removeprefix('reward/')} {value:g}"
            for name, value in line.items()
            if name.startswith("reward/") and value is not None
        ),
        f"{line['tokens']} tokens" if "tokens" in line else "",
    ]
    detail = " ".join(_cut(str(line.get("detail", ""))).split())
    title = f"{which}: {', '.join(fact for fact in facts if fact)}"
    return Completion(title, detail, _cut(str(line.get("completion", ""))))


def _cut(text: str) -> str:
    """Cuts a text, and replaces control characters and what UTF-8 cannot write."""
    more = len(text) - MAX_CHARACTERS
    text = text[:MAX_CHARACTERS].encode("utf-8", "replace").decode().translate(_CONTROL)
    return f"{text}\n[{more} more characters]" if more > 0 else text
