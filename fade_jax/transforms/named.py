"""Transformations by the name of their advantage: what a config names is a factory in here."""

from functools import partial

import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax import advantages as plain
from fade_jax.checks import check_finite, check_not_negative
from fade_jax.transforms.links import (
    AdvantageTransformation,
    chain,
    focal,
    standardize,
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
    return standardize(ddof, eps)


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
