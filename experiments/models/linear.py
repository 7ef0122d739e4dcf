"""The product of every token with a weight matrix, in the shape and type that compilers do best."""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# What jax.checkpoint knows the products by.
NAME = "product with a weight"

ROWS_BY_COLUMNS = ((1,), (0,))
ROWS_BY_ROWS = ((1,), (1,))
COLUMNS_BY_COLUMNS = ((0,), (0,))


def linear(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x @ weight, [..., N] in x's dtype, of tokens [..., K] and a weight [K, N] of any dtype."""
    # One row per token: over several axes XLA's CPU backend would turn the gradient of the output
    # round, element by element, for the gradient of the weight, which took half of a backward pass.
    rows, weight = x.reshape(-1, x.shape[-1]), weight.astype(x.dtype)
    product = _rounded_once if _on_one_device() and x.dtype == jnp.bfloat16 else jnp.matmul
    out = checkpoint_name(product(rows, weight), NAME)
    return out.reshape(*x.shape[:-1], weight.shape[-1])


def linear_of_few(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x @ weight.T, [..., N] in x's dtype, of some hundred tokens [..., K] at most.

    The weight, [N, K] of any dtype, is stored as it is read by a product with the weight on the
    left. With few tokens XLA's CPU backend is faster at that, and this is the only difference to
    `linear`.
    """
    rows, weight = x.reshape(-1, x.shape[-1]), weight.astype(x.dtype)

    product = _product if _on_one_device() else _plain

    def left(rows, weight):
        # Without the barrier XLA turns the product round again.
        return jax.lax.optimization_barrier(product(weight, rows, ROWS_BY_ROWS)).T

    def right(rows, weight):
        return _plain(rows, weight, ROWS_BY_ROWS)

    out = jax.lax.platform_dependent(rows, weight, cpu=left, default=right)
    return out.reshape(*x.shape[:-1], weight.shape[0])


@jax.custom_vjp
def _rounded_once(x, weight):
    """x @ weight in bfloat16, with gradients that are products of bfloat16 too.

    XLA's CPU backend has a product of bfloat16 with a float32 result, twice as fast as that of
    float32, but none with a bfloat16 result; and the gradients of the former would be products of
    float32. Elsewhere the plain product adds up in float32 by itself.
    """
    return _product(x, weight, ROWS_BY_COLUMNS)


def _forward(x, weight):
    return _rounded_once(x, weight), (x, weight)


def _backward(saved, gradient):
    x, weight = saved
    return (
        _product(gradient, weight, ROWS_BY_ROWS),
        _product(x, gradient, COLUMNS_BY_COLUMNS),
    )


_rounded_once.defvjp(_forward, _backward)


def _on_one_device():
    """False where devices may sum what each has of a product: they should send it as stored."""
    return jax.sharding.get_abstract_mesh().size <= 1


def _product(left, right, contracted):
    def wide(left, right):
        axes = contracted, ((), ())
        out = jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)
        return out.astype(left.dtype)

    plain = functools.partial(_plain, contracted=contracted)
    return jax.lax.platform_dependent(left, right, cpu=wide, default=plain)


def _plain(left, right, contracted):
    return jax.lax.dot_general(left, right, (contracted, ((), ())))
