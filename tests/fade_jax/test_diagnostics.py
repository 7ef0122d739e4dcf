import jax
import numpy as np
import pytest

from fade_jax import diagnostics


def with_singular_values(singular, rows=30, columns=12, seed=0):
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.normal(size=(rows, len(singular))))[0]
    v = np.linalg.qr(rng.normal(size=(columns, len(singular))))[0]
    return u * np.array(singular) @ v.T


@pytest.mark.parametrize("scale", [1.0, 1e-15, 1e12])
@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_rank_one_fraction_equals_the_known_spectrum(scale, shape):
    update = with_singular_values([3.0, 2.0, 1.0], *shape) * scale
    np.testing.assert_allclose(diagnostics.rank_one_fraction(update), 9 / 14, rtol=1e-5)


def test_rank_one_fraction_at_its_bounds():
    np.testing.assert_allclose(diagnostics.rank_one_fraction(np.outer([1, 2], [3, 4, 5])), 1.0)
    np.testing.assert_allclose(diagnostics.rank_one_fraction(np.eye(8)), 1 / 8, rtol=1e-6)


def test_effective_rank_equals_its_definition():
    singular = np.array([3.0, 2.0, 1.0, 1e-3])
    p = singular / singular.sum()
    expected = np.exp(-(p * np.log(p)).sum())
    result = diagnostics.effective_rank(with_singular_values(singular))
    np.testing.assert_allclose(result, expected, rtol=1e-3)
    np.testing.assert_allclose(diagnostics.effective_rank(np.eye(8)), 8, rtol=1e-5)


def test_both_are_batched_and_jitted():
    updates = np.stack([with_singular_values([3.0, 1.0], seed=s) for s in range(3)])
    for fn in (diagnostics.rank_one_fraction, diagnostics.effective_rank):
        result = jax.jit(fn)(updates)
        np.testing.assert_allclose(result, [fn(update) for update in updates], rtol=1e-4)


def test_a_zero_update_is_undefined():
    assert np.isnan(diagnostics.rank_one_fraction(np.zeros((3, 4))))
    assert np.isnan(diagnostics.effective_rank(np.zeros((3, 4))))


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"update.*two axes.*\(5,\)"):
        diagnostics.rank_one_fraction(np.ones(5))
