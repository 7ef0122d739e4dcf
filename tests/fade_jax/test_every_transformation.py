"""The suite that every advantage transformation passes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fade_jax import transforms
from fade_jax.schedules import by_step
from tests.fade_jax.cases import CASES, binary_rewards, every_case

# A lifted advantage has no state and passes the suite of the advantages: some stand for all here.
LIFTED = ("grpo", "pkpo", "reinforce_plus_plus", "synthesized")
TRANSFORMATIONS = {case.name: case.transformation for case in CASES if case.name in LIFTED} | {
    "asym_grpo": transforms.asym_grpo(delta=0.5),
    "power": transforms.power(alpha=2.5, scale=1.7),
    "fade": transforms.fade(),
    "fade_in_nats": transforms.fade(target_entropy=1.0, initial_entropy=1.5),
    "power_asym": transforms.power_asym(alpha=2.0, delta=0.5),
    "center_clip": transforms.chain(transforms.center(), transforms.clip(0.4)),
    "standardize": transforms.standardize(ddof=0),
    "fade_without_focal": transforms.fade_without_focal(rate=0.5),
    "fade_without_suppression": transforms.fade_without_suppression(rate=0.5),
    "fade_from_entropy": transforms.fade_from_entropy(rate=0.5),
    "fade_log_decay": transforms.fade_log_decay(steps=10),
    "shrinkage": transforms.shrinkage(a=0.5, b=2.0),
    "pass_at_k_weight": transforms.chain(
        transforms.shrinkage(), transforms.pass_at_k_weight(k=2.5)
    ),
    "scheduled_pass_at_k": transforms.scheduled_pass_at_k(rate=0.5),
    "by_step": transforms.chain(
        transforms.center(),
        transforms.focal(by_step(lambda step: 1.0 + 0.1 * step)),
        transforms.suppress(lambda step: 1.0 / (1.0 + step)),
    ),
}
every_transformation = pytest.mark.parametrize("name", TRANSFORMATIONS)


def run(transformation, update=None, steps=4, where=None):
    """A few steps with changing rewards and entropy."""
    update = update or transformation.update
    state = transformation.init()
    for step in range(steps):
        rewards = binary_rewards(seed=step)
        advantages, state = update(
            rewards, state, where=where, entropy=jnp.float32(1.5 - 0.4 * step)
        )
    return advantages, state


def test_every_factory_has_a_case():
    types_and_makers = {"AdvantageState", "AdvantageTransformation", "chain", "stateless"}
    links = {"center", "clip", "focal", "suppress"}  # in "center_clip" and "by_step"
    cases = {case.name for case in CASES} | set(TRANSFORMATIONS)
    assert set(transforms.__all__) <= cases | types_and_makers | links


@every_transformation
def test_jit_equals_eager_and_traces_once(name):
    transformation = TRANSFORMATIONS[name]
    traces = []

    @jax.jit
    def update(rewards, state, where, entropy):
        traces.append(name)
        return transformation.update(rewards, state, where=where, entropy=entropy)

    eager = run(transformation)
    jitted = run(transformation, update, where=np.ones((6, 8), bool))
    chex.assert_trees_all_close(jitted, eager, rtol=1e-5, atol=1e-6)
    assert len(traces) == 1


@every_transformation
def test_the_state_keeps_its_structure_and_has_pinned_types(name):
    transformation = TRANSFORMATIONS[name]
    _, after = run(transformation)
    chex.assert_trees_all_equal_shapes_and_dtypes(transformation.init(), after)
    for leaf in jax.tree.leaves((transformation.init(), after)):
        assert isinstance(leaf, jax.Array)
        assert not leaf.weak_type


@every_transformation
def test_the_state_is_a_scan_carry(name):
    transformation = TRANSFORMATIONS[name]
    rewards = np.stack([binary_rewards(seed=step) for step in range(4)])
    entropies = jnp.asarray([1.5 - 0.4 * step for step in range(4)])

    def body(state, inputs):
        advantages, state = transformation.update(inputs[0], state, entropy=inputs[1])
        return state, advantages

    state, advantages = jax.lax.scan(body, transformation.init(), (rewards, entropies))
    expected_advantages, expected_state = run(transformation)
    chex.assert_trees_all_close(state, expected_state, rtol=1e-5)
    np.testing.assert_allclose(advantages[-1], expected_advantages, rtol=1e-5, atol=1e-6)


@every_transformation
def test_vmap_over_seeds_equals_a_loop(name):
    transformation = TRANSFORMATIONS[name]
    rewards = np.stack([binary_rewards(seed=seed) for seed in range(3)])
    entropies = jnp.array([0.3, 0.9, 1.5])
    states = jax.vmap(lambda _: transformation.init())(jnp.arange(3))

    def update(rewards, state, entropy):
        return transformation.update(rewards, state, entropy=entropy)

    mapped = jax.vmap(update)(rewards, states, entropies)
    for seed in range(3):
        one = update(rewards[seed], transformation.init(), entropies[seed])
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=seed: leaf[i], mapped), one, rtol=1e-5, atol=1e-6
        )


@every_transformation
def test_masked_equals_dropped_in_the_advantages_and_in_the_state(name):
    transformation = TRANSFORMATIONS[name]
    rewards = binary_rewards()
    where = np.ones((6, 8), bool)
    where[:, [2, 5]] = False
    where[3] = False
    dropped = np.delete(np.delete(rewards, [2, 5], axis=1), 3, axis=0)
    garbage = np.where(where, rewards, np.nan)
    masked, masked_state = transformation.update(
        garbage, transformation.init(), where=where, entropy=0.9
    )
    expected, expected_state = transformation.update(dropped, transformation.init(), entropy=0.9)
    kept = np.delete(np.delete(np.asarray(masked), [2, 5], axis=1), 3, axis=0)
    np.testing.assert_allclose(kept, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(masked[~where], 0)
    chex.assert_trees_all_close(masked_state, expected_state, rtol=1e-6)


@every_transformation
def test_a_fully_masked_batch_changes_no_state_and_gives_zeros(name):
    transformation = TRANSFORMATIONS[name]
    _, before = run(transformation, steps=2)
    for entropy in (0.1, np.nan):
        advantages, after = transformation.update(
            binary_rewards(), before, where=np.zeros((6, 8), bool), entropy=entropy
        )
        np.testing.assert_array_equal(advantages, 0)
        chex.assert_trees_all_equal(after, before)


@every_transformation
def test_permuting_the_group_permutes_the_advantages_and_leaves_the_state(name):
    transformation = TRANSFORMATIONS[name]
    rewards, order = binary_rewards(), np.random.default_rng(1).permutation(8)
    plain, state = transformation.update(rewards, transformation.init(), entropy=0.7)
    permuted, same = transformation.update(rewards[:, order], transformation.init(), entropy=0.7)
    np.testing.assert_allclose(permuted, plain[:, order], rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(same, state, rtol=1e-6)


@every_transformation
def test_values_and_gradients_are_finite(name):
    transformation = TRANSFORMATIONS[name]

    def total(rewards):
        advantages, _ = transformation.update(rewards, transformation.init(), entropy=0.7)
        return jnp.sum(jnp.sin(advantages)), advantages

    gradient, advantages = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(binary_rewards()))
    assert np.all(np.isfinite(advantages))
    assert np.all(np.isfinite(gradient))


@every_transformation
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32, bool])
def test_any_dtype_of_rewards_gives_float32_and_the_same_state(name, dtype):
    transformation = TRANSFORMATIONS[name]
    rewards = binary_rewards()
    cast = transformation.update(jnp.asarray(rewards, dtype), transformation.init(), entropy=0.7)
    chex.assert_type(cast[0], jnp.float32)
    chex.assert_trees_all_equal(
        cast, transformation.update(rewards, transformation.init(), entropy=0.7)
    )


@every_transformation
@pytest.mark.parametrize("solved", [0.0, 1.0])
def test_degenerate_batches_are_finite(name, solved):
    advantages, state = TRANSFORMATIONS[name].update(
        np.full((4, 8), solved, np.float32), TRANSFORMATIONS[name].init(), entropy=0.0
    )
    chex.assert_tree_all_finite((advantages, state))


@every_transformation
def test_a_non_finite_entropy_leaves_the_state_finite(name):
    transformation = TRANSFORMATIONS[name]
    state = transformation.init()
    for entropy in (np.nan, np.inf, 1.0, -np.inf, np.nan):
        advantages, state = transformation.update(binary_rewards(), state, entropy=entropy)
        chex.assert_tree_all_finite((advantages, state))


@pytest.mark.parametrize("name", ["fade", "fade_from_entropy", "fade_without_suppression"])
def test_a_non_finite_reward_leaves_the_state_as_it_was(name):
    transformation = TRANSFORMATIONS[name]
    _, before = run(transformation, steps=2)
    rewards = binary_rewards()
    rewards[3, 2] = np.nan
    _, after = transformation.update(rewards, before, entropy=np.nan)
    chex.assert_trees_all_equal(after, before)


@every_transformation
def test_statistics_that_nothing_reads_are_ignored(name):
    transformation = TRANSFORMATIONS[name]
    plain = transformation.update(binary_rewards(), transformation.init(), entropy=1.0)
    extra = transformation.update(
        binary_rewards(), transformation.init(), entropy=1.0, lengths=np.ones(3), note=None
    )
    chex.assert_trees_all_equal(plain, extra)


@every_transformation
def test_rewards_may_be_given_apart_from_the_first_argument(name):
    transformation = TRANSFORMATIONS[name]
    rewards = binary_rewards()
    one = transformation.update(rewards, transformation.init(), entropy=1.0)
    two = transformation.update(rewards, transformation.init(), rewards, entropy=1.0)
    chex.assert_trees_all_equal(one, two)


@every_transformation
def test_eight_devices_equal_one(name):
    transformation = TRANSFORMATIONS[name]
    rewards = binary_rewards(shape=(16, 8))
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    sharded = jax.device_put(rewards, NamedSharding(mesh, PartitionSpec("data")))
    state = jax.device_put(transformation.init(), NamedSharding(mesh, PartitionSpec()))
    result = jax.jit(lambda r, s: transformation.update(r, s, entropy=0.8))(sharded, state)
    expected = transformation.update(rewards, transformation.init(), entropy=0.8)
    chex.assert_trees_all_close(result, expected, rtol=1e-5, atol=1e-6)
    for leaf in jax.tree.leaves(result[1]):
        assert leaf.sharding.is_fully_replicated


@pytest.mark.parametrize(
    "name", [name for name, one in TRANSFORMATIONS.items() if jax.tree.leaves(one.init())]
)
def test_the_state_survives_a_checkpoint(name, tmp_path):
    transformation = TRANSFORMATIONS[name]
    _, state = run(transformation, steps=3)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", {"advantage": state, "step": jnp.int32(3)})
        checkpointer.wait_until_finished()
        target = {"advantage": transformation.init(), "step": jnp.int32(0)}
        restored = checkpointer.restore(tmp_path / "state", target)["advantage"]
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal(
        transformation.update(binary_rewards(9), restored, entropy=0.2),
        transformation.update(binary_rewards(9), state, entropy=0.2),
    )


@every_case
def test_a_lifted_advantage_equals_the_plain_function(case):
    rewards = binary_rewards()
    where = np.ones(rewards.shape, bool)
    where[:, 3] = False
    for mask in (None, where):
        lifted, _ = case.transformation.update(rewards, case.transformation.init(), where=mask)
        np.testing.assert_allclose(lifted, case(rewards, where=mask), rtol=1e-6, atol=1e-7)
