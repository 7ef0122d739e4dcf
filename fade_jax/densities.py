"""Beta densities of solve rates: expectations under them, and their fit to group counts."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_integer, check_positive, check_value


class Beta(NamedTuple):
    """Density of the solve rate over prompts, f(p) ∝ p^{a-1} (1-p)^{b-1}.

    Attributes:
      a: above 0; 1 with b = 1 is uniform.
      b: above 0.
    """

    a: ArrayLike = 1.0
    b: ArrayLike = 1.0


UNIFORM = Beta(1.0, 1.0)


def beta_binomial(density: Beta, n: int) -> jax.Array:
    """Computes the probability of each number of successes in n rollouts of a random prompt.

        P(k) = C(n,k) B(k+a, n-k+b) / B(a,b)

    The mean of a polynomial in Bernstein form is its coefficients times these probabilities.

    Args:
      density: of the solve rate over prompts.
      n: number of rollouts.

    Returns:
      `[n + 1]`, float32.

    Raises:
      ValueError: if a parameter of the density is not above 0, or n is negative.
    """
    _check_density(density)
    check_integer("n", n, 0)
    return _beta_binomial(density, n)


@partial(jax.jit, static_argnums=1)
def _beta_binomial(density: Beta, n: int) -> jax.Array:
    a, b = (jnp.asarray(x, jnp.float32) for x in density)
    k = jnp.arange(n, dtype=jnp.float32)
    # Ratios of neighbors, since the beta functions underflow.
    steps = jnp.log((n - k) * (a + k)) - jnp.log((k + 1) * (b + n - k - 1))
    return jax.nn.softmax(jnp.concatenate([jnp.zeros(1), jnp.cumsum(steps)]))


def quadrature(density: Beta, num_nodes: int = 32) -> tuple[jax.Array, jax.Array]:
    """Computes nodes and weights of the mean over a density, exact up to degree 2·num_nodes - 1.

        E_f[g(p)] ≈ Σ_i w_i g(p_i)

    Gauss-Jacobi, by the eigenvalues of the recurrence matrix (Golub and Welsch, 1969).

    Args:
      density: of the solve rate.
      num_nodes: at least 1.

    Returns:
      nodes `[num_nodes]` in (0, 1) and weights `[num_nodes]`, which sum to 1.

    Raises:
      ValueError: if a parameter of the density is not above 0, or `num_nodes` is below 1.
    """
    _check_density(density)
    check_integer("num_nodes", num_nodes, 1)
    return _quadrature(density, num_nodes)


@partial(jax.jit, static_argnums=1)
def _quadrature(density: Beta, num_nodes: int) -> tuple[jax.Array, jax.Array]:
    # Jacobi polynomials on [-1, 1] are orthogonal under (1-x)^α (1+x)^β, with x = 2p - 1.
    alpha = jnp.asarray(density.b, jnp.float32) - 1
    beta = jnp.asarray(density.a, jnp.float32) - 1
    total = alpha + beta
    n = jnp.arange(1, num_nodes, dtype=jnp.float32)
    later = (beta - alpha) * total / ((2 * n + total) * (2 * n + total + 2))
    diagonal = jnp.concatenate([((beta - alpha) / (total + 2))[None], later])
    # At n = 1 the factor (n + α + β) cancels against (2n + α + β - 1), which may be 0.
    first = 4 * (1 + alpha) * (1 + beta) / ((2 + total) ** 2 * (3 + total))
    m = n[1:]
    rest = 4 * m * (m + alpha) * (m + beta) * (m + total)
    rest /= (2 * m + total) ** 2 * (2 * m + total + 1) * (2 * m + total - 1)
    beside = jnp.sqrt(jnp.concatenate([first[None], rest]))[: num_nodes - 1]
    matrix = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
    nodes, vectors = jnp.linalg.eigh(matrix)
    return (nodes + 1) / 2, vectors[0] ** 2


def fit_beta(num_correct: ArrayLike, group_size: ArrayLike, *, prior: ArrayLike = 1.0) -> Beta:
    """Fits a density to the numbers of successes of some groups, by moments.

        E p = E[K]/G,   E p² = E[K(K-1)]/(G(G-1)),   both without bias at any G
        s = (E p - E p²)/(E p² - (E p)²),   a = s E p,   b = s (1 - E p)

    Args:
      num_correct: K, `[groups]`, at most the group size.
      group_size: G ≥ 2, a scalar or `[groups]`; groups below 2 are left out.
      prior: weight of a uniform density, in groups; it keeps the fit finite.

    Returns:
      the density, with a + b at most 1000.

    Raises:
      ValueError: if `prior` is not above 0 or K is outside [0, G].
    """
    check_positive("prior", prior)
    if not isinstance(group_size, jax.core.Tracer):
        allowed = f"in [0, group_size = {group_size}]"
        check_value("num_correct", num_correct, allowed, lambda k: (k >= 0) & (k <= group_size))
    return _fit_beta(num_correct, group_size, prior)


@jax.jit
def _fit_beta(num_correct: ArrayLike, group_size: ArrayLike, prior: ArrayLike) -> Beta:
    k = jnp.asarray(num_correct, jnp.float32)
    n = jnp.broadcast_to(jnp.asarray(group_size, jnp.float32), k.shape)
    counts = n >= 2
    groups = jnp.sum(counts) + prior
    mean = (jnp.sum(k / jnp.maximum(n, 1), where=counts) + prior / 2) / groups
    pairs = k * (k - 1) / jnp.maximum(n * (n - 1), 1)
    square = (jnp.sum(pairs, where=counts) + prior / 3) / groups
    spread = jnp.maximum(square - mean**2, mean * (1 - mean) / 1001)
    strength = jnp.maximum(mean - square, 0) / spread
    # If all groups are solved or failed: the smallest valid parameters.
    strength = jnp.maximum(strength, 1e-3)
    return Beta(strength * mean, strength * (1 - mean))


def _check_density(density: Beta) -> None:
    check_positive("density.a", density.a)
    check_positive("density.b", density.b)
