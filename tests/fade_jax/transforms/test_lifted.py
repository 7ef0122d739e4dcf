"""`lift`, and the advantages that it lifts."""

import inspect

import numpy as np
import pytest

import fade_jax
from fade_jax import transforms
from tests.fade_jax.cases import binary_rewards, every_case


@every_case
def test_lift_equals_plain_function(case):
    rewards = binary_rewards()
    where = np.ones(rewards.shape, bool)
    where[:, 3] = False
    for mask in (None, where):
        lifted, _ = case.transformation.update(rewards, case.transformation.init(), where=mask)
        np.testing.assert_allclose(lifted, case(rewards, where=mask), rtol=1e-6, atol=1e-7)


def test_lift_signature():
    def scaled(rewards, scale=1.0, *, lengths, power, where=None):
        return scale * rewards**power / lengths

    factory = transforms.lift(scaled, "lengths")
    assert factory.__name__ == "scaled"
    assert list(inspect.signature(factory).parameters) == ["power", "scale"]
    signature = str(inspect.signature(transforms.pkpo)).replace("'", "")
    assert signature.startswith("(k: int, baseline: str = loo_m")
    assert str(inspect.signature(transforms.rloo)).startswith("()")
    for transformation in (factory(2.0, 3.0), factory(scale=3.0, power=2.0)):
        result, _ = transformation.update(np.full((1, 2), 2.0), (), lengths=4.0)
        np.testing.assert_array_equal(result, [[3.0, 3.0]])
    with pytest.raises(TypeError, match="missing a required argument: 'power'"):
        factory()
    with pytest.raises(TypeError, match="unexpected keyword argument 'where'"):
        factory(power=1.0, where=1)


def test_lift_default_from_partial():
    defaults = {"log_mean_exp": {"beta": 2.0}, "quantile": {"level": 0.4}}
    rewards = binary_rewards()
    for name, keywords in defaults.items():
        plain, factory = getattr(fade_jax, name), getattr(transforms, name)
        assert factory.__name__ == name
        found, _ = factory().update(rewards, ())
        np.testing.assert_array_equal(found, plain(rewards, **keywords))
        other = dict.fromkeys(keywords, 0.9)
        np.testing.assert_array_equal(factory(0.9).update(rewards, ())[0], plain(rewards, **other))


def test_lift_checks_in_the_factory():
    def even(name, value):
        if value % 2:
            raise ValueError(f"{name} must be even, got {value}")

    factory = transforms.lift(lambda rewards, *, k: k * rewards, k=even)
    np.testing.assert_array_equal(factory(k=2).update(np.ones((1, 2)), ())[0], 2)
    with pytest.raises(ValueError, match="k must be even, got 3"):
        factory(3)


def test_opo_reads_lengths():
    rewards, lengths = np.array([[1.0, 0.0, 0.0]]), np.array([[2.0, 1.0, 1.0]])
    transformation = transforms.opo()
    result, _ = transformation.update(rewards, transformation.init(), lengths=lengths)
    np.testing.assert_allclose(result, [[0.5, -0.5, -0.5]])
    with pytest.raises(ValueError, match="'lengths' is missing"):
        transformation.update(rewards, transformation.init(), entropy=1.0)
