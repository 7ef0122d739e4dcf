"""What the verification of one completion comes to."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

# "cut off" has no end token; "no answer" ended without one that could be read, or without code;
# "error" raised, "died" ended its process, "timeout" used up its limit. With "unknown" the machine
# failed, not the completion.
KINDS = ("right", "wrong", "cut off", "no answer", "error", "died", "timeout", "unknown")


class VerificationError(RuntimeError):
    """Nothing can be verified on this machine: its fault, in one line, not that of completions."""


class Verdict(NamedTuple):
    """A reward and why.

    Attributes:
      reward: NaN for "unknown", which is masked out of advantages and loss.
      kind: one of KINDS; a reward between 0 and 1 is "wrong" below what counts as solved.
      detail: one line for people: the failing test, the exception, the answer that was read.
      seconds: processor time of the check.
      parts: (name, reward) of each that `reward` is a weighted mean of, where there are several.
    """

    reward: float
    kind: str
    detail: str = ""
    seconds: float = 0.0
    parts: tuple[tuple[str, float], ...] = ()


CUT_OFF = Verdict(0.0, "cut off")


def of_reward(reward: float) -> Verdict:
    """Returns the verdict of a check that gave a number alone."""
    if math.isnan(reward):
        return Verdict(reward, "unknown")
    return Verdict(reward, "right" if reward >= 1 else "wrong")


class Checker(Protocol):
    """Scores completions on the host; holds processes or sandboxes until it is closed."""

    def verify(self, texts: Sequence[str], answers: Sequence[Any], /) -> list[Verdict]:
        """Returns a verdict for each of N completions, given an answer or problem for each."""
        ...

    def close(self) -> None:
        """Ends what it holds."""
        ...
