"""The suite that every transformation passes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fade_jax import transforms
from fade_jax.schedules import by_step
from tests.fade_jax.cases import CASES, binary_rewards

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
    "per_prompt_solve_rate": transforms.per_prompt_solve_rate(num_prompts=9, decay=0.5),
    "grpo_by_prompt": transforms.chain(
        transforms.grpo(), transforms.focal_by_prompt(num_prompts=9, alpha=1.5, decay=1.0)
    ),
    "tempered_likelihood": transforms.tempered_likelihood(beta=0.5),
    "tempered_by_solve_rate": transforms.tempered_by_solve_rate(hard=1.5, easy=0.0, rate=0.5),
    "tempered_by_entropy": transforms.tempered_by_entropy(low=0.0, high=1.0, rate=0.5),
    "tempered_by_step": transforms.tempered_by_step(start=1.5, end=0.0, steps=3),
    "by_step": transforms.chain(
        transforms.center(),
        transforms.focal(by_step(lambda step: 1.0 + 0.1 * step)),
        transforms.suppress(lambda step: 1.0 / (1.0 + step)),
    ),
}
PROMPTS = np.array([3, 0, 7, 3, -1, 5])  # one is there twice, one has no index
every_transformation = pytest.mark.parametrize(
    "transformation", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS
)


def run(transformation, update=None, steps=4, where=None):
    """Returns the last advantages and state after a few steps of changing rewards and entropy."""
    update = update or transformation.update
    state = transformation.init()
    for step in range(steps):
        rewards, entropy = binary_rewards(seed=step), jnp.float32(1.5 - 0.4 * step)
        advantages, state = update(rewards, state, where=where, entropy=entropy, prompt=PROMPTS)
    return advantages, state


def first(transformation, advantages, entropy=0.7, **keywords):
    keywords = {"prompt": PROMPTS[: len(advantages)], **keywords}
    return transformation.update(advantages, transformation.init(), entropy=entropy, **keywords)


def test_every_factory_has_a_case():
    others = {"AdvantageState", "AdvantageTransformation", "PromptState", "chain", "lift"}
    others |= {"init_prompts", "solve_rates", "stateless", "update_prompts"}
    # In "center_clip", "by_step", "grpo_by_prompt" and "tempered_likelihood".
    links = {"center", "clip", "focal", "focal_by_prompt", "suppress", "temper"}
    cases = {case.name for case in CASES} | set(TRANSFORMATIONS)
    assert set(transforms.__all__) <= cases | others | links


@every_transformation
def test_update_jit_traces_once(transformation):
    traces = []

    @jax.jit
    def update(rewards, state, where, entropy, prompt):
        traces.append(rewards)
        return transformation.update(rewards, state, where=where, entropy=entropy, prompt=prompt)

    eager = run(transformation)
    jitted = run(transformation, update, where=np.ones((6, 8), bool))
    chex.assert_trees_all_close(jitted, eager, rtol=1e-5, atol=1e-6)
    assert len(traces) == 1


@every_transformation
def test_state_structure_and_types(transformation):
    _, after = run(transformation)
    chex.assert_trees_all_equal_shapes_and_dtypes(transformation.init(), after)
    for leaf in jax.tree.leaves((transformation.init(), after)):
        assert isinstance(leaf, jax.Array)
        assert not leaf.weak_type


@every_transformation
def test_update_scan(transformation):
    rewards = np.stack([binary_rewards(seed=step) for step in range(4)])
    entropies = jnp.asarray([1.5 - 0.4 * step for step in range(4)])

    def body(state, inputs):
        advantages, state = transformation.update(
            inputs[0], state, entropy=inputs[1], prompt=PROMPTS
        )
        return state, advantages

    state, advantages = jax.lax.scan(body, transformation.init(), (rewards, entropies))
    expected_advantages, expected_state = run(transformation)
    chex.assert_trees_all_close(state, expected_state, rtol=1e-5)
    np.testing.assert_allclose(advantages[-1], expected_advantages, rtol=1e-5, atol=1e-6)


@every_transformation
def test_update_vmap(transformation):
    rewards = np.stack([binary_rewards(seed=seed) for seed in range(3)])
    entropies = jnp.array([0.3, 0.9, 1.5])
    states = jax.vmap(lambda _: transformation.init())(jnp.arange(3))
    mapped = jax.vmap(lambda r, s, h: transformation.update(r, s, entropy=h, prompt=PROMPTS))(
        rewards, states, entropies
    )
    for seed in range(3):
        one = first(transformation, rewards[seed], entropies[seed])
        found = jax.tree.map(lambda leaf, i=seed: leaf[i], mapped)
        chex.assert_trees_all_close(found, one, rtol=1e-5, atol=1e-6)


@every_transformation
def test_update_masked_equals_dropped(transformation):
    rewards = binary_rewards()
    where = np.ones((6, 8), bool)
    where[:, [2, 5]] = False
    where[3] = False
    dropped = np.delete(np.delete(rewards, [2, 5], axis=1), 3, axis=0)
    masked, masked_state = first(transformation, np.where(where, rewards, np.nan), where=where)
    expected, expected_state = first(transformation, dropped, prompt=np.delete(PROMPTS, 3))
    kept = np.delete(np.delete(np.asarray(masked), [2, 5], axis=1), 3, axis=0)
    np.testing.assert_allclose(kept, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(masked[~where], 0)
    chex.assert_trees_all_close(masked_state, expected_state, rtol=1e-6)


@every_transformation
def test_update_empty_batch(transformation):
    _, before = run(transformation, steps=2)
    for entropy in (0.1, np.nan):
        advantages, after = transformation.update(
            binary_rewards(),
            before,
            where=np.zeros((6, 8), bool),
            entropy=entropy,
            prompt=PROMPTS,
        )
        np.testing.assert_array_equal(advantages, 0)
        chex.assert_trees_all_equal(after, before)


@every_transformation
def test_update_permutation(transformation):
    rewards, order = binary_rewards(), np.random.default_rng(1).permutation(8)
    plain, state = first(transformation, rewards)
    permuted, same = first(transformation, rewards[:, order])
    np.testing.assert_allclose(permuted, plain[:, order], rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(same, state, rtol=1e-6)


@every_transformation
def test_update_finite_values_and_gradients(transformation):
    def total(rewards):
        advantages, _ = first(transformation, rewards)
        return jnp.sum(jnp.sin(advantages)), advantages

    chex.assert_tree_all_finite(
        jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(binary_rewards()))
    )
    for solved in (0.0, 1.0):
        rewards = np.full((4, 8), solved, np.float32)
        chex.assert_tree_all_finite(first(transformation, rewards, entropy=0.0))


@every_transformation
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32, bool])
def test_update_dtypes(transformation, dtype):
    rewards = binary_rewards()
    cast = first(transformation, jnp.asarray(rewards, dtype))
    chex.assert_type(cast[0], jnp.float32)
    chex.assert_trees_all_equal(cast, first(transformation, rewards))


@every_transformation
def test_update_non_finite_entropy(transformation):
    state = transformation.init()
    for entropy in (np.nan, np.inf, 1.0, -np.inf, np.nan):
        advantages, state = transformation.update(
            binary_rewards(), state, entropy=entropy, prompt=PROMPTS
        )
        chex.assert_tree_all_finite((advantages, state))


@every_transformation
@pytest.mark.parametrize("compiled", [False, True])
def test_update_of_a_nan_reward_is_nan_in_its_group(transformation, compiled):
    update = jax.jit(transformation.update) if compiled else transformation.update
    rewards, where = binary_rewards(), np.broadcast_to(np.arange(8) != 5, (6, 8))
    rewards[[0, 1, 2], [2, 2, 7]] = np.nan  # an all-failed, an all-solved and a mixed group
    rewards[3, 5] = np.nan  # masked
    advantages, state = update(
        rewards, transformation.init(), where=where, entropy=0.7, prompt=PROMPTS
    )
    np.testing.assert_array_equal(np.isnan(advantages[:3]), where[:3])
    np.testing.assert_array_equal(advantages[~where], 0)
    chex.assert_tree_all_finite(state)


def test_state_of_fade_holds_alpha_and_delta():
    transformation = transforms.fade(initial_solve_rate=0.5, initial_entropy=2.0, rate=1.0)
    rewards = np.array([[1, 0, 0, 0]] * 2)
    _, state = transformation.update(rewards, transformation.init(), entropy=0.6)
    assert optax.tree_utils.tree_get(state, "alpha") == 3.0  # 3 (1 - 1/4) / (2/4), at most 3
    delta = optax.tree_utils.tree_get(state, "delta")
    np.testing.assert_allclose(delta, 1 + 0.6 - 0.5 * 2.0, rtol=1e-6)


@pytest.mark.parametrize("name", ["fade", "fade_from_entropy", "fade_without_suppression"])
def test_update_non_finite_reward_keeps_state(name):
    transformation = TRANSFORMATIONS[name]
    _, before = run(transformation, steps=2)
    rewards = binary_rewards()
    rewards[3, 2] = np.nan
    _, after = transformation.update(rewards, before, entropy=np.nan)
    chex.assert_trees_all_equal(after, before)


@every_transformation
def test_update_ignores_other_statistics_and_defaults_rewards(transformation):
    rewards = binary_rewards()
    plain = first(transformation, rewards)
    extra = first(transformation, rewards, lengths=np.ones(3), note=None)
    chex.assert_trees_all_equal(plain, extra)
    chex.assert_trees_all_equal(plain, first(transformation, rewards, rewards=rewards))


@every_transformation
def test_update_sharded(transformation):
    rewards = binary_rewards(shape=(16, 8))
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    sharded = jax.device_put(rewards, NamedSharding(mesh, PartitionSpec("data")))
    state = jax.device_put(transformation.init(), NamedSharding(mesh, PartitionSpec()))
    given = {"entropy": 0.8, "prompt": np.arange(16) % 7}
    result = jax.jit(lambda r, s: transformation.update(r, s, **given))(sharded, state)
    expected = transformation.update(rewards, transformation.init(), **given)
    chex.assert_trees_all_close(result, expected, rtol=1e-5, atol=1e-6)
    for leaf in jax.tree.leaves(result[1]):
        assert leaf.sharding.is_fully_replicated


@pytest.mark.parametrize(
    "name", [name for name, one in TRANSFORMATIONS.items() if jax.tree.leaves(one.init())]
)
def test_state_checkpoint(name, tmp_path):
    transformation = TRANSFORMATIONS[name]
    _, state = run(transformation, steps=3)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", {"advantage": state, "step": jnp.int32(3)})
        checkpointer.wait_until_finished()
        target = {"advantage": transformation.init(), "step": jnp.int32(0)}
        restored = checkpointer.restore(tmp_path / "state", target)["advantage"]
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal(
        transformation.update(binary_rewards(9), restored, entropy=0.2, prompt=PROMPTS),
        transformation.update(binary_rewards(9), state, entropy=0.2, prompt=PROMPTS),
    )


@pytest.mark.parametrize(
    ("factory", "keywords", "message"),
    [
        (transforms.fade, {"alpha_max": 0.5}, "alpha_max must .* at least 1, got 0.5"),
        (transforms.fade, {"delta_min": 0.0}, r"delta_min must be in \(0, 1\], got 0.0"),
        (transforms.fade, {"rate": 2.0}, r"rate must be in \(0, 1\], got 2.0"),
        (transforms.fade, {"gain": -1.0}, "gain must .* at least 0, got -1.0"),
        (transforms.fade, {"target_entropy": -0.5}, "target_entropy must .* above 0, got -0.5"),
        (transforms.fade, {"target_fraction": 0.0}, "target_fraction must .* above 0"),
        (transforms.fade, {"initial_entropy": np.nan}, "initial_entropy .* got nan"),
        (transforms.fade, {"initial_solve_rate": 1.5}, r"initial_solve_rate .* \[0, 1\], got 1.5"),
        (transforms.fade_log_decay, {"steps": 0}, "steps must .* above 0, got 0"),
        (transforms.fade_log_decay, {"steps": 5, "alpha_max": 0.5}, "alpha_max .* got 0.5"),
        (transforms.fade_log_decay, {"steps": 5, "delta_min": 0.0}, "delta_min .* got 0.0"),
        (transforms.fade_from_entropy, {"alpha_max": 0.0}, "alpha_max .* got 0.0"),
        (transforms.fade_from_entropy, {"initial_entropy": -1.0}, "initial_entropy .* got -1.0"),
        (transforms.fade_without_focal, {"delta_min": 2.0}, "delta_min .* got 2.0"),
        (transforms.fade_without_suppression, {"rate": 0.0}, "rate .* got 0.0"),
        (transforms.power, {"alpha": -1.0}, "alpha .* got -1.0"),
        (transforms.power, {"alpha": 1.0, "scale": np.nan}, "scale .* got nan"),
        (transforms.asym_grpo, {"delta": 0.0}, "delta must .* above 0, got 0.0"),
        (transforms.power_asym, {"alpha": 1.0, "delta": -0.5}, "delta .* got -0.5"),
        (transforms.clip, {"max_abs": 0.0}, "max_abs must .* above 0"),
        (transforms.shrinkage, {"a": 0.0}, "a must be a finite number above 0"),
        (transforms.shrinkage, {"b": -1.0}, "b must be a finite number above 0"),
        (transforms.pass_at_k_weight, {"k": 0.5}, "k must be a finite number of at least 1"),
        (transforms.scheduled_pass_at_k, {"rate": 0.0}, "rate must be"),
        (transforms.per_prompt_solve_rate, {"num_prompts": 0}, "num_prompts must .* 1, got 0"),
        (transforms.per_prompt_solve_rate, {"num_prompts": 2.5}, "num_prompts must .*, got 2.5"),
        (transforms.focal_by_prompt, {"num_prompts": 2, "alpha": -1.0}, "alpha must .* got -1.0"),
        (transforms.focal_by_prompt, {"num_prompts": 2, "decay": 1.5}, "decay must .* got 1.5"),
        (transforms.focal_by_prompt, {"num_prompts": 2, "a": 0.0}, "a must .* above 0, got 0.0"),
        (transforms.focal_by_prompt, {"num_prompts": 2, "b": -1.0}, "b must .* above 0, got -1.0"),
        (transforms.standardize, {"ddof": 3}, "ddof .* got 3"),
        (transforms.grpo, {"eps": -1.0}, "eps .* got -1.0"),
        (transforms.grpo, {"ddof": 3}, "ddof .* got 3"),
        (transforms.reinforce, {"baseline": np.inf}, "baseline .* got inf"),
        (transforms.w_reinforce, {"positive_weight": -0.1}, "positive_weight .* got -0.1"),
        (transforms.f_grpo, {"gamma": -1.0}, "gamma .* got -1.0"),
        (transforms.a_grae, {"omega": -1.0}, "omega .* got -1.0"),
        (transforms.a_grae, {"omega": 0.5, "threshold": 0.0}, "threshold .* got 0.0"),
        (transforms.log_mean_exp, {"beta": -1.0}, "beta .* got -1.0"),
        (transforms.pkpo, {"k": 0}, "k must .* got 0"),
        (transforms.pkpo, {"k": 2, "baseline": "x"}, "baseline .* got 'x'"),
        (transforms.pass_at_k_training, {"k": 0}, "k must .* got 0"),
        (transforms.quantile, {"level": 0.0}, "level .* got 0.0"),
    ],
)
def test_factory_bad_hyperparameters(factory, keywords, message):
    with pytest.raises(ValueError, match=message):
        factory(**keywords)
