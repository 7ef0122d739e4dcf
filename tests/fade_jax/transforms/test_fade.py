"""FADE and its ablations against float64 loops written from the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fade_jax
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
def test_fade_equals_reference(keywords, reference_keywords):
    transformation, expected = transforms.fade(**keywords), ReferenceFade(**reference_keywords)
    state = transformation.init()
    for step, entropy in enumerate([1.5, 1.2, 0.8, 0.5, 0.3, 0.2]):
        rewards = binary_rewards(seed=step).astype(np.float64)
        rewards[2:4] = 0
        advantages, state = transformation.update(rewards, state, entropy=entropy)
        np.testing.assert_allclose(advantages, expected.step(rewards, entropy), 1e-5, 1e-6)
        np.testing.assert_allclose(read(state, "alpha"), expected.alpha, rtol=1e-6)
        np.testing.assert_allclose(read(state, "delta"), expected.delta, rtol=1e-6)


@pytest.mark.parametrize(
    ("solve_rate", "alpha"), [(0.0, 3.0), (1 / 3, 3.0), (0.45, 1.8333), (1.0, 1)]
)
def test_fade_alpha_of_solve_rate(solve_rate, alpha):
    rewards = np.full((4, 10), solve_rate, np.float32)
    transformation = transforms.fade(rate=1.0)
    _, state = transformation.update(rewards, transformation.init(), entropy=1.0)
    np.testing.assert_allclose(read(state, "alpha"), alpha, rtol=1e-4)
    if 1 < alpha < 3:  # p^{3/2} q^α has its peak at the solve rate
        p = np.linspace(0.001, 0.999, 9981)
        peak = p[np.argmax(p**1.5 * (1 - p) ** alpha)]
        np.testing.assert_allclose(peak, solve_rate, atol=2e-4)


@pytest.mark.parametrize(("entropy", "delta"), [(2.0, 1.0), (1.0, 1.0), (0.8, 0.8), (0.1, 0.3)])
def test_fade_delta_of_entropy(entropy, delta):
    transformation = transforms.fade(target_entropy=1.0, rate=1.0)
    _, state = transformation.update(binary_rewards(), transformation.init(), entropy=entropy)
    np.testing.assert_allclose(read(state, "delta"), delta, rtol=1e-6)


def test_fade_first_finite_entropy_is_initial():
    transformation = transforms.fade(rate=1.0, target_fraction=0.5)
    state = transformation.init()
    assert (read(state, "alpha"), read(state, "delta")) == (1.5, 1.0)
    for entropy, delta in [(np.nan, 1.0), (2.0, 1.0), (0.6, 0.6), (np.nan, 0.6), (0.9, 0.9)]:
        _, state = transformation.update(binary_rewards(), state, entropy=entropy)
        np.testing.assert_allclose(read(state, "delta"), delta, rtol=1e-6)


def test_fade_solve_rate_statistic():
    rewards = np.array([[1.0, 0, 0, 0], [0, 0, 0, 0]])
    where = np.array([[True, True, True, True], [False] * 4])
    transformation = transforms.fade(rate=1.0)
    _, state = transformation.update(rewards, transformation.init(), where=where, entropy=1.0)
    np.testing.assert_allclose(read(state, "alpha"), 3.0)
    _, state = transformation.update(rewards, state, entropy=1.0, solve_rate=0.5)
    np.testing.assert_allclose(read(state, "alpha"), 1.5)


def test_fade_one_compilation_for_a_sweep():
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


def test_power_asym_state_holds_hyperparameters():
    assert read(transforms.power(alpha=3.0).init(), "alpha") == 3.0
    assert read(transforms.asym_grpo(delta=0.5).init(), "delta") == 0.5
    frozen = transforms.power_asym(alpha=2.0, delta=0.5)
    _, state = frozen.update(binary_rewards(), frozen.init())
    assert (read(state, "alpha"), read(state, "delta")) == (2.0, 0.5)


def test_fade_missing_entropy():
    transformation = transforms.fade()
    with pytest.raises(ValueError, match=r"'entropy' is missing; given: length, solve_rate"):
        transformation.update(binary_rewards(), transformation.init(), length=jnp.float32(3))


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


def test_fade_without_focal_or_suppression():
    alphas, deltas = run(transforms.fade(rate=0.5), ENTROPIES)
    assert alphas.std() > 0
    assert deltas.std() > 0
    no_focal = run(transforms.fade_without_focal(rate=0.5), ENTROPIES)
    no_suppression = run(transforms.fade_without_suppression(rate=0.5), ENTROPIES)
    np.testing.assert_array_equal(no_focal, (np.ones(5), deltas))
    np.testing.assert_array_equal(no_suppression, (alphas, np.ones(5)))


def test_fade_from_entropy_alpha_and_delta():
    alphas, deltas = run(transforms.fade_from_entropy(rate=1.0, alpha_max=3.0), ENTROPIES)
    np.testing.assert_allclose(alphas, 1 + 2 * np.array(ENTROPIES) / 2.0, rtol=1e-6)
    np.testing.assert_allclose(deltas, [1, 1, 0.8, 0.4, 0.3], rtol=1e-6)


def test_fade_log_decay_alpha_and_delta():
    alphas, deltas = run(transforms.fade_log_decay(steps=3), ENTROPIES)
    passed = np.minimum(np.log1p(np.arange(5)) / np.log1p(3), 1)
    np.testing.assert_allclose(alphas, 3 - 2 * passed, rtol=1e-6)
    np.testing.assert_allclose(deltas, 1 - 0.7 * passed, rtol=1e-6)
