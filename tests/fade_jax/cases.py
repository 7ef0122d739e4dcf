"""Every advantage with hyperparameters, its reference and its transformation, for one suite."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

import fade_jax
from fade_jax import transforms
from tests.fade_jax import reference


@dataclass(frozen=True)
class Case:
    """One advantage; `low` and `high` are what an all-failed and an all-solved group receives."""

    name: str
    plain: Callable
    reference: Callable
    transformation: transforms.AdvantageTransformation
    keywords: dict = field(default_factory=dict)
    low: float = 0.0
    high: float = 0.0
    continuous: bool = True

    def __call__(self, rewards, **keywords):
        return self.plain(rewards, **self.keywords, **keywords)

    def by_group(self, rewards):
        """The reference, group by group, in float64."""
        rewards = np.asarray(rewards, np.float64)
        groups = rewards.reshape(-1, rewards.shape[-1])
        results = [self.reference(group, **self.keywords) for group in groups]
        return np.stack(results).reshape(rewards.shape)


def case(name, keywords=None, **others):
    """A case whose plain function, reference and transformation go by one name."""
    keywords = keywords or {}
    return Case(
        name,
        getattr(fade_jax, name),
        getattr(reference, name),
        getattr(transforms, name)(**keywords),
        keywords,
        **others,
    )


CASES = [
    case("reinforce", {"baseline": 0.3}, low=-0.3, high=0.7),
    case("psr", high=1.0, continuous=False),
    case("nsr", low=-1.0, continuous=False),
    case("w_reinforce", {"positive_weight": 0.1}, low=-1.0, high=0.1, continuous=False),
    case("rloo"),
    case("dr_grpo"),
    case("grpo", {"ddof": 1, "eps": 1e-6}),
    case("asym_grpo", {"delta": 0.5}),
    case("power", {"alpha": 2.5, "scale": 1.7}),
    Case(
        "fade",
        fade_jax.fade,
        reference.fade,
        transforms.power_asym(alpha=1.5, delta=0.7),
        {"alpha": 1.5, "delta": 0.7},
    ),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def binary_rewards(seed=0, shape=(6, 8)):
    """Groups of every kind: all failed, all solved, and mixed."""
    rewards = np.random.default_rng(seed).integers(0, 2, shape).astype(np.float32)
    rewards[..., 0, :] = 0
    rewards[..., 1, :] = 1
    return rewards
