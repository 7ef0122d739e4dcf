"""Every advantage with its hyperparameters, reference and transformation, for the common suites."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import numpy as np
import pytest

import fade_jax
from fade_jax import synthesis, transforms
from tests.fade_jax import reference


@dataclass(frozen=True)
class Case:
    """One advantage.

    `low` and `high` are the advantages of an all-failed and an all-solved group, or functions of
    the group size. The reference of a `whole_batch` case takes all groups at once.
    """

    name: str
    plain: Callable
    reference: Callable
    transformation: transforms.AdvantageTransformation
    keywords: dict = field(default_factory=dict)
    low: float | Callable = 0.0
    high: float | Callable = 0.0
    continuous: bool = True
    whole_batch: bool = False
    least: int = 2

    def __call__(self, rewards, where=None):
        """Calls the compiled advantage; one test compares it with the eager one."""
        return advantages_of_all_cases(rewards, where)[self.name]

    def eager(self, rewards, where=None):
        return self.plain(rewards, **self.keywords, where=where)

    def by_group(self, rewards):
        """Returns the reference in float64, group by group."""
        rewards = np.asarray(rewards, np.float64)
        groups = rewards.reshape(-1, rewards.shape[-1])
        if self.whole_batch:
            return self.reference(groups, **self.keywords).reshape(rewards.shape)
        results = [self.reference(group, **self.keywords) for group in groups]
        return np.stack(results).reshape(rewards.shape)


def case(name, keywords=None, label=None, **others):
    """Makes a case whose function, reference and transformation have one name."""
    keywords = keywords or {}
    return Case(
        label or name,
        getattr(fade_jax, name),
        getattr(reference, name),
        getattr(transforms, name)(**keywords),
        keywords,
        **others,
    )


SYNTHESIZED = synthesis.synthesize(synthesis.pass_at_k(2), group_size=64)
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
        "power_asym",
        fade_jax.power_asym,
        reference.fade,
        transforms.power_asym(alpha=1.5, delta=0.7),
        {"alpha": 1.5, "delta": 0.7},
    ),
    case("f_grpo", {"gamma": 0.5}),
    case("a_grae", {"omega": 0.6, "threshold": 0.8}, continuous=False),
    case("max_rl", continuous=False),
    case("tempered_likelihood", {"beta": 0.5}),
    case("log_mean_exp", {"beta": 2.0}),
    case("pkpo", {"k": 2}),
    case("pkpo", {"k": 2, "baseline": "none"}, high=2.0, label="pkpo_none"),
    case(
        "pkpo",
        {"k": 2, "baseline": "loo"},
        high=lambda size: -2 / (size - 1),
        least=3,
        label="pkpo_loo",
    ),
    case("pass_at_k_training", {"k": 2}, continuous=False),
    case("leave_one_out_pass_at_g"),
    case("quantile", {"level": 0.4}),
    case("quantile", {"level": 0.7, "standardize": False}, label="quantile_plain"),
    Case(
        "opo",
        lambda rewards, **keywords: fade_jax.opo(rewards, lengths=2 + 3 * rewards, **keywords),
        reference.opo,
        transforms.stateless(
            lambda rewards, **keywords: fade_jax.opo(rewards, lengths=2 + 3 * rewards, **keywords)
        ),
    ),
    Case(
        "synthesized",
        SYNTHESIZED,
        reference.synthesized_pass_at_2,
        transforms.stateless(SYNTHESIZED),
        low=lambda size: -2 / (size + 1),
        continuous=False,
    ),
    case("reinforce_plus_plus", low=-1.0, high=1.0, whole_batch=True),
    case("gpg", whole_batch=True),
]


@jax.jit
def advantages_of_all_cases(rewards, where=None):
    """Returns the advantages by case: one program compiles in half of the time of one for each."""
    size = rewards.shape[-1]
    return {case.name: case.eager(rewards, where) for case in CASES if case.least <= size}


BY_GROUP = [case for case in CASES if not case.whole_batch]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_case_by_group = pytest.mark.parametrize("case", BY_GROUP, ids=lambda case: case.name)


def compile_together(functions):
    """Returns functions of one array by name; one program of all compiles in half of the time."""

    @jax.jit
    def call_all(rewards):
        return {name: function(rewards) for name, function in functions.items()}

    return {name: lambda rewards, name=name: call_all(rewards)[name] for name in functions}


def binary_rewards(seed=0, shape=(6, 8)):
    """Returns groups of every kind: all failed, all solved and mixed."""
    rewards = np.random.default_rng(seed).integers(0, 2, shape).astype(np.float32)
    rewards[..., 0, :] = 0
    rewards[..., 1, :] = 1
    return rewards
