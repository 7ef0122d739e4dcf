"""Spectrum of a weight update: the number of directions that it moves in."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_integer, check_same_shape


def rank_one_fraction(update: ArrayLike) -> jax.Array:
    """Computes the share of an update's energy in its largest singular direction.

        σ₁² / Σ_i σ_i²

    Uses the eigenvalues of the smaller Gram matrix: for a [vocabulary, model] head this is one
    matrix product and a [model, model] eigenvalue problem, without a full decomposition.

    Args:
      update: ΔW = W(t) - W(0), `[..., rows, columns]`.

    Returns:
      `[...]`, in [1/rank, 1]; NaN for an update that is zero.

    Raises:
      ValueError: if `update` has fewer than two axes.

    Example:
      >>> print(fade_jax.diagnostics.rank_one_fraction(jnp.diag(jnp.array([3.0, 1.0]))))
      0.9
    """
    update = _scaled(update)
    tall = update if update.shape[-2] >= update.shape[-1] else jnp.swapaxes(update, -1, -2)
    # Highest precision, since accelerators multiply float32 with fewer bits by default.
    gram = jnp.einsum("...nd,...ne->...de", tall, tall, precision=jax.lax.Precision.HIGHEST)
    return jnp.linalg.eigvalsh(gram)[..., -1] / jnp.trace(gram, axis1=-2, axis2=-1)


def randomized_rank_one_fraction(
    update: ArrayLike, key: jax.Array, *, rank: int = 8, iterations: int = 8
) -> jax.Array:
    """Estimates `rank_one_fraction` of a large update from a few random directions.

        Q = orth((ΔW ΔWᵀ)ⁿ ΔW Ω),   σ₁² ≈ the top eigenvalue of (Qᵀ ΔW)(Qᵀ ΔW)ᵀ

    The energy Σσ² is exact, so the result is never too large; slowly decaying spectra need more
    iterations. Costs 2 (iterations + 1) products of ΔW with `rank` columns.

    Args:
      update: ΔW, `[rows, columns]`.
      key: for the directions Ω.
      rank: number of directions, at least 1.
      iterations: n, at least 0.

    Returns:
      scalar; NaN for an update that is zero.

    Raises:
      ValueError: if `update` is not a matrix or a count is too small.

    From arXiv:0909.4061.
    """
    singular = _randomized_singular_values(update, key, rank, iterations)
    return singular[0] ** 2 / jnp.sum(_scaled(update) ** 2)


def direction_fraction(update: ArrayLike, direction: ArrayLike) -> jax.Array:
    """Computes the share of an update's energy along one direction of its columns.

        |ΔW u|² / Σ_i σ_i²,   u = direction / |direction|

    Never above `rank_one_fraction`, which takes the best direction.

    Args:
      update: ΔW, `[..., rows, columns]`.
      direction: `[..., columns]`, such as the mean hidden state.

    Returns:
      `[...]`, in [0, 1]; NaN for an update or a direction that is zero.

    Raises:
      ValueError: if the shapes do not match.
    """
    update = _scaled(update)
    direction = jnp.asarray(direction, jnp.float32)
    check_same_shape("direction", direction, "a row of update", update[..., 0, :])
    unit = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
    along = jnp.einsum("...nd,...d->...n", update, unit, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(along**2, axis=-1) / jnp.sum(update**2, axis=(-2, -1))


def effective_rank(update: ArrayLike) -> jax.Array:
    """Computes the exponential of the entropy of the normalized singular values.

        exp(-Σ_i p_i log p_i),   p_i = σ_i / Σ_j σ_j

    Without a Gram matrix: small singular values matter here, and square roots of its eigenvalues
    keep only half of the digits.

    Args:
      update: ΔW = W(t) - W(0), `[..., rows, columns]`.

    Returns:
      `[...]`, in [1, rank]; NaN for an update that is zero.

    Raises:
      ValueError: if `update` has fewer than two axes.
    """
    return _exponential_entropy(jnp.linalg.svd(_scaled(update), compute_uv=False))


def randomized_effective_rank(
    update: ArrayLike, key: jax.Array, *, rank: int = 64, iterations: int = 8
) -> jax.Array:
    """Estimates `effective_rank` of a large update from its largest singular values.

        Q = orth((ΔW ΔWᵀ)ⁿ ΔW Ω),   σ_1 … σ_rank ≈ the singular values of Qᵀ ΔW

    Omits the singular values beyond `rank`: the result is never too large, and accurate if their
    sum is small.

    Args:
      update: ΔW, `[rows, columns]`.
      key: for the directions Ω.
      rank: number of singular values, at least 1.
      iterations: n, at least 0.

    Returns:
      scalar, in [1, rank]; NaN for an update that is zero.

    Raises:
      ValueError: if `update` is not a matrix or a count is too small.

    From arXiv:0909.4061.
    """
    return _exponential_entropy(_randomized_singular_values(update, key, rank, iterations))


def _exponential_entropy(singular: jax.Array) -> jax.Array:
    p = singular / jnp.sum(singular, axis=-1, keepdims=True)
    return jnp.exp(jnp.sum(jax.scipy.special.entr(p), axis=-1))


def _randomized_singular_values(
    update: ArrayLike, key: jax.Array, rank: int, iterations: int
) -> jax.Array:
    """Returns the largest `rank` singular values of the scaled update, in descending order."""
    check_integer("rank", rank, 1)
    check_integer("iterations", iterations, 0)
    update = _scaled(update)
    if update.ndim != 2:
        raise ValueError(f"update must be a matrix, got shape {update.shape}")
    return _singular_values_within(update, key, min(rank, *update.shape), iterations)


@partial(jax.jit, static_argnums=(2, 3))
def _singular_values_within(
    update: jax.Array, key: jax.Array, rank: int, iterations: int
) -> jax.Array:
    directions = update @ jax.random.normal(key, (update.shape[1], rank))

    def iterate(_: int, directions: jax.Array) -> jax.Array:
        # Orthogonalize before every product, or all columns approach the first direction.
        rows = update.T @ jnp.linalg.qr(directions)[0]
        return update @ jnp.linalg.qr(rows)[0]

    directions = jax.lax.fori_loop(0, iterations, iterate, directions)
    projected = jnp.linalg.qr(directions)[0].T @ update
    return jnp.linalg.svd(projected, compute_uv=False)


def _scaled(update: ArrayLike) -> jax.Array:
    """Scales the largest entry to 1, since the squares of a small update underflow."""
    update = jnp.asarray(update, jnp.float32)
    if update.ndim < 2:
        raise ValueError(f"update must have at least two axes, got shape {update.shape}")
    return update / jnp.max(jnp.abs(update), axis=(-2, -1), keepdims=True)
