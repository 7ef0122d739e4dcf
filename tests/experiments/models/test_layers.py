"""The product of tokens and weights, against float64; in bfloat16 it is rounded once."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models.layers import linear, linear_small_batch

SHAPE, WIDTH = (2, 3, 65), 40
ULP = {jnp.float32: 2.0**-20, jnp.bfloat16: 2.0**-8}


@pytest.fixture(scope="module", params=ULP, ids=["float32", "bfloat16"])
def case(request):
    """(dtype, x, weight, cotangent): numbers that bfloat16 holds exactly, in float64."""
    rng = np.random.default_rng(0)
    arrays = (rng.normal(size=shape) for shape in (SHAPE, (SHAPE[-1], WIDTH), (*SHAPE[:-1], WIDTH)))
    return request.param, *(np.float64(np.asarray(a, jnp.bfloat16)) for a in arrays)


def close(actual, expected, dtype):
    """Within one rounding of each number, next to those that cancel of the whole."""
    scale = ULP[dtype] * (np.abs(expected) + (1e-3 if dtype == jnp.bfloat16 else 1.0))
    assert np.all(np.abs(np.float64(actual) - expected) <= scale)


class TestLinear(chex.TestCase):
    """The value under every way of running it."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_matches_float64(self):
        rng = np.random.default_rng(1)
        x = np.asarray(rng.normal(size=SHAPE), jnp.bfloat16)
        weight = rng.normal(size=(SHAPE[-1], WIDTH)).astype(np.float32)  # rounded to x's type
        out = self.variant(linear)(x, weight)
        assert out.dtype == jnp.bfloat16
        expected = np.float64(x) @ np.float64(np.asarray(weight, jnp.bfloat16))
        close(out, expected, jnp.bfloat16)


def test_value_and_gradients_match_float64(case):
    dtype, x, weight, cotangent = case
    x_, weight_, cotangent_ = (jnp.asarray(a, dtype) for a in (x, weight, cotangent))
    out, pull = jax.vjp(linear, x_, weight_)
    dx, dw = pull(cotangent_)
    assert {out.dtype, dx.dtype, dw.dtype} == {jnp.dtype(dtype)}
    close(out, x @ weight, dtype)
    close(dx, cotangent @ weight.T, dtype)
    rows = x.reshape(-1, SHAPE[-1]), cotangent.reshape(-1, WIDTH)
    close(dw, rows[0].T @ rows[1], dtype)


def test_vmap_is_a_loop(case):
    dtype, x, weight, _ = case
    x, weights = jnp.asarray(x, dtype), jnp.asarray([weight, 2 * weight, -weight], dtype)
    together = jax.vmap(linear, (None, 0))(x, weights)
    close(together, np.stack([np.float64(linear(x, w)) for w in weights]), dtype)


def test_of_few_tokens_matches_float64_with_a_turned_weight(case):
    dtype, x, weight, _ = case
    x, turned = jnp.asarray(x, dtype), jnp.asarray(weight.T, jnp.float32)
    out = jax.jit(linear_small_batch)(x, turned)
    assert out.dtype == dtype
    close(out, np.float64(x) @ weight, dtype)
    weights = jnp.stack([turned, 2 * turned])
    together = jax.vmap(linear_small_batch, (None, 0))(x, weights)
    close(together, np.float64(x) @ np.stack([weight, 2 * weight])[:, None], dtype)


def test_the_weight_stays_on_the_left_of_few_tokens():
    """XLA would turn the product round, which is slower."""
    x, weight = jnp.ones(SHAPE), jnp.ones((WIDTH, SHAPE[-1]))
    text = jax.jit(linear_small_batch).lower(x, weight).compile().as_text()
    results = re.findall(r"f32\[(\d+,\d+)\]\S* dot\(", text)
    assert results == [f"{WIDTH},{SHAPE[0] * SHAPE[1]}"]


def test_the_gradient_of_a_float32_weight_is_float32():
    x, weight = jnp.ones(SHAPE, jnp.bfloat16), jnp.ones((SHAPE[-1], WIDTH))
    gradient = jax.grad(lambda w: jnp.sum(linear(x, w).astype(jnp.float32)))(weight)
    assert gradient.dtype == jnp.float32
    np.testing.assert_array_equal(gradient, np.full(weight.shape, SHAPE[0] * SHAPE[1]))


def test_products_of_bfloat16_have_a_float32_result_on_a_cpu():
    """In both directions: the other products are half as fast there."""

    def loss(x, weight):
        return jnp.sum(linear(x, weight).astype(jnp.float32))

    x, weight = jnp.ones(SHAPE, jnp.bfloat16), jnp.ones((SHAPE[-1], WIDTH), jnp.bfloat16)
    lowered = jax.jit(jax.value_and_grad(loss, (0, 1))).trace(x, weight)
    for platform, result in (("cpu", "f32"), ("tpu", "bf16")):
        text = lowered.lower(lowering_platforms=(platform,)).as_text()
        products = [line for line in text.splitlines() if "dot_general" in line]
        assert len(products) == 3
        assert all(f"x{result}>" in line.rsplit("->")[-1] for line in products), products
