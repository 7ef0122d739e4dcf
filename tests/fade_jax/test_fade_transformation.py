"""FADE with its feedback, against a float64 loop written from the page."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fade_jax import transforms
from tests.fade_jax import reference
from tests.fade_jax.cases import binary_rewards


def read(state, name):
    return float(optax.tree_utils.tree_get(state, name))


class ReferenceFade:
    """FADE in float64 numpy."""

    def __init__(self, target=None, fraction=0.5, rate=0.02, gain=1.0, p=0.5, entropy=None):
        self.target, self.fraction, self.rate, self.gain = target, fraction, rate, gain
        self.p, self.entropy, self.start = p, entropy, entropy

    def step(self, rewards, entropy):
        if self.entropy is None:
            self.entropy = self.start = entropy
        self.p += self.rate * (rewards.mean() - self.p)
        self.entropy += self.rate * (entropy - self.entropy)
        target = self.fraction * self.start if self.target is None else self.target
        self.alpha = np.clip(3 * (1 - self.p) / (2 * self.p), 1, 3)
        self.delta = np.clip(1 + self.gain * (self.entropy - target), 0.3, 1)
        return np.stack([reference.fade(r, self.alpha, self.delta) for r in rewards])


@pytest.mark.parametrize(
    ("keywords", "reference_keywords"),
    [
        ({}, {}),
        ({"rate": 0.3, "gain": 2.0}, {"rate": 0.3, "gain": 2.0}),
        ({"target_entropy": 1.2, "rate": 0.5}, {"target": 1.2, "rate": 0.5}),
        (
            {"initial_entropy": 2.0, "target_fraction": 0.8, "initial_solve_rate": 0.1},
            {"entropy": 2.0, "fraction": 0.8, "p": 0.1},
        ),
    ],
)
def test_advantages_alpha_and_delta_equal_the_reference(keywords, reference_keywords):
    transformation, expected = transforms.fade(**keywords), ReferenceFade(**reference_keywords)
    state = transformation.init()
    for step, entropy in enumerate([1.5, 1.2, 0.8, 0.5, 0.3, 0.2]):
        rewards = binary_rewards(seed=step).astype(np.float64)
        rewards[2:4] = 0
        advantages, state = transformation.update(rewards, state, entropy=entropy)
        np.testing.assert_allclose(advantages, expected.step(rewards, entropy), 1e-5, 1e-6)
        np.testing.assert_allclose(read(state, "alpha"), expected.alpha, rtol=1e-6)
        np.testing.assert_allclose(read(state, "delta"), expected.delta, rtol=1e-6)


def test_alpha_starts_at_one_and_a_half_and_delta_at_one():
    state = transforms.fade().init()
    assert (read(state, "alpha"), read(state, "delta")) == (1.5, 1.0)


@pytest.mark.parametrize(
    ("solve_rate", "alpha"), [(0.0, 3.0), (1 / 3, 3.0), (0.45, 1.8333), (1.0, 1)]
)
def test_alpha_peaks_the_weight_at_the_solve_rate(solve_rate, alpha):
    rewards = np.full((4, 10), solve_rate, np.float32)
    transformation = transforms.fade(rate=1.0)
    _, state = transformation.update(rewards, transformation.init(), entropy=1.0)
    np.testing.assert_allclose(read(state, "alpha"), alpha, rtol=1e-4)
    if 1 < alpha < 3:  # p^{3/2} q^α has its peak at the solve rate
        p = np.linspace(0.001, 0.999, 9981)
        peak = p[np.argmax(p**1.5 * (1 - p) ** alpha)]
        np.testing.assert_allclose(peak, solve_rate, atol=2e-4)


@pytest.mark.parametrize(("entropy", "delta"), [(2.0, 1.0), (1.0, 1.0), (0.8, 0.8), (0.1, 0.3)])
def test_delta_falls_with_the_entropy_below_its_target(entropy, delta):
    transformation = transforms.fade(target_entropy=1.0, rate=1.0)
    _, state = transformation.update(binary_rewards(), transformation.init(), entropy=entropy)
    np.testing.assert_allclose(read(state, "delta"), delta, rtol=1e-6)


def test_the_first_finite_entropy_becomes_the_reference_for_the_target():
    transformation = transforms.fade(rate=1.0, target_fraction=0.5)
    state = transformation.init()
    for entropy, delta in [(np.nan, 1.0), (2.0, 1.0), (0.6, 0.6), (np.nan, 0.6), (0.9, 0.9)]:
        _, state = transformation.update(binary_rewards(), state, entropy=entropy)
        np.testing.assert_allclose(read(state, "delta"), delta, rtol=1e-6)


def test_the_solve_rate_is_the_masked_mean_reward_unless_it_is_given():
    rewards = np.array([[1.0, 0, 0, 0], [0, 0, 0, 0]])
    where = np.array([[True, True, True, True], [False] * 4])
    transformation = transforms.fade(rate=1.0)
    _, state = transformation.update(rewards, transformation.init(), where=where, entropy=1.0)
    np.testing.assert_allclose(read(state, "alpha"), 3.0)
    _, state = transformation.update(rewards, state, entropy=1.0, solve_rate=0.5)
    np.testing.assert_allclose(read(state, "alpha"), 1.5)


def test_one_compilation_serves_a_sweep():
    traces = []

    @jax.jit
    def update(rewards, entropy, keywords):
        traces.append(1)
        transformation = transforms.fade(**keywords)
        return transformation.update(rewards, transformation.init(), entropy=entropy)

    rewards = binary_rewards()
    for gain, fraction, initial in [(1.0, 0.5, 2.0), (4.0, 0.8, 1.0)]:
        keywords = {
            "gain": gain,
            "target_fraction": fraction,
            "rate": 0.5,
            "alpha_max": 2.5,
            "delta_min": 0.2,
            "initial_entropy": initial,
            "initial_solve_rate": 0.3,
        }
        traced, state = update(rewards, 0.5, keywords)
        one = transforms.fade(**keywords)
        eager, eager_state = one.update(rewards, one.init(), entropy=0.5)
        np.testing.assert_allclose(traced, eager, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(read(state, "delta"), read(eager_state, "delta"), rtol=1e-6)
    assert len(traces) == 1


def test_constant_hyperparameters_are_readable_from_the_state():
    assert read(transforms.power(alpha=3.0).init(), "alpha") == 3.0
    assert read(transforms.asym_grpo(delta=0.5).init(), "delta") == 0.5
    frozen = transforms.power_asym(alpha=2.0, delta=0.5)
    _, state = frozen.update(binary_rewards(), frozen.init())
    assert (read(state, "alpha"), read(state, "delta")) == (2.0, 0.5)


def test_a_missing_entropy_is_named_with_the_statistics_given():
    transformation = transforms.fade()
    with pytest.raises(ValueError, match=r"'entropy' is missing; given: length, solve_rate"):
        transformation.update(binary_rewards(), transformation.init(), length=jnp.float32(3))


def test_a_lifted_function_may_read_statistics():
    lifted = transforms.stateless(lambda rewards, *, bonus: rewards + bonus, "bonus")
    result, _ = lifted.update(np.ones((1, 2)), lifted.init(), bonus=2.0)
    np.testing.assert_array_equal(result, [[3.0, 3.0]])
    with pytest.raises(ValueError, match=r"'bonus' is missing; given: .*entropy"):
        lifted.update(np.ones((1, 2)), lifted.init(), entropy=2.0)


def test_clip_bounds_the_advantages():
    transformation = transforms.chain(transforms.center(), transforms.clip(0.3))
    result, _ = transformation.update(np.array([[1.0, 0, 0, 0]]), transformation.init())
    np.testing.assert_allclose(result, [[0.3, -0.25, -0.25, -0.25]], rtol=1e-6)


@pytest.mark.parametrize(
    ("factory", "keywords", "words"),
    [
        (transforms.fade, {"alpha_max": 0.5}, ["alpha_max", "at least 1", "0.5"]),
        (transforms.fade, {"delta_min": 0.0}, ["delta_min", "(0, 1]", "0.0"]),
        (transforms.fade, {"rate": 2.0}, ["rate", "(0, 1]", "2.0"]),
        (transforms.fade, {"gain": -1.0}, ["gain", "at least 0", "-1.0"]),
        (transforms.fade, {"target_entropy": -0.5}, ["target_entropy", "above 0", "-0.5"]),
        (transforms.fade, {"target_fraction": 0.0}, ["target_fraction", "above 0"]),
        (transforms.fade, {"initial_entropy": float("nan")}, ["initial_entropy", "nan"]),
        (transforms.fade, {"initial_solve_rate": 1.5}, ["initial_solve_rate", "[0, 1]", "1.5"]),
        (transforms.power, {"alpha": -1.0}, ["alpha", "-1.0"]),
        (transforms.power, {"alpha": 1.0, "scale": float("nan")}, ["scale", "nan"]),
        (transforms.asym_grpo, {"delta": 0.0}, ["delta", "above 0", "0.0"]),
        (transforms.power_asym, {"alpha": 1.0, "delta": -0.5}, ["delta", "-0.5"]),
        (transforms.grpo, {"eps": -1.0}, ["eps", "-1.0"]),
        (transforms.grpo, {"ddof": 3}, ["ddof", "3"]),
        (transforms.reinforce, {"baseline": float("inf")}, ["baseline", "inf"]),
        (transforms.w_reinforce, {"positive_weight": -0.1}, ["positive_weight", "-0.1"]),
        (transforms.clip, {"max_abs": 0.0}, ["max_abs", "above 0"]),
    ],
)
def test_a_bad_value_is_refused_by_the_factory(factory, keywords, words):
    with pytest.raises(ValueError) as error:
        factory(**keywords)
    for word in words:
        assert word in str(error.value)
