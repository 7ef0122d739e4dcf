"""Builds advantages from the objective that they ascend: the inverse of the decomposition.

With b_k the Bernstein coefficients of a given expected weight h, every advantage with

    w_S(k+1) + w_F(k) = b_k,   k successes among the other G-1 rollouts

has E ĝ = h(p) ∇p exactly, at a finite group size. A *target* maps the group size to b. A *split*
divides b between successes and failures: any split is exact, and it sets the variance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fade_jax.advantages.base import advantage as advantage_of
from fade_jax.checks import check_integer, check_not_negative, check_positive
from fade_jax.decomposition import OutcomeWeights
from fade_jax.densities import UNIFORM, Beta
from fade_jax.groups import as_group, group_count

Target = Callable[[int], np.ndarray]
Split = Callable[[np.ndarray, Beta], OutcomeWeights]


def pass_at_k(k: int) -> Target:
    """Targets F = pass@k, exactly: h = k q^{k-1}, b_j = k C(G-1-j, k-1) / C(G-1, k-1).

    Raises:
      ValueError: if k is below 1; for a group size below k.
    """
    check_integer("k", k, 1)

    def coefficients(group_size: int) -> np.ndarray:
        if k > group_size:
            raise ValueError(f"k must be at most the group size {group_size}, got {k}")
        n, j = group_size - 1, np.arange(group_size)
        i = np.arange(k - 1)[:, None]
        return k * np.prod(np.maximum(n - j - i, 0) / (n - i), axis=0)

    return coefficients


def log_solve_rate() -> Target:
    """Targets F = Σ_{k=1}^{G} pass@k / k, the longest truncation of log p for a group of G.

    h = Σ_{k=0}^{G-1} q^k, b_j = G / (j+1).
    """
    return lambda group_size: group_size / np.arange(1.0, group_size + 1)


def tempered_likelihood(beta: float) -> Target:
    """Targets F = p^{1-β} / (1-β), as far as a group of G reaches.

    h = Σ_{k=0}^{G-1} (β)_k/k! q^k, the power series of p^{-β} in q with the rising factorial (β)_k;
    b_j = Γ(G+β) Γ(j+1) / (Γ(G) Γ(j+1+β)). The truncation keeps h near p^{-β} where p is well above
    1/G, and at p = 0 it ends at Γ(G+β) / (Γ(G) Γ(1+β)), about G^β. β = 1 is `log_solve_rate`.

    Raises:
      ValueError: if `beta` is negative.
    """
    check_not_negative("beta", beta)

    def coefficients(group_size: int) -> np.ndarray:
        m = np.arange(1.0, group_size)
        # b_{G-1} = 1, and each b_{j-1} is b_j (j+β)/j.
        return np.append(np.cumprod(((m + beta) / m)[::-1])[::-1], 1.0)

    return coefficients


def polynomial(*coefficients: float) -> Target:
    """Targets h = c_0 + c_1 p + c_2 p² + …, exactly: b_j = Σ_i c_i C(j, i) / C(G-1, i).

    Raises:
      ValueError: for a group size not above the degree.
    """

    def bernstein(group_size: int) -> np.ndarray:
        if len(coefficients) > group_size:
            raise ValueError(
                f"coefficients must be at most {group_size} for a group of {group_size}, "
                f"got {len(coefficients)}"
            )
        j = np.arange(group_size, dtype=np.float64)
        total, ratio = np.zeros(group_size), np.ones(group_size)
        for i, c in enumerate(coefficients):
            total += c * ratio
            ratio = ratio * np.maximum(j - i, 0) / max(group_size - 1 - i, 1)
        return total

    return bernstein


def weight(h: Callable[[jax.Array], ArrayLike], *, cutoff: float = 1e-3) -> Target:
    """Targets any expected weight h(p), by least squares over [0, 1].

    Drops directions of b that barely change h: they improve the fit a little but need coefficients
    in the thousands, and so raise the variance. Polynomials of low degree stay exact; with `cutoff`
    0, those of degree up to G-1.

    Args:
      h: solve rates `[n]` in (0, 1), float64, to weights `[n]`.
      cutoff: smallest singular value kept, as a share of the largest, at least 0.

    Returns:
      a target.

    Raises:
      ValueError: if `cutoff` is negative.
    """
    check_not_negative("cutoff", cutoff)

    @lru_cache
    def coefficients(group_size: int) -> np.ndarray:
        nodes, of_node = np.polynomial.legendre.leggauss(2 * group_size + 16)
        nodes, root = (nodes + 1) / 2, np.sqrt(of_node / 2)
        basis = root[:, None] * _bernstein_basis(group_size - 1, nodes)
        return np.linalg.lstsq(basis, root * _in_float64(h, nodes), rcond=cutoff)[0]

    return coefficients


def bernstein_weight(h: Callable[[jax.Array], ArrayLike]) -> Target:
    """Targets any expected weight h(p), by its Bernstein approximation: b_k = h((k + ½)/G).

    Less accurate than `weight`, but b stays within the range of h and keeps its sign and slope,
    which suits weights that diverge at 0 or 1.

    Args:
      h: solve rates `[n]` in (0, 1), float64, to weights `[n]`.

    Returns:
      a target.
    """
    return lambda group_size: _in_float64(h, (np.arange(group_size) + 0.5) / group_size)


def objective(f: Callable[[jax.Array], ArrayLike]) -> Target:
    """Targets any objective F(p), by least squares on its derivative.

    Args:
      f: a solve rate in (0, 1) to the objective, a scalar to a scalar, differentiable in JAX.

    Returns:
      a target.
    """
    return weight(jax.vmap(jax.grad(lambda p: jnp.asarray(f(p)))))


def power(alpha: float) -> Target:
    """Targets F = pass@α / α: h = q^{α-1}, exact for integer α.

    Raises:
      ValueError: if `alpha` is not above 0.
    """
    check_positive("alpha", alpha)
    if float(alpha).is_integer():
        exact = pass_at_k(int(alpha))
        return lambda group_size: exact(group_size) / alpha
    return weight(lambda p: (1 - p) ** (alpha - 1))


def log_mean_exp(beta: float) -> Target:
    """Targets F = log(1 + κp)/β, κ = e^β - 1, by least squares.

    Raises:
      ValueError: if `beta` is not above 0.
    """
    check_positive("beta", beta)
    kappa = np.expm1(beta)
    return weight(lambda p: kappa / (beta * (1 + kappa * p)))


def minimum_variance(b: np.ndarray, density: Beta) -> OutcomeWeights:
    """Splits b with the smallest second moment of A over a Beta density of solve rates.

        w_S(k+1) = b_k (G-1-k+b)/(G-1+a+b),   w_F(k) = b_k (k+a)/(G-1+a+b)

    For h = 1 and a uniform density it is A_i = r_i - (K_{-i}+1)/(G+1), a leave-one-out baseline
    with Laplace smoothing; for a and b in a large multiple of p and q, the oracle baseline r - p.
    """
    k, n = np.arange(len(b)), len(b) - 1
    alpha, beta = (jnp.asarray(x, jnp.float32) for x in density)
    share = jnp.asarray(b, jnp.float32) / (n + alpha + beta)
    return OutcomeWeights(share * (n - k + beta), share * (k + alpha))


def even(b: np.ndarray, density: Beta) -> OutcomeWeights:
    """Splits b with the smallest norm: half to each, w_S(k+1) = w_F(k) = b_k/2."""
    del density
    half = jnp.asarray(b, jnp.float32) / 2
    return OutcomeWeights(half, half)


def zero_sum(b: np.ndarray, density: Beta) -> OutcomeWeights:
    """Splits b so that the advantages of every group add up to 0, K w_S(K) = (G-K) w_F(K).

    Raises:
      ValueError: if there is no such split; the weight of a solved group has to be 0.
    """
    del density
    size = len(b)
    success, failure = np.zeros((2, size))
    for k in range(size):  # w_F(0) = 0, and each w_S(k+1) determines w_F(k+1)
        success[k] = b[k] - failure[k]
        if k + 1 < size:
            failure[k + 1] = (k + 1) / (size - k - 1) * success[k]
    if abs(success[-1]) > 1e-6 * max(np.max(np.abs(b)), 1e-30):
        raise ValueError(
            f"this target has no split with zero sum in a group of {size}: "
            f"a solved group would get {success[-1]:.3g}"
        )
    return OutcomeWeights(jnp.asarray(success, jnp.float32), jnp.asarray(failure, jnp.float32))


def synthesize(
    target: Target,
    group_size: int,
    density: Beta = UNIFORM,
    *,
    split: Split = minimum_variance,
) -> Callable[..., jax.Array]:
    """Builds an advantage whose expected gradient is h(p) ∇p, for a given h or objective.

        A_i = w_S(K) for a success, -w_F(K) for a failure

    Args:
      target: `pass_at_k(k)`, `power(alpha)`, `log_solve_rate()`, `log_mean_exp(beta)`,
        `tempered_likelihood(beta)`, `polynomial(...)`, `objective(F)`, `weight(h)`, or a function
        from the group size G to the Bernstein coefficients b `[G]` of h.
      group_size: the largest group, at least 1.
      density: of the solve rates, for the split; its parameters may be traced, such as from
        `fade_jax.densities.fit_beta`.
      split: `minimum_variance`, `even`, `zero_sum`, or a function of b and the density.

    Returns:
      `advantage(rewards, *, where=None)` for binary rewards `[..., group]` with a group axis of
      at most `group_size`. Masked groups too small for the target get 0.

    Raises:
      ValueError: if the target or the split cannot be reached with `group_size`.

    Example:
      >>> pass_at_2 = fade_jax.synthesis.synthesize(fade_jax.synthesis.pass_at_k(2), 4)
      >>> F = fade_jax.decomposition.implied_objective(pass_at_2, 0.5, 4)
      >>> print(f"{F:.2f}")
      0.75
    """
    check_integer("group_size", group_size, 1)
    split(target(group_size), density)  # raises if the target cannot be reached

    def weights_of(size: int, width: int) -> jax.Array:
        """Returns w_S and w_F of a group of `size` by its number of successes, `[2, width]`."""
        try:
            success, failure = split(target(size), density)
        except ValueError:
            return jnp.zeros((2, width))
        pad = (0, width - size - 1)
        return jnp.stack([jnp.pad(success, (1, pad[1])), jnp.pad(failure, (0, pad[1] + 1))])

    @advantage_of("0 or 1")
    def advantage(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
        masked = where is not None
        rewards, where = as_group(rewards, where)
        largest = rewards.shape[-1]
        if largest > group_size:
            raise ValueError(f"rewards must have a group of at most {group_size}, got {largest}")
        success = rewards > 0.5
        solved = group_count(where & success).astype(jnp.int32)
        if masked:
            empty = jnp.zeros((2, largest + 1))
            tables = jnp.stack(
                [empty, *(weights_of(size, largest + 1) for size in range(1, largest + 1))]
            )
            of_group = tables[group_count(where).astype(jnp.int32), :, solved]
        else:
            of_group = jnp.moveaxis(weights_of(largest, largest + 1), 0, -1)[solved]
        advantages = jnp.where(success, of_group[..., 0], -of_group[..., 1])
        return jnp.where(where, advantages, 0)

    return advantage


def _in_float64(h: Callable[[jax.Array], ArrayLike], p: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(h(jnp.asarray(p)), np.float64)


def _bernstein_basis(degree: int, p: np.ndarray) -> np.ndarray:
    """B_k(p), `[len(p), degree + 1]`, float64, by the recurrence of averages."""
    basis = np.ones((len(p), 1))
    for _ in range(degree):
        grown = np.zeros((len(p), basis.shape[1] + 1))
        grown[:, :-1] += (1 - p)[:, None] * basis
        grown[:, 1:] += p[:, None] * basis
        basis = grown
    return basis
