"""The update against float64 references: the policy gradient, its accumulation and its clipping."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import advantages, gradients, learner
from experiments.config import default_config
from experiments.models import transformer
from experiments.models.config import ModelConfig
from experiments.optimizers import make_optimizer, sft_optimizer
from experiments.rollout import Rollouts, completion_log_probs
from experiments.tasks.base import Demonstrations, Prompts
from tests.experiments.models import numpy_transformer

MODEL = ModelConfig(
    vocab_size=7,
    num_layers=1,
    d_model=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    d_ff=16,
    tied_head=False,
    max_positions=16,
)
P, G, T = 4, 4, 3
RATE = 0.5


class Case(NamedTuple):
    params: dict
    prompts: Prompts
    rollouts: Rollouts
    rewards: jax.Array


@pytest.fixture(scope="module", name="case")
def case_fixture():
    rng = np.random.default_rng(0)
    params = jax.jit(transformer.init_params, static_argnums=0)(MODEL, jax.random.key(0))
    prompts = Prompts(
        jnp.asarray(rng.integers(0, 7, (P, 3)), jnp.int32), jnp.array([3, 2, 3, 1], jnp.int32), ()
    )
    tokens = jnp.asarray(rng.integers(0, 7, (P, G, T)), jnp.int32)
    lengths = rng.integers(1, T + 1, (P, G))
    mask = jnp.asarray(np.arange(T) < lengths[..., None], jnp.float32)
    log_probs = jax.jit(completion_log_probs, static_argnums=0)
    old = log_probs(MODEL, params, prompts.tokens, prompts.length, tokens) * mask
    rollouts = Rollouts(tokens, mask, old, mask)
    rewards = jnp.asarray([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]], jnp.float32)
    return Case(params, prompts, rollouts, rewards)


def settings(**changes):
    config = default_config()
    config.optimizer.name = "sgd"
    for field, value in changes.items():
        section, name = field.split("__")
        config[section][name] = value
    return config


def learn(case, config, methods=(("dr_grpo", ()),), known=None):
    """Makes a step by each of the methods, in one compiled program; returns the outcome of each."""
    methods = [(name, dict(kwargs)) for name, kwargs in methods]
    config.optimizer.learning_rate = RATE
    members = advantages.members_of(methods)
    step = jax.jit(
        lambda s, hyper: learner.policy_update(MODEL, config, members, s, hyper, *case[1:], known)
    )
    outcomes = []
    for config.advantage.name, config.advantage.kwargs in methods:
        hyper = learner.hyperparameters(config, members)
        outcomes.append(step(learner.init_state(MODEL, config, members, hyper, case.params), hyper))
    return outcomes


REDUCTIONS = ("sequence_sum", "token_mean", "sequence_mean")


@pytest.fixture(scope="module", name="whole")
def whole_fixture(case):
    """The (state, metrics) of a step without microbatches, by the reduction of its loss."""
    return {r: learn(case, settings(learner__reduction=r))[0] for r in REDUCTIONS}


def test_policy_update_gives_the_advantage_the_index_of_the_prompts(case):
    """RLOO, by the solve rates of an earlier step; the last group is of a prompt without an index."""
    case = case._replace(prompts=case.prompts._replace(index=jnp.array([2, 0, 2, -1], jnp.int32)))
    known = jnp.ones((P, G), bool).at[1, 3].set(False)
    methods = [("per_prompt_solve_rate", {"num_prompts": 3})]
    ((state, _),) = learn(case, settings(), methods, known)
    _, table = state.advantage_state[0]
    np.testing.assert_array_equal(table.successes, [2, 0, 1])
    np.testing.assert_array_equal(table.samples, [3, 0, 8])


def weighted_log_likelihood(params, case, weights):
    """(1/PG) Σ_i A_i Σ_t log π(y_it) in float64, by a transformer that shares no code with ours."""
    tokens, mask = np.asarray(case.rollouts.tokens), np.asarray(case.rollouts.token_mask)
    total = 0.0
    for i in range(P):
        prompt = np.asarray(case.prompts.tokens)[i, : int(case.prompts.length[i])]
        for j in range(G):
            count = int(mask[i, j].sum())
            sequence = [*prompt, *tokens[i, j, :count]]
            z = numpy_transformer.logits(MODEL, params, sequence)[len(prompt) - 1 : -1]
            log_probs = z - np.log(np.sum(np.exp(z), axis=-1, keepdims=True))
            total += weights[i, j] * log_probs[np.arange(count), tokens[i, j, :count]].sum()
    return total / (P * G)


def test_first_step_is_the_policy_gradient_by_float64_differences(case, whole):
    """SGD moves by lr · (1/PG) Σ A ∇log π; the derivative is a central difference in float64."""
    state, _ = whole["sequence_sum"]
    moved = jax.tree.map(
        lambda new, old: (np.asarray(new, np.float64) - np.asarray(old, np.float64)) / RATE,
        state.params,
        case.params,
    )
    rewards = np.asarray(case.rewards, np.float64)
    weights = rewards - rewards.mean(axis=1, keepdims=True)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), case.params)

    def value(eps):
        shifted = jax.tree.map(
            lambda x, d: np.asarray(x, np.float64) + eps * d, case.params, direction
        )
        return weighted_log_likelihood(shifted, case, weights)

    derivative = (value(1e-5) - value(-1e-5)) / 2e-5
    leaves = zip(jax.tree.leaves(moved), jax.tree.leaves(direction), strict=True)
    along = sum(np.sum(m * d) for m, d in leaves)
    assert abs(derivative) > 1e-3
    np.testing.assert_allclose(along, derivative, rtol=1e-3)


def test_learning_rate_warms_up_linearly():
    config = settings(optimizer__warmup_updates=4)
    optimizer = make_optimizer(config.optimizer, 0.8)
    state = optimizer.init(jnp.zeros(()))
    rates = []
    for _ in range(6):
        update, state = optimizer.update(jnp.float32(1.0), state, jnp.zeros(()))
        rates.append(-float(update))
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.6, 0.8, 0.8, 0.8], rtol=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_microbatches_give_the_same_update(case, whole, reduction):
    state, metrics = whole[reduction]
    config = settings(learner__reduction=reduction, learner__microbatches=2)
    ((parts, part_metrics),) = learn(case, config)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    np.testing.assert_allclose(metrics["loss"], part_metrics["loss"], rtol=1e-5, atol=1e-7)


def test_microbatches_without_a_gradient_are_left_out():
    """Groups 0, 2 and 3 have no advantage: computing their microbatch would bring in a NaN."""
    advantages = jnp.array([[0.0, 0.0], [3.0, -1.0], [0.0, 0.0], [0.0, 0.0]])
    empty = jnp.zeros((4, 2, 1))
    batch = gradients.Batch(*[empty] * 6, advantages)

    def loss(params, part):
        total = params * jnp.sum(part.advantages)
        return jnp.where(jnp.any(part.advantages), total, jnp.nan), gradients.Parts({}, {})

    def update(advantages):
        return gradients.gradient_update(
            loss,
            optax.sgd(0.5),
            jnp.float32(1.0),
            optax.sgd(0.5).init(jnp.float32(1.0)),
            batch._replace(advantages=advantages),
            denominator=jnp.float32(4.0),
            microbatches=2,
        )

    (params, _), (metrics, _) = jax.jit(update)(advantages)
    assert float(params) == 1.0 - 0.5 * 2.0 / 4.0
    assert float(metrics["loss"]) == 2.0 / 4.0
    (params, _), (metrics, _) = jax.jit(update)(jnp.zeros_like(advantages))
    assert float(params) == 1.0
    assert float(metrics["loss"]) == 0.0


def test_reductions_weigh_tokens_as_their_formulas_say(case, whole):
    """By hand: at ratio 1 the loss of a token is -A."""
    mask = np.asarray(case.rollouts.token_mask, np.float64)
    rewards = np.asarray(case.rewards, np.float64)
    losses = -(rewards - rewards.mean(axis=1, keepdims=True))[..., None] * mask
    expected = {
        "sequence_sum": losses.sum() / (P * G),
        "token_mean": losses.sum() / mask.sum(),
        "sequence_mean": (losses.sum(-1) / mask.sum(-1)).mean(),
    }
    for reduction, value in expected.items():
        np.testing.assert_allclose(whole[reduction][1]["loss"], value, atol=1e-6)


def test_on_policy_update_clips_nothing_and_reuse_does(case, whole):
    ((_, often),) = learn(case, settings(learner__epochs=8, learner__clip_low=0.01))
    assert whole["sequence_sum"][1]["clip_fraction"] == 0
    assert often["clip_fraction"] > 0


def test_minibatches_of_an_epoch_each_see_their_own_prompts(case):
    """With one prompt per minibatch, SGD visits the prompts one after another in some order."""
    config = settings(learner__minibatches=P)
    ((state, _),) = learn(case, config)
    assert int(state.step) == 1

    @jax.jit
    def visit(params, prompt):
        one = jax.tree.map(lambda x: x[prompt][None], case._replace(params=()))
        rewards = one.rewards - jnp.mean(one.rewards, axis=1, keepdims=True)

        def loss(params):
            log_probs = completion_log_probs(
                MODEL, params, one.prompts.tokens, one.prompts.length, one.rollouts.tokens
            )
            ratio = jnp.exp(log_probs - one.rollouts.log_probs)
            advantage = rewards[..., None]
            clipped = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
            return -jnp.sum(clipped * one.rollouts.token_mask) / G

        return jax.tree.map(lambda x, g: x - RATE * g, params, jax.grad(loss)(params))

    gaps = []
    for order in itertools.permutations(range(P)):
        params = case.params
        for prompt in order:
            params = visit(params, prompt)
        leaves = zip(jax.tree.leaves(params), jax.tree.leaves(state.params), strict=True)
        gaps.append(max(np.max(np.abs(np.asarray(a) - np.asarray(b))) for a, b in leaves))
    assert min(gaps) < 1e-5
    assert max(gaps) > 1e-3  # the order matters, so that the match above says something


def test_policy_update_leaves_rollouts_of_unknown_reward_out(case):
    """As a batch whose second rollout of every group was never sampled: by float64, by hand."""
    known = np.ones((P, G), bool)
    known[:, 1] = False
    rewards = jnp.where(known, case.rewards, jnp.nan)
    rest = np.flatnonzero(known[0])
    fewer = Case(
        case.params,
        case.prompts,
        jax.tree.map(lambda x: x[:, rest], case.rollouts),
        case.rewards[:, rest],
    )
    methods = [("dr_grpo", ()), ("fade", ()), ("rloo", ())]
    masked = learn(case._replace(rewards=rewards), settings(), methods, jnp.asarray(known))
    expected = learn(fewer, settings(), methods)
    for (state, metrics), (other, others) in zip(masked, expected, strict=True):
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        for metric in ("reward", "loss", "gradient_norm", "entropy", "mass_success", "length"):
            np.testing.assert_allclose(metrics[metric], others[metric], rtol=1e-5)


def test_metrics_of_a_known_batch(whole):
    _, metrics = whole["sequence_sum"]
    assert metrics["reward"] == pytest.approx(6 / 16)
    assert metrics["zero_variance_fraction"] == pytest.approx(1 / 4)
    assert metrics["solve_rate_histogram"].tolist() == [1, 1, 1, 1, 0]
    # Σ over groups of K(G-K)/G², over P: (3 + 4 + 0 + 3) / 16 / 4.
    assert metrics["mass_success"] == pytest.approx(10 / 64)
    assert metrics["mass_failure"] == pytest.approx(10 / 64)
    assert metrics["sign_ratio"] == pytest.approx(1)
    assert np.isnan(metrics["alpha"])


def test_sft_update_is_maximum_likelihood_by_adam(case):
    """Adam's first step is lr·sign(g), whatever the optimizer of RL: -mean log π falls by lr·Σ|g|."""
    demonstrations = Demonstrations(
        case.prompts, case.rollouts.tokens[:, 0], case.rollouts.token_mask[:, 0]
    )
    config = settings(warm_start__learning_rate=1e-4)
    assert config.optimizer.name == "sgd"

    def negative_log_likelihood(params):
        log_probs = completion_log_probs(
            MODEL, params, case.prompts.tokens, case.prompts.length, demonstrations.tokens[:, None]
        )[:, 0]
        return -jnp.sum(log_probs * demonstrations.token_mask) / jnp.sum(demonstrations.token_mask)

    opt_state = sft_optimizer(config).init(case.params)
    update = jax.jit(lambda p, s: learner.sft_update(MODEL, config, p, s, demonstrations))
    (params, _), metrics = update(case.params, opt_state)
    likelihood = jax.jit(jax.value_and_grad(negative_log_likelihood))
    before, gradient = likelihood(case.params)
    leaves = jax.tree.leaves(gradient)
    np.testing.assert_allclose(metrics["loss"], before, rtol=1e-6)
    squared = sum(np.sum(np.square(g)) for g in leaves)
    np.testing.assert_allclose(metrics["gradient_norm"], squared**0.5, rtol=1e-4)
    drop = float(before - likelihood(params)[0])
    np.testing.assert_allclose(drop, 1e-4 * sum(np.sum(np.abs(g)) for g in leaves), rtol=0.05)


def test_sgd_with_momentum_adds_up_its_gradients():
    """v ← 0.5 v + g, x ← x - lr v: gradients 1, 2, 4 move by 0.1 (1, 2.5, 5.25)."""
    optimizer = make_optimizer(settings(optimizer__momentum=0.5).optimizer, 0.1)
    state, moves = optimizer.init(jnp.zeros(())), []
    for gradient in (1.0, 2.0, 4.0):
        update, state = optimizer.update(jnp.float32(gradient), state, jnp.zeros(()))
        moves.append(-float(update))
    np.testing.assert_allclose(moves, [0.1, 0.25, 0.525], rtol=1e-6)


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_behavior_params_lag_by_staleness_steps(case, lag):
    config = settings(learner__staleness=lag)
    config.advantage.name = "dr_grpo"
    members = advantages.members_of([("dr_grpo", {})])
    hyper = learner.hyperparameters(config, members)
    # The parameters are replaced by the number of the step: nothing else need be computed.
    numbers = [jax.tree.map(lambda p, t=t: np.full_like(p, t), case.params) for t in range(8)]
    state = learner.init_state(MODEL, config, members, hyper, numbers[0])
    used = []
    for t in range(7):
        used.append(float(learner.behavior_params(config, state)["final_norm"][0]))
        past = learner.push_past_params(config, state)
        state = state._replace(step=state.step + 1, params=numbers[t + 1], past_params=past)
    assert used == [max(t - lag, 0) for t in range(7)]


@pytest.fixture(scope="module", name="lagging")
def lagging_fixture(case):
    config = settings(learner__staleness=2, learner__equalize_mass=True)
    return learn(case, config, [("power", {"alpha": 2.0})])[0]


def test_a_step_remembers_the_policy_before_it(case, lagging):
    for past, start in zip(
        *map(jax.tree.leaves, (lagging[0].past_params, case.params)), strict=True
    ):
        np.testing.assert_array_equal(past, np.stack([start, start]))


def test_equalized_advantages_have_the_total_weight_of_centred_rewards(case, lagging):
    rewards = np.asarray(case.rewards, np.float64)
    p = rewards.mean(axis=1, keepdims=True)
    power = (1 - p) * (rewards - p)
    expected = power * np.abs(rewards - p).sum() / np.abs(power).sum()
    np.testing.assert_allclose(
        advantages.equalize_mass(jnp.asarray(power, jnp.float32), case.rewards), expected, rtol=1e-6
    )
    # As without focus, in test_metrics_of_a_known_batch.
    np.testing.assert_allclose(lagging[1]["mass_success"], 10 / 64, rtol=1e-5)
    nothing = jnp.zeros((2, 4))
    np.testing.assert_array_equal(advantages.equalize_mass(nothing, nothing), nothing)
