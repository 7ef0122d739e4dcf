"""Spectrum of a weight update: how many directions it moved in."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def rank_one_fraction(update: ArrayLike) -> jax.Array:
    """Share of an update's energy in its largest singular direction.

        σ₁² / Σ_i σ_i²

    The fraction is that of u₁ = the top right singular vector, which maximises it. It comes from
    the eigenvalues of the smaller Gram matrix: both figures are squares of singular values
    already, the trace needs no spectrum at all, and for a [vocabulary, model] head it costs one
    matrix product and a [model, model] problem instead of a decomposition of the whole.

    Args:
      update: ΔW = W(t) - W(0), `[..., rows, columns]`.

    Returns:
      `[...]`, in [1/rank, 1]; NaN for an update that is zero.

    Raises:
      ValueError: if `update` has fewer than two axes.
    """
    update = _scaled(update)
    tall = update if update.shape[-2] >= update.shape[-1] else jnp.swapaxes(update, -1, -2)
    # The highest precision: accelerators multiply float32 with fewer bits by default.
    gram = jnp.einsum("...nd,...ne->...de", tall, tall, precision=jax.lax.Precision.HIGHEST)
    return jnp.linalg.eigvalsh(gram)[..., -1] / jnp.trace(gram, axis1=-2, axis2=-1)


def effective_rank(update: ArrayLike) -> jax.Array:
    """Exponential of the entropy of the normalised singular values.

        exp(-Σ_i p_i log p_i),   p_i = σ_i / Σ_j σ_j

    By singular values: small ones count here, and the square root of a Gram matrix's eigenvalue
    keeps only half of its digits.

    Args:
      update: ΔW = W(t) - W(0), `[..., rows, columns]`.

    Returns:
      `[...]`, in [1, rank]; NaN for an update that is zero.

    Raises:
      ValueError: if `update` has fewer than two axes.
    """
    singular = jnp.linalg.svd(_scaled(update), compute_uv=False)
    p = singular / jnp.sum(singular, axis=-1, keepdims=True)
    return jnp.exp(jnp.sum(jax.scipy.special.entr(p), axis=-1))


def _scaled(update: ArrayLike) -> jax.Array:
    """Bring the largest entry to 1, since the squares of a small update underflow."""
    update = jnp.asarray(update, jnp.float32)
    if update.ndim < 2:
        raise ValueError(f"update must have at least two axes, got shape {update.shape}")
    return update / jnp.max(jnp.abs(update), axis=(-2, -1), keepdims=True)
