"""Verification on the host: from sampled tokens to rewards, verdicts and counts.

Below: check_processes, verdict. Above: experiment.
"""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from experiments.tasks.check_processes import CheckProcesses
from experiments.tasks.verdict import CUT_OFF, Verdict

# Metrics by the kind of verdict that they count.
COUNTED = {
    "cut off": "cut_off",
    "no answer": "no_answer",
    "wrong": "wrong",
    "error": "errors",
    "died": "deaths",
    "timeout": "timeouts",
    "unknown": "unknown",
}


class Verified(NamedTuple):
    """The outcome of P groups of G completions.

    Attributes:
      rewards: f32 [P, G]; NaN where the reward is unknown.
      verdicts: [P][G]; empty for a task that has no `score`.
    """

    rewards: np.ndarray
    verdicts: list[list[Verdict]]


class Verifier:
    """Scores completions of a task that is verified on the host; a context manager."""

    def __init__(self, task: Any, *, workers: int = 0, timeout_seconds: float = 5.0):
        """Starts what the task's checks run in.

        Args:
          task: verified on the host; with workers it needs `texts` and `score` (see base.Task).
          workers: processes or sandboxes; 0 to score in this process.
          timeout_seconds: processor time per completion; used with workers only.

        Raises:
          ValueError: if workers is negative, timeout_seconds is not positive, or the task has no
            `score` for the workers.
        """
        if workers < 0:
            raise ValueError(f"verification.workers must be at least 0, got {workers}")
        if not timeout_seconds > 0:
            raise ValueError(
                f"verification.timeout_seconds must be positive, got {timeout_seconds}"
            )
        self._task, self._checker = task, None
        if getattr(task, "open_checker", None) is not None:
            self._checker = task.open_checker(workers, timeout_seconds)
        elif hasattr(task, "score"):
            self._checker = CheckProcesses(
                task.score, workers=workers, timeout_seconds=timeout_seconds
            )
        elif workers:
            raise ValueError(
                f"verification.workers must be 0 for a task without score(), got {workers}"
            )

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends processes and sandboxes."""
        if self._checker is not None:
            self._checker.close()

    def verify(self, verifier_inputs: Any, tokens: np.ndarray, token_mask: np.ndarray) -> Verified:
        """Scores completions; one that was cut off has reward 0.

        Args:
          verifier_inputs: of P prompts.
          tokens: i32 [P, G, T].
          token_mask: [P, G, T], 1 up to and including the first EOS.

        Raises:
          ValueError: if a reward lies outside [0, 1].
          VerificationError: if nothing can be checked on this machine.
        """
        if self._checker is None:
            rewards = self._task.verify(verifier_inputs, tokens, token_mask)
            return Verified(_in_range(np.asarray(rewards, np.float32)), [])
        texts = self._task.texts(tokens, token_mask)
        answers = np.asarray(verifier_inputs).tolist()
        ended = [
            (text, answer)
            for group, answer in zip(texts, answers)
            for text in group
            if text is not None
        ]
        found = iter(self._checker.verify(*zip(*ended)) if ended else [])
        cut_off = getattr(self._checker, "cut_off", CUT_OFF)
        verdicts = [[cut_off if text is None else next(found) for text in row] for row in texts]
        rewards = np.array([[v.reward for v in row] for row in verdicts], np.float32)
        return Verified(_in_range(rewards), verdicts)


def count_verdicts(verified: Verified) -> dict[str, int]:
    """Counts the completions that are not right, by the names of COUNTED."""
    kinds = Counter(verdict.kind for group in verified.verdicts for verdict in group)
    if not verified.verdicts:
        kinds["unknown"] = int(np.isnan(verified.rewards).sum())
    return {name: kinds[kind] for kind, name in COUNTED.items()}


def sum_parts(verified: Verified) -> dict[str, tuple[float, int]]:
    """Sums each of several rewards: (sum, number of completions that were scored) by name."""
    sums: dict[str, tuple[float, int]] = {}
    for verdict in (verdict for group in verified.verdicts for verdict in group):
        for name, reward in verdict.parts:
            if reward == reward:
                total, number = sums.get(name, (0.0, 0))
                sums[name] = total + reward, number + 1
    return sums


def _in_range(rewards: np.ndarray) -> np.ndarray:
    wrong = (rewards < 0) | (rewards > 1)
    if wrong.any():
        raise ValueError(f"rewards must lie in [0, 1], got {rewards[wrong][0]}")
    return rewards
