"""Live, against google-tunix itself: `make tunix`."""

import threading
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

import fade_jax
from fade_jax import decomposition, transforms
from tests.fade_jax import reference
from tests.fade_jax.cases import binary_rewards, every_case

pytestmark = pytest.mark.tunix
tunix = pytest.importorskip("tunix")

from tunix.rl import function_registry  # noqa: E402

from fade_jax.integrations import tunix as bridge  # noqa: E402
from tests.fade_jax.integrations import tiny_tunix  # noqa: E402


def read(state, name):
    return float(optax.tree_utils.tree_get(state, name))


def call(name, rewards):
    """As tunix's learner calls an estimator: rewards [..., G] in, flat advantages out."""
    estimator = function_registry.get_advantage_estimator(name)
    flat = np.asarray(rewards, np.float64).reshape(-1)
    return estimator(rewards=flat, num_generations=rewards.shape[-1])


@every_case
def test_register_flat_values(case):
    rewards = binary_rewards()
    bridge.register(case.name, case)
    advantages = call(case.name, rewards)
    assert (advantages.shape, advantages.dtype) == ((rewards.size,), np.float32)
    np.testing.assert_allclose(advantages, case.by_group(rewards).reshape(-1), 1e-4, 2e-6)


SOLVE_RATES, SIZE = np.array([0.1, 0.5, 0.8]), 6


def masses(advantage):
    return decomposition.gradient_masses(advantage, SOLVE_RATES, SIZE)


@pytest.mark.parametrize(
    ("theirs", "ours", "by_definition"),
    [
        ("grpo", partial(fade_jax.grpo, ddof=1, eps=1e-6), reference.grpo),
        ("rloo", fade_jax.rloo, reference.rloo),
        ("drgrpo", fade_jax.dr_grpo, reference.dr_grpo),
    ],
)
def test_advantage_from_registry_masses(theirs, ours, by_definition):
    found = masses(bridge.advantage_from_registry(theirs))
    np.testing.assert_allclose(found, masses(ours), 1e-5)
    enumerated = [reference.masses_by_enumeration(by_definition, p, SIZE) for p in SOLVE_RATES]
    np.testing.assert_allclose(found, np.transpose(enumerated), 1e-5)


def test_advantage_from_registry_ddof():
    theirs, other = (
        masses(bridge.advantage_from_registry("grpo")),
        masses(partial(fade_jax.grpo, ddof=0)),
    )
    # In every mixed group the two deviations differ by √(G/(G-1)).
    np.testing.assert_allclose(np.divide(other, theirs), np.sqrt(SIZE / (SIZE - 1)), 1e-4)


def test_register_round_trip_masses():
    bridge.register("power_2", partial(fade_jax.power, alpha=2.0))
    found = masses(bridge.advantage_from_registry("power_2"))
    # E[p̂ q̂²] by its factorial moments.
    p, g = SOLVE_RATES, SIZE
    exact = (g * (g - 1) + g * (g - 1) * (g - 2) * (1 - p)) / g**3 * p * (1 - p)
    np.testing.assert_allclose(found, [exact, exact], 1e-5)


def test_register_real_run():
    shapes = []

    def power_2(rewards):
        shapes.append(rewards.shape)
        return fade_jax.power(rewards, alpha=2.0)

    bridge.register("power_2", power_2)
    cluster = tiny_tunix.make_cluster()
    before = tiny_tunix.parameters(cluster)
    batches = tiny_tunix.train(cluster, "power_2")
    assert shapes == [(tiny_tunix.PROMPTS, tiny_tunix.GENERATIONS)] * tiny_tunix.STEPS
    for batch in batches:
        assert batch.rewards.shape == (tiny_tunix.PROMPTS * tiny_tunix.GENERATIONS,)
        groups = batch.rewards.reshape(-1, tiny_tunix.GENERATIONS)
        assert np.any(groups.std(axis=1) > 0)  # else there would be nothing to see
        expected = [reference.power(group, 2.0) for group in groups]
        np.testing.assert_allclose(batch.advantages, np.ravel(expected), 1e-5, 1e-6)
    assert any(np.any(b != a) for b, a in zip(before, tiny_tunix.parameters(cluster)))


def test_watch_rollouts_real_run():
    rate, target = 0.3, 1.9
    fade = bridge.register_transformation("fade", transforms.fade(rate=rate, target_entropy=target))
    cluster = tiny_tunix.make_cluster()
    sampler_calls = tiny_tunix.watch_entropies(cluster)
    bridge.watch_rollouts(cluster, fade)
    before = tiny_tunix.parameters(cluster)
    batches = tiny_tunix.train(cluster, "fade", num_eval_batches=1)

    modes = [batch.mode for batch in batches]
    assert sorted(modes) == ["eval"] * tiny_tunix.STEPS + ["train"] * tiny_tunix.STEPS
    assert len(sampler_calls) == 2 * len(batches)
    p, entropy = 0.5, None
    for batch, calls in zip(batches, np.reshape(sampler_calls, (-1, 2, 2))):
        groups = batch.rewards.reshape(-1, tiny_tunix.GENERATIONS)
        seen = calls[:, 0].sum() / calls[:, 1].sum()
        next_p = p + rate * (batch.rewards.mean() - p)
        next_entropy = seen if entropy is None else entropy + rate * (seen - entropy)
        alpha = np.clip(3 * (1 - next_p) / (2 * next_p), 1, 3)
        delta = np.clip(1 + next_entropy - target, 0.3, 1)
        # Neither at its bounds, where it would not show what moved it.
        assert 1 < alpha < 3
        assert 0.3 < delta < 1
        expected = [reference.fade(group, alpha, delta) for group in groups]
        np.testing.assert_allclose(batch.advantages, np.ravel(expected), 1e-4, 1e-5)
        if batch.mode == "train":
            p, entropy = next_p, next_entropy
            in_training = alpha, delta
    np.testing.assert_allclose(
        (read(fade.state, "alpha"), read(fade.state, "delta")), in_training, rtol=1e-5
    )
    assert any(np.any(b != a) for b, a in zip(before, tiny_tunix.parameters(cluster)))


def test_observe_serves_one_batch():
    fade = bridge.register_transformation("fade", transforms.fade())
    rewards = binary_rewards()
    with pytest.raises(ValueError, match=r"'entropy' is missing; given: solve_rate"):
        call("fade", rewards)
    fade.observe(entropy=1.0)
    call("fade", rewards)
    with pytest.raises(ValueError, match=r"'entropy' is missing"):
        call("fade", rewards)


def test_observe_is_thread_local():
    fade = bridge.register_transformation("fade", transforms.fade())
    thread = threading.Thread(target=fade.observe, kwargs={"entropy": 1.0})
    thread.start()
    thread.join()
    with pytest.raises(ValueError, match=r"'entropy' is missing"):
        call("fade", binary_rewards())


def test_observe_per_rollout_statistic():
    opo = bridge.register_transformation("opo", transforms.opo())
    rewards = binary_rewards()
    opo.observe(lengths=(2 + 3 * rewards).reshape(-1))
    expected = [reference.opo(group) for group in rewards.astype(np.float64)]
    np.testing.assert_allclose(call("opo", rewards), np.ravel(expected), 1e-5, 1e-6)


def test_state_save_and_evaluation():
    rewards = binary_rewards()
    fade = bridge.register_transformation("fade", transforms.fade(rate=0.5, target_entropy=2.0))
    fade.observe(entropy=1.5)
    call("fade", rewards)
    saved = jax.tree.map(np.asarray, fade.state)
    fade.observe(entropy=0.1, training=False)
    call("fade", rewards)
    assert read(fade.state, "delta") == read(saved, "delta") == 0.5
    fade.observe(entropy=1.3)
    advantages = call("fade", rewards)
    np.testing.assert_allclose(read(fade.state, "delta"), 0.4, rtol=1e-6)

    again = bridge.register_transformation("fade", transforms.fade(rate=0.5, target_entropy=2.0))
    again.state = saved
    again.observe(entropy=1.3)
    np.testing.assert_array_equal(call("fade", rewards), advantages)
    with pytest.raises(ValueError, match="state must have the structure"):
        again.state = (1.0,)


def test_watch_rollouts_needs_log_probs():
    fade = bridge.register_transformation("fade", transforms.fade())
    config = {"train": tunix.RolloutConfig(return_logprobs=True), "eval": tunix.RolloutConfig()}
    cluster = SimpleNamespace(cluster_config=SimpleNamespace(rollout_config=config))
    with pytest.raises(ValueError, match=r"RolloutConfig.return_logprobs must be True"):
        bridge.watch_rollouts(cluster, fade)


def test_register_bad_input():
    with pytest.raises(ValueError, match=r"advantage_fn must be callable .* 'alpha'"):
        bridge.register("power", fade_jax.power)
    with pytest.raises(ValueError, match="transformation must be an AdvantageTransformation"):
        bridge.register_transformation("fade", fade_jax.fade)
    with pytest.raises(ValueError, match=r"name must be one of .*drgrpo.*, got 'nonesuch'"):
        bridge.advantage_from_registry("nonesuch")
    with pytest.raises(ValueError, match=r"rewards and num_generations alone, got 'gae'"):
        bridge.advantage_from_registry("gae")
    bridge.register_transformation("fade", transforms.fade())
    with pytest.raises(ValueError, match=r"without state, got 'fade'"):
        bridge.advantage_from_registry("fade")


def test_register_bad_rewards():
    bridge.register("rloo_again", fade_jax.rloo)
    estimator = function_registry.get_advantage_estimator("rloo_again")
    with pytest.raises(ValueError, match=r"num_generations = 4, got shape \(6,\)"):
        estimator(rewards=np.ones(6), num_generations=4)
    bridge.register("sums", lambda rewards: rewards.sum(-1))
    with pytest.raises(ValueError, match=r"shape of the rewards, \(2, 3\), got \(2,\)"):
        call("sums", np.ones((2, 3)))
