"""Transformations by the name of their advantage: what a config names is a factory in here."""

from functools import partial

import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax import advantages as plain
from fade_jax.advantages.pass_at_k import PKPO_BASELINES
from fade_jax.checks import (
    check_finite,
    check_integer,
    check_not_negative,
    check_one_of,
    check_positive,
    check_probability,
    check_rate,
    check_zero_or_one,
)
from fade_jax.transforms.base import (
    AdvantageTransformation,
    chain,
    focal,
    stateless,
    suppress,
)


def reinforce(baseline: ArrayLike = 0.0) -> AdvantageTransformation:
    """Lift `fade_jax.reinforce`."""
    check_finite("baseline", baseline)
    return stateless(partial(plain.reinforce, baseline=baseline))


def psr() -> AdvantageTransformation:
    """Lift `fade_jax.psr`."""
    return stateless(plain.psr)


def nsr() -> AdvantageTransformation:
    """Lift `fade_jax.nsr`."""
    return stateless(plain.nsr)


def w_reinforce(positive_weight: ArrayLike = 0.1) -> AdvantageTransformation:
    """Lift `fade_jax.w_reinforce`."""
    check_not_negative("positive_weight", positive_weight)
    return stateless(partial(plain.w_reinforce, positive_weight=positive_weight))


def rloo() -> AdvantageTransformation:
    """Lift `fade_jax.rloo`."""
    return stateless(plain.rloo)


def dr_grpo() -> AdvantageTransformation:
    """Lift `fade_jax.dr_grpo`."""
    return stateless(plain.dr_grpo)


def grpo(ddof: int = 1, eps: ArrayLike = 1e-6) -> AdvantageTransformation:
    """Lift `fade_jax.grpo`."""
    check_zero_or_one("ddof", ddof)
    check_not_negative("eps", eps)
    return stateless(partial(plain.grpo, ddof=ddof, eps=eps))


def asym_grpo(delta: ArrayLike) -> AdvantageTransformation:
    """`fade_jax.asym_grpo` as a chain, so that the state holds `delta`."""
    return chain(dr_grpo(), suppress(delta))


def power(alpha: ArrayLike, scale: ArrayLike = 1.0) -> AdvantageTransformation:
    """`fade_jax.power` as a chain, so that the state holds `alpha`."""
    check_finite("scale", scale)

    def scaled(advantages, where=None):
        return jnp.asarray(scale) * plain.dr_grpo(advantages, where=where)

    return chain(stateless(scaled), focal(alpha))


def power_asym(alpha: ArrayLike, delta: ArrayLike) -> AdvantageTransformation:
    """`fade_jax.fade` at a fixed α and δ, as a chain, so that the state holds both."""
    return chain(dr_grpo(), focal(alpha), suppress(delta))


def f_grpo(gamma: ArrayLike) -> AdvantageTransformation:
    """Lift `fade_jax.f_grpo`."""
    check_not_negative("gamma", gamma)
    return stateless(partial(plain.f_grpo, gamma=gamma))


def a_grae(omega: ArrayLike, threshold: ArrayLike = 1.0) -> AdvantageTransformation:
    """Lift `fade_jax.a_grae`."""
    check_probability("omega", omega)
    check_positive("threshold", threshold)
    return stateless(partial(plain.a_grae, omega=omega, threshold=threshold))


def max_rl() -> AdvantageTransformation:
    """Lift `fade_jax.max_rl`."""
    return stateless(plain.max_rl)


def log_mean_exp(beta: ArrayLike = 2.0) -> AdvantageTransformation:
    """Lift `fade_jax.log_mean_exp`."""
    check_positive("beta", beta)
    return stateless(partial(plain.log_mean_exp, beta=beta))


def pkpo(k: int, baseline: str = "loo_minus_one") -> AdvantageTransformation:
    """Lift `fade_jax.pkpo`."""
    check_integer("k", k, 1)
    check_one_of("baseline", baseline, PKPO_BASELINES)
    return stateless(partial(plain.pkpo, k=k, baseline=baseline))


def pass_at_k_training(k: int) -> AdvantageTransformation:
    """Lift `fade_jax.pass_at_k_training`."""
    check_integer("k", k, 1)
    return stateless(partial(plain.pass_at_k_training, k=k))


def leave_one_out_pass_at_g() -> AdvantageTransformation:
    """Lift `fade_jax.leave_one_out_pass_at_g`."""
    return stateless(plain.leave_one_out_pass_at_g)


def quantile(level: ArrayLike = 0.4, standardize: bool = True) -> AdvantageTransformation:
    """Lift `fade_jax.quantile`."""
    check_rate("level", level)
    return stateless(partial(plain.quantile, level=level, standardize=standardize))


def opo() -> AdvantageTransformation:
    """Lift `fade_jax.opo`; reads the statistic `lengths`, `[..., group]`."""
    return stateless(plain.opo, "lengths")


def reinforce_plus_plus() -> AdvantageTransformation:
    """Lift `fade_jax.reinforce_plus_plus`."""
    return stateless(plain.reinforce_plus_plus)


def gpg() -> AdvantageTransformation:
    """Lift `fade_jax.gpg`."""
    return stateless(plain.gpg)
