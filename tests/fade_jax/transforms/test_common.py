"""The suite that every transformation passes."""

from functools import cache, partial

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
    "tempered_holding_entropy": transforms.tempered_holding_entropy(target_fraction=0.5),
    "power_holding_entropy": transforms.power_holding_entropy(target_fraction=0.5, rate=1.0),
    "by_step": transforms.chain(
        transforms.center(),
        transforms.focal(by_step(lambda step: 1.0 + 0.1 * step)),
        transforms.suppress(lambda step: 1.0 / (1.0 + step)),
    ),
}
PROMPTS = np.array([3, 0, 7, 3, -1, 5, 6, 2])  # one is there twice, one has no index
ENTROPIES = np.array([1.5, 1.1, 0.7, 0.3], np.float32)
ALL = np.ones((8, 8), bool)
make_rewards = partial(binary_rewards, shape=(8, 8))  # a group for each of eight devices
every_name = pytest.mark.parametrize("name", TRANSFORMATIONS)


@jax.jit
def update_all(rewards, states, where, entropy, prompt):
    """Updates every transformation: one program compiles in half of the time of one for each."""
    return {
        name: one.update(rewards, states[name], where=where, entropy=entropy, prompt=prompt)
        for name, one in TRANSFORMATIONS.items()
    }


def initial_states():
    return {name: one.init() for name, one in TRANSFORMATIONS.items()}


def states_of(updated):
    return {name: state for name, (_, state) in updated.items()}


def first(name, rewards, where=ALL, entropy=0.7, prompt=PROMPTS):
    """Returns the compiled first update of one transformation."""
    return update_all(rewards, initial_states(), where, np.float32(entropy), prompt)[name]


def eager(name, advantages, **others):
    """Returns its first update, not compiled."""
    keywords = {"where": ALL, "entropy": 0.7, "prompt": PROMPTS, **others}
    return TRANSFORMATIONS[name].update(advantages, TRANSFORMATIONS[name].init(), **keywords)


@cache
def run(name, steps=4):
    """Returns the last advantages and state after a few steps of changing rewards and entropy."""
    state = TRANSFORMATIONS[name].init()
    for step in range(steps):
        advantages, state = TRANSFORMATIONS[name].update(
            make_rewards(step), state, where=ALL, entropy=ENTROPIES[step], prompt=PROMPTS
        )
    return advantages, state


def test_every_factory_has_a_case():
    others = {"AdvantageState", "AdvantageTransformation", "PromptState", "chain", "lift"}
    others |= {"init_prompts", "solve_rates", "stateless", "update_prompts"}
    # In "center_clip", "by_step", "grpo_by_prompt" and "tempered_likelihood".
    links = {"center", "clip", "focal", "focal_by_prompt", "suppress", "temper"}
    cases = {case.name for case in CASES} | set(TRANSFORMATIONS)
    assert set(transforms.__all__) <= cases | others | links


@pytest.fixture(scope="module", name="jitted")
def jitted_fixture():
    """By name: what `run` returns, compiled."""
    states = initial_states()
    for step, entropy in enumerate(ENTROPIES):
        updated = update_all(make_rewards(step), states, ALL, entropy, PROMPTS)
        states = states_of(updated)
    return updated


@every_name
def test_update_jit_equals_eager(name, jitted):
    chex.assert_trees_all_close(jitted[name], run(name), rtol=1e-5, atol=1e-6)


def test_update_is_traced_once(jitted):
    traces = []

    @jax.jit
    def update(*arguments):
        traces.append(arguments)
        return update_all(*arguments)

    for seed, states in enumerate([initial_states(), states_of(jitted)]):
        update.trace(make_rewards(seed), states, ALL, ENTROPIES[seed], PROMPTS)
    assert len(traces) == 1


@every_name
def test_state_structure_and_types(name):
    before, (_, after) = TRANSFORMATIONS[name].init(), run(name)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    for leaf in jax.tree.leaves((before, after)):
        assert isinstance(leaf, jax.Array)
        assert not leaf.weak_type


@pytest.fixture(scope="module", name="scanned")
def scanned_fixture():
    """The last states and all advantages of a scan over the steps of `run`."""

    def body(states, inputs):
        updated = update_all(inputs[0], states, ALL, inputs[1], PROMPTS)
        return states_of(updated), {name: advantages for name, (advantages, _) in updated.items()}

    rewards = np.stack([make_rewards(seed=step) for step in range(4)])
    return jax.lax.scan(body, initial_states(), (rewards, ENTROPIES))


@every_name
def test_update_scan(name, scanned):
    states, advantages = scanned
    expected_advantages, expected_state = run(name)
    chex.assert_trees_all_close(states[name], expected_state, rtol=1e-5)
    np.testing.assert_allclose(advantages[name][-1], expected_advantages, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module", name="mapped")
def mapped_fixture():
    """The first updates with the rewards of three seeds, each with its entropy."""
    rewards = np.stack([make_rewards(seed=seed) for seed in range(3)])
    states = jax.vmap(lambda _: initial_states())(np.arange(3))
    mapped = jax.vmap(update_all, in_axes=(0, 0, None, 0, None))
    return jax.jit(mapped)(rewards, states, ALL, ENTROPIES[:3], PROMPTS)


@every_name
def test_update_vmap(name, mapped):
    for seed in range(3):
        one = first(name, make_rewards(seed), entropy=ENTROPIES[seed])
        found = jax.tree.map(lambda leaf, i=seed: leaf[i], jax.device_get(mapped[name]))
        chex.assert_trees_all_close(found, one, rtol=1e-5, atol=1e-6)


@every_name
def test_update_masked_equals_dropped(name):
    rewards = make_rewards()
    where = ALL.copy()
    where[:, [2, 5]] = False
    where[3] = False
    dropped = np.delete(np.delete(rewards, [2, 5], axis=1), 3, axis=0)
    masked, masked_state = first(name, np.where(where, rewards, np.float32(np.nan)), where)
    expected, expected_state = first(name, dropped, None, prompt=np.delete(PROMPTS, 3))
    kept = np.delete(np.delete(np.asarray(masked), [2, 5], axis=1), 3, axis=0)
    np.testing.assert_allclose(kept, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(masked[~where], 0)
    chex.assert_trees_all_close(masked_state, expected_state, rtol=1e-6)


@pytest.mark.parametrize("entropy", [0.1, np.nan])
def test_update_empty_batch(entropy):
    before = {name: run(name, steps=2)[1] for name in TRANSFORMATIONS}
    found = update_all(make_rewards(), before, ~ALL, np.float32(entropy), PROMPTS)
    for name, (advantages, after) in found.items():
        np.testing.assert_array_equal(advantages, 0, err_msg=name)
        chex.assert_trees_all_equal(after, before[name], custom_message=name)


@every_name
def test_update_permutation(name):
    rewards, order = make_rewards(), np.random.default_rng(1).permutation(8)
    plain, state = first(name, rewards)
    permuted, same = first(name, rewards[:, order])
    np.testing.assert_allclose(permuted, plain[:, order], rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(same, state, rtol=1e-6)


@pytest.fixture(scope="module", name="gradients")
def gradients_fixture():
    """By name: of the sum of a function of the advantages."""

    @jax.jit
    def compute(rewards):
        return {
            name: jax.grad(lambda r, name=name: jnp.sum(jnp.sin(eager(name, r)[0])))(rewards)
            for name in TRANSFORMATIONS
        }

    return compute(make_rewards())


@every_name
def test_update_finite_values_and_gradients(name, gradients):
    chex.assert_tree_all_finite((gradients[name], first(name, make_rewards())))
    for solved in (0.0, 1.0):
        rewards = np.full((8, 8), solved, np.float32)
        chex.assert_tree_all_finite(first(name, rewards, entropy=0.0))


@every_name
def test_update_dtypes(name):
    rewards = make_rewards()
    expected = eager(name, rewards)
    for dtype in (jnp.bfloat16, jnp.int32, bool):
        cast = eager(name, jnp.asarray(rewards, dtype))
        chex.assert_type(cast[0], jnp.float32)
        chex.assert_trees_all_equal(cast, expected)


def test_update_non_finite_entropy():
    states = initial_states()
    for entropy in (np.nan, np.inf, 1.0, -np.inf, np.nan):
        updated = update_all(make_rewards(), states, ALL, np.float32(entropy), PROMPTS)
        chex.assert_tree_all_finite(updated)
        states = states_of(updated)


@every_name
@pytest.mark.parametrize("update", [eager, first], ids=["eager", "compiled"])
def test_update_of_a_nan_reward_is_nan_in_its_group(name, update):
    rewards, where = make_rewards(), np.broadcast_to(np.arange(8) != 5, (8, 8))
    rewards[[0, 1, 2], [2, 2, 7]] = np.nan  # an all-failed, an all-solved and a mixed group
    rewards[3, 5] = np.nan  # masked
    advantages, state = update(name, rewards, where=where)
    np.testing.assert_array_equal(np.isnan(advantages[:3]), where[:3])
    np.testing.assert_array_equal(advantages[~where], 0)
    chex.assert_tree_all_finite(state)


def test_state_of_fade_holds_alpha_and_delta():
    transformation = transforms.fade(initial_solve_rate=0.5, initial_entropy=2.0, rate=1.0)
    rewards = np.tile([1, 0, 0, 0], (8, 2))
    _, state = transformation.update(rewards, transformation.init(), where=ALL, entropy=0.6)
    assert optax.tree_utils.tree_get(state, "alpha") == 3.0  # 3 (1 - 1/4) / (2/4), at most 3
    delta = optax.tree_utils.tree_get(state, "delta")
    np.testing.assert_allclose(delta, 1 + 0.6 - 0.5 * 2.0, rtol=1e-6)


@pytest.mark.parametrize("name", ["fade", "fade_from_entropy", "fade_without_suppression"])
def test_update_non_finite_reward_keeps_state(name):
    _, before = run(name, steps=2)
    rewards = make_rewards()
    rewards[3, 2] = np.nan
    _, after = TRANSFORMATIONS[name].update(rewards, before, where=ALL, entropy=np.nan)
    chex.assert_trees_all_equal(after, before)


@every_name
def test_update_ignores_other_statistics_and_defaults_rewards(name):
    rewards = make_rewards()
    plain = eager(name, rewards)
    extra = eager(name, rewards, lengths=np.ones(3), note=None)
    chex.assert_trees_all_equal(plain, extra)
    chex.assert_trees_all_equal(plain, eager(name, rewards, rewards=rewards))


@pytest.fixture(scope="module", name="sharded")
def sharded_fixture():
    """By name: the first update with a group on each of eight devices."""
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    rewards = jax.device_put(make_rewards(), NamedSharding(mesh, PartitionSpec("data")))
    states = jax.device_put(initial_states(), NamedSharding(mesh, PartitionSpec()))
    return update_all(rewards, states, ALL, np.float32(0.7), PROMPTS)


@every_name
def test_update_sharded(name, sharded):
    expected = first(name, make_rewards())
    chex.assert_trees_all_close(jax.device_get(sharded[name]), expected, rtol=1e-5, atol=1e-6)
    for leaf in jax.tree.leaves(sharded[name][1]):
        assert leaf.sharding.is_fully_replicated


def test_state_checkpoint(tmp_path):
    states = {name: run(name, steps=3)[1] for name in TRANSFORMATIONS}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", {"advantage": states, "step": jnp.int32(3)})
        checkpointer.wait_until_finished()
        target = {"advantage": initial_states(), "step": jnp.int32(0)}
        restored = checkpointer.restore(tmp_path / "state", target)["advantage"]
    chex.assert_trees_all_equal(restored, states)
    given = (ALL, np.float32(0.2), PROMPTS)
    chex.assert_trees_all_equal(
        update_all(make_rewards(9), restored, *given),
        update_all(make_rewards(9), states, *given),
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
