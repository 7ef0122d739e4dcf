"""What the verification of one completion comes to."""

from typing import NamedTuple

# "cut off" has no end token; "no answer" ended without one that could be read, or without code;
# "error" raised, "timeout" used up its limit. With "unknown" the machine failed, not the completion.
KINDS = ("right", "wrong", "cut off", "no answer", "error", "timeout", "unknown")


class Verdict(NamedTuple):
    """A reward and why.

    Attributes:
      reward: NaN for "unknown", which is masked out of advantages and loss.
      kind: one of KINDS.
      detail: one line for people: the failing test, the exception, the answer that was read.
      seconds: processor time of the check.
    """

    reward: float
    kind: str
    detail: str = ""
    seconds: float = 0.0
