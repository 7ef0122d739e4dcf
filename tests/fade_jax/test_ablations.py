"""FADE's ablations: each is FADE with one part held still or driven otherwise."""

import numpy as np
import optax
import pytest

import fade_jax
from fade_jax import transforms
from tests.fade_jax.cases import binary_rewards


def run(transformation, entropies):
    state, alphas, deltas = transformation.init(), [], []
    for entropy in entropies:
        rewards = binary_rewards(seed=len(alphas))
        advantages, state = transformation.update(rewards, state, entropy=entropy)
        alphas.append(float(optax.tree_utils.tree_get(state, "alpha", default=1.0)))
        deltas.append(float(optax.tree_utils.tree_get(state, "delta", default=1.0)))
    expected = fade_jax.fade(rewards, alpha=alphas[-1], delta=deltas[-1])
    np.testing.assert_allclose(advantages, expected, rtol=1e-5, atol=1e-6)
    return np.array(alphas), np.array(deltas)


ENTROPIES = [2.0, 1.2, 0.8, 0.4, 0.1]


def test_without_focal_or_suppression_the_other_part_is_fade_s():
    alphas, deltas = run(transforms.fade(rate=0.5), ENTROPIES)
    assert alphas.std() > 0
    assert deltas.std() > 0
    no_focal = run(transforms.fade_without_focal(rate=0.5), ENTROPIES)
    no_suppression = run(transforms.fade_without_suppression(rate=0.5), ENTROPIES)
    np.testing.assert_array_equal(no_focal, (np.ones(5), deltas))
    np.testing.assert_array_equal(no_suppression, (alphas, np.ones(5)))


def test_from_entropy_both_follow_the_entropy():
    alphas, deltas = run(transforms.fade_from_entropy(rate=1.0, alpha_max=3.0), ENTROPIES)
    np.testing.assert_allclose(alphas, 1 + 2 * np.array(ENTROPIES) / 2.0, rtol=1e-6)
    np.testing.assert_allclose(deltas, [1, 1, 0.8, 0.4, 0.3], rtol=1e-6)


def test_log_decay_walks_by_the_clock_and_stops():
    alphas, deltas = run(transforms.fade_log_decay(steps=3), ENTROPIES)
    passed = np.minimum(np.log1p(np.arange(5)) / np.log1p(3), 1)
    np.testing.assert_allclose(alphas, 3 - 2 * passed, rtol=1e-6)
    np.testing.assert_allclose(deltas, 1 - 0.7 * passed, rtol=1e-6)


@pytest.mark.parametrize(
    ("factory", "keywords", "words"),
    [
        (transforms.fade_log_decay, {"steps": 0}, ["steps", "above 0", "0"]),
        (transforms.fade_log_decay, {"steps": 5, "alpha_max": 0.5}, ["alpha_max", "0.5"]),
        (transforms.fade_log_decay, {"steps": 5, "delta_min": 0.0}, ["delta_min", "0.0"]),
        (transforms.fade_from_entropy, {"alpha_max": 0.0}, ["alpha_max", "0.0"]),
        (transforms.fade_from_entropy, {"initial_entropy": -1.0}, ["initial_entropy", "-1.0"]),
        (transforms.fade_without_focal, {"delta_min": 2.0}, ["delta_min", "2.0"]),
        (transforms.fade_without_suppression, {"rate": 0.0}, ["rate", "0.0"]),
        (transforms.f_grpo, {"gamma": -1.0}, ["gamma", "-1.0"]),
        (transforms.a_grae, {"omega": -1.0}, ["omega", "-1.0"]),
        (transforms.log_mean_exp, {"beta": -1.0}, ["beta", "-1.0"]),
        (transforms.pkpo, {"k": 0}, ["k must", "0"]),
        (transforms.pkpo, {"k": 2, "baseline": "x"}, ["baseline", "'x'"]),
        (transforms.pass_at_k_training, {"k": 0}, ["k must", "0"]),
        (transforms.quantile, {"level": 0.0}, ["level", "0.0"]),
    ],
)
def test_a_bad_value_is_refused_by_the_factory(factory, keywords, words):
    with pytest.raises(ValueError) as error:
        factory(**keywords)
    for word in words:
        assert word in str(error.value)


def test_opo_as_a_transformation_reads_the_lengths():
    rewards, lengths = np.array([[1.0, 0.0, 0.0]]), np.array([[2.0, 1.0, 1.0]])
    transformation = transforms.opo()
    result, _ = transformation.update(rewards, transformation.init(), lengths=lengths)
    np.testing.assert_allclose(result, [[0.5, -0.5, -0.5]])
    with pytest.raises(ValueError, match="'lengths' is missing"):
        transformation.update(rewards, transformation.init(), entropy=1.0)
