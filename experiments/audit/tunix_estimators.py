"""Advantages of google-tunix: those of its registry that read rewards alone."""

from importlib.metadata import version

import numpy as np
import tunix  # noqa: F401  # pyright: ignore[reportMissingImports]
from tunix.rl import function_registry  # pyright: ignore[reportMissingImports]

from experiments.audit.estimators import Estimator, Report

_CLAIMS = {"grpo": "2 arcsin √p", "rloo": "p", "drgrpo": "p"}


def report() -> Report:
    """Returns tunix's estimators; it has none of pass@k."""
    estimators = [_make(*item) for item in _CLAIMS.items()]
    return Report("google-tunix", version("google-tunix"), estimators, {}, [])


def _make(name, claim):
    estimator = function_registry.get_advantage_estimator(name)

    def advantages(rewards, index, lengths):
        del lengths
        rewards = np.asarray(rewards, np.float64)  # as its reward manager gives them
        return estimator(rewards=rewards, num_generations=int((index == index[0]).sum()))

    return Estimator(name, claim, advantages)
