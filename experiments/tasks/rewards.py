"""Rewards by name or import path, and their weighted means.

Below: mathematics, answers, check_processes. Above: problems and other tasks on text.
"""

import dataclasses
import functools
import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from experiments.tasks.answers import final_answer, is_close
from experiments.tasks.check_processes import CheckProcesses
from experiments.tasks.mathematics import score_integer, score_math, score_text
from experiments.tasks.verdict import CUT_OFF, Checker, Verdict, of_reward


def score_number(completion: str, answer: Any) -> Verdict:
    """Compares the final number of a completion with a number, to within rounding."""
    value = final_answer(completion)
    if value is None:
        return Verdict(0.0, "no answer")
    right = is_close(value, float(answer))
    return Verdict(float(right), "right" if right else "wrong", f"answer: {float(value):g}")


# (completion, answer) -> Verdict.
REWARDS: dict[str, Callable[[str, Any], Verdict]] = {
    "number": score_number,
    "integer": score_integer,
    "math": score_math,
    "text": score_text,
}


@dataclasses.dataclass(frozen=True)
class RowReward:
    """A reward of a completion and a row of a data set; sent to processes by its names alone.

    Attributes:
      name: a key of REWARDS, or the import path of a function (completion: str, row: dict) -> float
        in [0, 1], or -> Verdict.
      answer: the field of the row that a reward of REWARDS reads.
    """

    name: str
    answer: str = "answer"

    def __reduce__(self):
        return _load_reward, (self.name, self.answer)

    def __call__(self, completion: str, row: Mapping[str, Any]) -> Verdict:
        """Returns the verdict of a completion."""
        if self.name in REWARDS:
            return REWARDS[self.name](completion, row[self.answer])
        found = imported_function(self.name)(completion, row)
        return found if isinstance(found, Verdict) else of_reward(float(found))


def _load_reward(name: str, answer: str) -> RowReward:
    """Makes a reward in a process, with its imports: the first check's time is without them."""
    if name == "math":
        importlib.import_module("math_verify")
    elif name not in REWARDS:
        imported_function(name)
    return RowReward(name, answer)


@functools.cache
def imported_function(path: str) -> Callable[..., Any]:
    """Imports a function.

    Raises:
      ValueError: if it cannot be imported, or is no function.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module's code may raise anything
        raise ValueError(
            f"it must be one of {', '.join(REWARDS)} or the import path of a function, but"
            f" importing it gives {type(error).__name__}: {error}"
        ) from error
    if not callable(found):
        raise ValueError(f"{path!r} must be a function, got {type(found).__name__}")
    return found


def check_rewards(
    rewards: Mapping[str, float] | Sequence[tuple[str, float]],
) -> dict[str, float]:
    """Checks names and weights of rewards before any work.

    Args:
      rewards: weights by name, or pairs of them: a config has no names with dots.

    Returns:
      The weights, scaled to sum to 1.

    Raises:
      ValueError: naming the reward, the value and what is allowed.
    """
    pairs = rewards.items() if isinstance(rewards, Mapping) else rewards
    if not isinstance(pairs, Iterable) or not all(
        isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs
    ):
        raise ValueError(f"rewards must be pairs (name, weight), got {rewards!r}")
    weights: dict[str, float] = {}
    for name, weight in pairs:
        if not isinstance(name, str):
            raise ValueError(f"rewards must be named by texts, got {name!r}")
        if name in weights:
            raise ValueError(f"rewards must name each reward once, got {name!r} twice")
        weights[name] = weight
    if not weights:
        raise ValueError("rewards must name at least one reward, got none")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight > 0:
            raise ValueError(f"rewards[{name!r}] must be a weight > 0, got {weight!r}")
        if not math.isfinite(weight):
            raise ValueError(f"rewards[{name!r}] must be finite, got {weight!r}")
        if name in REWARDS:
            continue
        try:
            function = imported_function(name)
            inspect.signature(function).bind("completion", {})
        except TypeError as error:
            raise ValueError(f"rewards[{name!r}] must take (completion, row): {error}") from error
        except ValueError as error:
            raise ValueError(f"rewards[{name!r}]: {error}") from error
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


class WeightedChecker:
    """Scores completions by several checkers, and joins their verdicts; see `joined`.

    Attributes:
      cut_off: the verdict of a completion without its end, with the parts.
    """

    def __init__(self, parts: Sequence[tuple[str, float, Checker]], solved_at: float):
        """Takes over checkers.

        Args:
          parts: (name, weight, checker); the weights sum to 1.
          solved_at: the least reward that is "right".
        """
        self._parts, self._solved_at = tuple(parts), solved_at
        # So that the mean of every part is over the same completions as that of the whole.
        zeros = tuple((name, 0.0) for name, _, _ in parts)
        self.cut_off = CUT_OFF._replace(parts=zeros if len(zeros) > 1 else ())

    def verify(self, texts: Sequence[str], answers: Sequence[Any]) -> list[Verdict]:
        """Returns the joined verdict of each completion.

        Raises:
          ValueError: if a reward lies outside [0, 1].
        """
        every = [
            _in_range(name, checker.verify(texts, answers)) for name, _, checker in self._parts
        ]
        names = [(name, weight) for name, weight, _ in self._parts]
        return [joined(names, verdicts, self._solved_at) for verdicts in zip(*every)]

    def close(self) -> None:
        """Closes all checkers."""
        with ExitStack() as stack:
            for _, _, checker in self._parts:
                stack.callback(checker.close)


def _in_range(name: str, verdicts: list[Verdict]) -> list[Verdict]:
    """Returns the verdicts; a weighted mean would hide a reward that cannot be."""
    for verdict in verdicts:
        if verdict.reward < 0 or verdict.reward > 1:
            raise ValueError(f"reward {name} must lie in [0, 1], got {verdict.reward:g}")
    return verdicts


def joined(
    names: Sequence[tuple[str, float]], verdicts: Sequence[Verdict], solved_at: float
) -> Verdict:
    """Joins verdicts of one completion to that of the weighted mean of their rewards.

    It is "right" from `solved_at` on, "unknown" if any of them is, and else of the kind of the
    first that is not "right".

    Args:
      names: (name, weight) of each; the weights sum to 1.
      verdicts: one of each.
      solved_at: the least reward that is "right".
    """
    reward = sum(weight * verdict.reward for (_, weight), verdict in zip(names, verdicts))
    if math.isnan(reward):
        kind = "unknown"
    elif reward >= solved_at - 1e-9:
        kind = "right"
    else:
        kind = next((v.kind for v in verdicts if v.kind != "right"), "wrong")
    several = len(names) > 1
    details = [f"{n}: {v.detail}" if several else v.detail for (n, _), v in zip(names, verdicts)]
    return Verdict(
        reward,
        kind,
        "; ".join(detail for detail, v in zip(details, verdicts) if v.detail),
        sum(verdict.seconds for verdict in verdicts),
        tuple((n, v.reward) for (n, _), v in zip(names, verdicts)) if several else (),
    )


def open_row_checker(
    rewards: Mapping[str, float],
    answer: str,
    solved_at: float,
    workers: int,
    timeout_seconds: float,
) -> WeightedChecker:
    """Opens the checker of rewards of rows; at least one process, so that none can hang the run.

    Args:
      rewards: weights by name, from `check_rewards`.
      answer: the field that holds the right answer.
      solved_at: the least reward that counts as solved.
      workers: processes, for each of the rewards.
      timeout_seconds: processor time per completion and reward.
    """
    return WeightedChecker(
        [
            (
                name,
                weight,
                CheckProcesses(
                    RowReward(name, answer),
                    workers=max(workers, 1),
                    timeout_seconds=timeout_seconds,
                ),
            )
            for name, weight in rewards.items()
        ],
        solved_at,
    )
