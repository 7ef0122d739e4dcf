"""Linear maps against float64, with the workarounds for XLA's CPU backend and without."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import layers
from experiments.models.layers import linear, linear_small_batch

SHAPE, WIDTH = (2, 3, 65), 40
ULP = {jnp.float32: 2.0**-20, jnp.bfloat16: 2.0**-8}


@pytest.fixture(params=[True, False], ids=["cpu", "other"])
def on_cpu(request, monkeypatch):
    monkeypatch.setattr(layers, "on_cpu", lambda: request.param)
    return request.param


@pytest.fixture(params=ULP, ids=["float32", "bfloat16"])
def case(request):
    """(dtype, x, weight, cotangent): float64 numbers that bfloat16 holds exactly."""
    rng = np.random.default_rng(0)
    arrays = (rng.normal(size=shape) for shape in (SHAPE, (SHAPE[-1], WIDTH), (*SHAPE[:-1], WIDTH)))
    return request.param, *(np.float64(np.asarray(a, jnp.bfloat16)) for a in arrays)


def assert_close(actual, expected, dtype):
    """Within one rounding, or 1e-3 of it where terms cancel."""
    scale = ULP[dtype] * (np.abs(expected) + (1e-3 if dtype == jnp.bfloat16 else 1.0))
    assert np.all(np.abs(np.float64(actual) - expected) <= scale)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_linear_matches_float64(case, wrap):
    dtype, x, weight, cotangent = case
    x_, cotangent_ = jnp.asarray(x, dtype), jnp.asarray(cotangent, dtype)
    weight_ = jnp.asarray(weight, dtype)
    out, pull = jax.vjp(wrap(lambda *inputs: linear(*inputs)), x_, weight_)
    dx, dw = pull(cotangent_)
    assert {out.dtype, dx.dtype, dw.dtype} == {jnp.dtype(dtype)}
    assert_close(out, x @ weight, dtype)
    assert_close(dx, cotangent @ weight.T, dtype)
    rows = x.reshape(-1, SHAPE[-1]), cotangent.reshape(-1, WIDTH)
    assert_close(dw, rows[0].T @ rows[1], dtype)


def test_linear_rounds_the_weight_to_the_dtype_of_x():
    rng = np.random.default_rng(1)
    x = np.asarray(rng.normal(size=SHAPE), jnp.bfloat16)
    weight = rng.normal(size=(SHAPE[-1], WIDTH)).astype(np.float32)
    out = linear(x, weight)
    assert out.dtype == jnp.bfloat16
    expected = np.float64(x) @ np.float64(np.asarray(weight, jnp.bfloat16))
    assert_close(out, expected, jnp.bfloat16)


def test_linear_vmap_equals_loop(case):
    dtype, x, weight, _ = case
    x, weights = jnp.asarray(x, dtype), jnp.asarray([weight, 2 * weight, -weight], dtype)
    together = jax.vmap(linear, (None, 0))(x, weights)
    assert_close(together, np.stack([np.float64(linear(x, w)) for w in weights]), dtype)


@pytest.mark.usefixtures("on_cpu")
def test_linear_small_batch_matches_float64(case):
    dtype, x, weight, _ = case
    x, transposed = jnp.asarray(x, dtype), jnp.asarray(weight.T, jnp.float32)
    out = jax.jit(lambda *inputs: linear_small_batch(*inputs))(x, transposed)
    assert out.dtype == dtype
    assert_close(out, np.float64(x) @ weight, dtype)
    weights = jnp.stack([transposed, 2 * transposed])
    together = jax.vmap(linear_small_batch, (None, 0))(x, weights)
    assert_close(together, np.float64(x) @ np.stack([weight, 2 * weight])[:, None], dtype)


def test_linear_small_batch_keeps_the_weight_on_the_left():
    """XLA would swap the operands, which is slower."""
    x, weight = jnp.ones(SHAPE), jnp.ones((WIDTH, SHAPE[-1]))
    text = jax.jit(linear_small_batch).lower(x, weight).compile().as_text()
    results = re.findall(r"f32\[(\d+,\d+)\]\S* dot\(", text)
    assert results == [f"{WIDTH},{SHAPE[0] * SHAPE[1]}"]


@pytest.mark.usefixtures("on_cpu")
def test_linear_gradient_of_a_float32_weight_is_float32():
    x, weight = jnp.ones(SHAPE, jnp.bfloat16), jnp.ones((SHAPE[-1], WIDTH))
    gradient = jax.grad(lambda w: jnp.sum(linear(x, w).astype(jnp.float32)))(weight)
    assert gradient.dtype == jnp.float32
    np.testing.assert_array_equal(gradient, np.full(weight.shape, SHAPE[0] * SHAPE[1]))


def test_linear_bfloat16_has_float32_results_on_a_cpu_only(on_cpu):
    def loss(x, weight):
        return jnp.sum(linear(x, weight).astype(jnp.float32))

    x, weight = jnp.ones(SHAPE, jnp.bfloat16), jnp.ones((SHAPE[-1], WIDTH), jnp.bfloat16)
    text = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(x, weight).as_text()
    matmuls = [line for line in text.splitlines() if "dot_general" in line]
    assert len(matmuls) == 3
    result = "xf32>" if on_cpu else "xbf16>"
    assert all(result in line.rsplit("->")[-1] for line in matmuls), matmuls


@pytest.mark.parametrize(
    ("dtype", "width", "machine", "used"),
    [
        ("float32", 384, "x86_64", True),
        ("float32", 256, "x86_64", False),
        ("bfloat16", 384, "x86_64", False),
        ("float32", 384, "aarch64", False),
    ],
)
def test_update_compiler_options_use_onednn(monkeypatch, on_cpu, dtype, width, machine, used):
    monkeypatch.setattr(layers.platform, "machine", lambda: machine)
    config = layers.ModelConfig(8, 1, width, 4, 2, 8, 8, dtype=dtype)
    options = layers.update_compiler_options(config)
    assert options.get("xla_cpu_use_onednn", False) == (used and on_cpu)
