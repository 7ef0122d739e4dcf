"""Every loss, KL estimator and coefficient through a whole train step, against float64 NumPy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import advantages, learner, objective
from experiments.compilation import compiler_options
from experiments.config import ConfigError
from experiments.experiment import build_experiment
from experiments.jobs import program_key, run_configs
from experiments.metric_writer import Silent, read_lines
from experiments.models import transformer
from experiments.train import train
from experiments.warm_start import warm_start
from tests.experiments.models import numpy_transformer
from tests.experiments.test_learner import MODEL, RATE, G, P, T, case_fixture, settings

__all__ = ["case_fixture"]

CAP = 1.1


def sequences(case):
    """Yields (i, j, prompt, completion) of every rollout."""
    tokens, mask = np.asarray(case.rollouts.tokens), np.asarray(case.rollouts.token_mask)
    for i in range(P):
        prompt = np.asarray(case.prompts.tokens)[i, : int(case.prompts.length[i])]
        for j in range(G):
            yield i, j, prompt, tokens[i, j, : int(mask[i, j].sum())]


def log_probs_and_entropies(params, case):
    """Two of [P, G, T] in float64, by a transformer that shares no code with ours."""
    log_probs, entropies = np.zeros((2, P, G, T))
    for i, j, prompt, completion in sequences(case):
        z = numpy_transformer.logits(MODEL, params, [*prompt, *completion])[len(prompt) - 1 : -1]
        log_p = z - np.log(np.sum(np.exp(z), axis=-1, keepdims=True))
        count = len(completion)
        log_probs[i, j, :count] = log_p[np.arange(count), completion]
        entropies[i, j, :count] = -np.sum(np.exp(log_p) * log_p, axis=-1)
    return log_probs, entropies


@pytest.fixture(scope="module", name="stale")
def stale_fixture(case):
    """Rollouts of a sampler whose log-probabilities are off by up to half a nat."""
    noise = np.random.default_rng(2).uniform(-0.5, 0.5, (P, G, T))
    log_probs = (case.rollouts.log_probs + noise.astype(np.float32)) * case.rollouts.token_mask
    return case._replace(rollouts=case.rollouts._replace(log_probs=log_probs))


def clip(ratio, advantage, low, high):
    return np.minimum(ratio * advantage, np.clip(ratio, 1 - low, 1 + high) * advantage)


# By case: changes of the config, and the sum over tokens and rollouts of what is minimized, of
# (log π, entropies, log π at the start, log μ of the sampler, log π_ref, A, mask); divided by P G.
def clipped_surrogate(p, h, start, mu, ref, a, mask):
    return -clip(np.exp(p - mu), a, 0.1, 0.3) * mask


def dual_clip(p, h, start, mu, ref, a, mask):
    surrogate = clip(np.exp(p - mu), a, 0.1, 0.3)
    return -np.where(a < 0, np.maximum(surrogate, 1.2 * a), surrogate) * mask


def policy_gradient(p, h, start, mu, ref, a, mask):
    return -a * p * mask


def cispo(p, h, start, mu, ref, a, mask):
    return -np.clip(np.exp(start - mu), 0.5, 1.2) * a * p * mask


def sequence_surrogate(p, h, start, mu, ref, a, mask):
    """One term for a sequence, at its first token."""
    s = np.exp(np.sum((p - mu) * mask, axis=-1) / mask.sum(axis=-1))
    first = np.arange(T) == 0
    return -clip(s, a[..., 0], 0.05, 0.06)[..., None] * first


def importance(p, h, start, mu, ref, a, mask):
    weight = np.minimum(np.exp(start - mu), CAP)
    return -weight * clip(np.exp(p - start), a, 0.2, 0.2) * mask


def constant_length(p, h, start, mu, ref, a, mask):
    return clipped_surrogate(p, h, start, mu, ref, a, mask) / T


def entropy_bonus(p, h, start, mu, ref, a, mask):
    return (-a * p - 0.3 * h) * mask


def with_kl(estimator):
    def loss(p, h, start, mu, ref, a, mask):
        return (-a * p + 0.7 * estimator(p - ref)) * mask

    return loss


def kl_in_reward(p, h, start, mu, ref, a, mask):
    kl = np.sum((mu - ref) ** 2 / 2 * mask, axis=-1)
    return -(a[..., 0] - 0.7 * (kl - kl.mean(axis=1, keepdims=True)))[..., None] * p * mask


PG = {"loss.name": "policy_gradient"}
BOUNDS = {"clip_low": 0.1, "clip_high": 0.3}
KL = PG | {"kl.coefficient": 0.7}
CASES = {
    "clipped_surrogate": (BOUNDS, clipped_surrogate),
    "dual_clip": (BOUNDS | {"loss.kwargs": {"dual": 1.2}}, dual_clip),
    "policy_gradient": (PG, policy_gradient),
    "cispo": ({"loss.name": "cispo", "loss.kwargs": {"low": 0.5, "high": 0.2}}, cispo),
    "sequence_surrogate": (
        {
            "loss.name": "sequence_surrogate",
            "loss.kwargs": {"low": 0.05, "high": 0.06},
            "reduction": "sequence_mean",
        },
        sequence_surrogate,
    ),
    "importance": ({"importance_cap": CAP}, importance),
    "constant_length": (BOUNDS | {"reduction": "constant_length_mean"}, constant_length),
    "entropy": (PG | {"entropy.coefficient": 0.3, "microbatches": 2}, entropy_bonus),
    "k1": (KL | {"kl.estimator": "k1"}, with_kl(lambda d: d)),
    "k2": (KL | {"kl.estimator": "k2", "microbatches": 2}, with_kl(lambda d: d**2 / 2)),
    "k3": (KL, with_kl(lambda d: np.exp(-d) - 1 + d)),
    "kl_in_reward": (KL | {"kl.estimator": "k2", "kl.place": "reward"}, kl_in_reward),
}


def changed(changes):
    config = settings()
    for field, value in changes.items():
        *path, last = field.split(".")
        node = config.learner
        for part in path:
            node = node[part]
        node[last] = value
    config.advantage.name, config.advantage.kwargs = "dr_grpo", {}
    config.optimizer.learning_rate = RATE
    return config


def step(case, config, reference=None, steps=1):
    members = advantages.members_of([("dr_grpo", {})])
    hyper = learner.hyperparameters(config, members)
    state = learner.init_state(MODEL, config, members, hyper, case.params, reference)
    update = jax.jit(
        lambda s: learner.policy_update(MODEL, config, members, s, hyper, *case[1:]),
        compiler_options=compiler_options(config, MODEL),
    )
    seen = []
    for _ in range(steps):
        state, metrics = update(state)
        seen.append(metrics)
    return (state, *seen)


class Tables(NamedTuple):
    """In float64: the log π and entropies of the start and of it moved, and the log π_ref."""

    reference: dict
    direction: dict
    start: np.ndarray
    ref: np.ndarray
    ahead: tuple[np.ndarray, np.ndarray]
    behind: tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module", name="tables")
def tables_fixture(stale):
    """Of a reference and of one direction to move along, by 1e-5 either way."""
    init = jax.jit(transformer.init_params, static_argnums=0)
    reference, rng = init(MODEL, jax.random.key(5)), np.random.default_rng(1)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), stale.params)

    def moved(by):
        params = jax.tree.map(lambda x, d: np.float64(x) + by * d, stale.params, direction)
        return log_probs_and_entropies(params, stale)

    start, ref = (log_probs_and_entropies(p, stale)[0] for p in (stale.params, reference))
    return Tables(reference, direction, start, ref, moved(1e-5), moved(-1e-5))


@pytest.mark.parametrize("name", CASES)
def test_update_is_the_gradient_of_its_formula(stale, tables, name):
    """The derivative along one direction, by central differences in float64."""
    changes, formula = CASES[name]
    reference, direction, start, ref, *moved = tables
    state, metrics = step(stale, changed(changes), reference)
    rewards = np.asarray(stale.rewards, np.float64)
    a = (rewards - rewards.mean(axis=1, keepdims=True))[..., None]
    mask = np.asarray(stale.rollouts.token_mask, np.float64)
    mu = np.asarray(stale.rollouts.log_probs, np.float64)
    ahead, behind = (np.sum(formula(*table, start, mu, ref, a, mask)) for table in moved)
    derivative = (ahead - behind) / 2e-5 / (P * G)
    moved = jax.tree.map(
        lambda new, old: (np.asarray(old, np.float64) - np.asarray(new, np.float64)) / RATE,
        state.params,
        stale.params,
    )
    along = sum(
        np.sum(m * d)
        for m, d in zip(jax.tree.leaves(moved), jax.tree.leaves(direction), strict=True)
    )
    assert abs(derivative) > 1e-3
    np.testing.assert_allclose(along, derivative, rtol=2e-3)
    ratio, tokens = np.exp((start - mu) * mask), mask.sum()
    effective = np.sum(ratio * mask) ** 2 / tokens / np.sum(ratio**2 * mask)
    if "microbatches" not in changes:  # which leaves tokens without a gradient out
        expected = {
            "mismatch/mean_log_ratio": np.sum(np.abs(start - mu) * mask) / tokens,
            "mismatch/max_log_ratio": np.max(np.abs(start - mu) * mask),
            "mismatch/effective_sample_size": effective,
        }
        for metric, number in expected.items():
            np.testing.assert_allclose(metrics[metric], number, rtol=1e-4)
    if name == "clipped_surrogate":
        outside = ((a > 0) & (ratio > 1.3)) | ((a < 0) & (ratio < 0.9))
        assert 0 < metrics["clip_fraction"] < 1
        np.testing.assert_allclose(metrics["clip_fraction"], np.sum(outside * mask) / tokens)
    if name == "importance":
        capped = np.sum((np.exp(start - mu) > CAP) * mask) / tokens
        np.testing.assert_allclose(metrics["mismatch/capped_fraction"], capped)
    if name == "k3":
        kl = np.sum((np.exp(ref - mu) - 1 + mu - ref) * mask) / tokens
        np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-4)


def test_reference_is_the_start_until_it_is_refreshed(case):
    config = changed({"kl.measured": True, "kl.refresh_every": 2})
    state, *metrics = step(case, config, steps=3)
    one, _ = step(case, config)
    two, *_ = step(case, config, steps=2)
    for a, b in zip(jax.tree.leaves(one.reference), jax.tree.leaves(case.params), strict=True):
        np.testing.assert_array_equal(a, b)
    for later in (two, state):
        pairs = zip(jax.tree.leaves(later.reference), jax.tree.leaves(two.params), strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a, b)
    # The rollouts are those of the start: KL is 0 to it, and not to the policy after two steps.
    assert [abs(float(m["kl"])) > 1e-6 for m in metrics] == [False, False, True]


def test_coefficients_follow_their_schedules(case):
    changes = {
        "loss.name": "policy_gradient",
        "kl.coefficient": 0.5,
        "kl.schedule": {"name": "linear", "kwargs": {"decay_updates": 4}},
        "entropy.coefficient": 2.0,
        "entropy.schedule": {
            "name": "pi_controller",
            "kwargs": {"target": 3.0, "gain": 0.1, "integral_gain": 0.01},
        },
    }
    _, *metrics = step(case, changed(changes), steps=3)
    kl = [float(m["kl_coefficient"]) for m in metrics]
    np.testing.assert_allclose(kl, [0.5, 0.375, 0.25])
    # The rollouts' entropy is 1 at every token: the error stays 2.
    entropy = [float(m["entropy_coefficient"]) for m in metrics]
    np.testing.assert_allclose(entropy, [2 * (0.2 + 0.02 * n) for n in (1, 2, 3)], rtol=1e-6)


def own_loss(log_probs, advantages, where, scale: float = 1.0):
    """A user's loss: twice the policy gradient at scale 2."""
    return jnp.where(where, -scale * advantages[..., None] * log_probs, 0)


def without_gradient(log_probs, advantages):
    return jnp.zeros_like(log_probs)


def test_own_loss_by_import_path(case):
    path = "tests.experiments.test_objective.own_loss"
    twice = changed({"loss.name": path, "loss.kwargs": {"scale": 2.0}})
    objective.check_objective(twice)
    state, _ = step(case, twice)
    once, _ = step(case, changed({"loss.name": "policy_gradient"}))
    leaves = (jax.tree.leaves(s) for s in (state.params, once.params, case.params))
    for two, one, start in zip(*leaves, strict=True):
        np.testing.assert_allclose(two - start, 2 * (one - start), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss.name": "ppo"}, "learner.loss.name must be one of policy_gradient, "),
        ({"loss.name": "cispo", "loss.kwargs": {"lo": 0.1}}, "has no field 'lo'"),
        (
            {"loss.kwargs": {"low": 0.1}},
            r"clip_low must hold what config\.learner\.loss\.kwargs has",
        ),
        ({"loss.name": "cispo", "loss.kwargs": {"low": 2.0}}, "low must be in \\(0, 1\\]"),
        ({"loss.name": f"{__name__}.without_gradient"}, "must have a finite gradient"),
        (
            {"kl.coefficient": 1.0, "kl.schedule.name": "pi"},
            "learner.kl.schedule.name must be one of constant, .*pi_controller",
        ),
        (
            {
                "entropy.coefficient": 1.0,
                "entropy.schedule": {"name": "pi_controller", "kwargs": {"statistic": "kl"}},
            },
            "the statistic 'kl' is missing",
        ),
        (
            {"kl.schedule": {"name": "adaptive_kl", "kwargs": {"target": 0.0}}},
            "learner.kl.schedule.kwargs of adaptive_kl: target must be",
        ),
    ],
)
def test_check_objective_names_what_does_not_fit(changes, message):
    with pytest.raises(ConfigError, match=message):
        objective.check_objective(changed(changes))


def test_numbers_of_the_objective_share_a_program():
    def key(changes):
        return program_key(changed(changes))

    cispo = {"loss.name": "cispo"}
    kl = {"kl.coefficient": 0.1}
    assert key({"clip_high": 0.3}) == key({"clip_low": 0.1})
    assert key(cispo | {"loss.kwargs": {"high": 0.3}}) == key(
        cispo | {"loss.kwargs": {"high": 9.0}}
    )
    assert key(kl) == key({"kl.coefficient": 0.2})
    assert len({key({}), key(cispo), key(cispo | {"loss.kwargs": {"high": 0.3}}), key(kl)}) == 4


def test_a_run_with_every_term_resumes_to_the_same_bits(tiny, warm, tmp_path):
    """KL with a refreshed reference, controllers, importance weights and a lag, cut in the middle."""
    tiny.learner.staleness, tiny.learner.importance_cap = 1, 2.0
    tiny.learner.kl.coefficient, tiny.learner.kl.refresh_every = 0.1, 3
    tiny.learner.kl.schedule = {"name": "adaptive_kl", "kwargs": {"target": 0.001}}
    tiny.learner.entropy.coefficient = 1.0
    tiny.learner.entropy.schedule = {"name": "pi_controller", "kwargs": {"target_fraction": 0.9}}
    tiny.warm_start.workdir = warm
    experiment = build_experiment(tiny)

    def digest_of(config, name):
        result = train(config, tmp_path / name, progress=Silent(), experiment=experiment)
        return result["params_sha256"]

    whole = digest_of(tiny, "whole")
    first = tiny.copy_and_resolve_references()
    first.steps = 2
    digest_of(first, "cut")
    assert digest_of(tiny, "cut") == whole
    lines = [
        [x for x in read_lines(tmp_path / w / "metrics.jsonl") if "reward" in x]
        for w in ("whole", "cut")
    ]
    for a, b in zip(*lines, strict=True):
        for metric in ("kl", "kl_coefficient", "entropy_coefficient", "mismatch/max_log_ratio"):
            assert a[metric] == b[metric]
    assert lines[0][1]["kl"] > 0
    assert len({line["kl_coefficient"] for line in lines[0]}) == 4


def test_numbers_of_the_objective_in_one_vmapped_program(tiny, warm, tmp_path):
    """Two runs that differ in three numbers, together and one after the other."""
    tiny.learner.loss = {"name": "cispo", "kwargs": {"high": 0.2}}
    tiny.learner.epochs, tiny.warm_start.workdir = 2, warm
    runs = {
        name: {
            "learner.loss": {"name": "cispo", "kwargs": {"high": high}},
            "learner.kl.coefficient": kl,
            "learner.entropy.coefficient": entropy,
        }
        for name, high, kl, entropy in (("a", 0.2, 0.5, 0.01), ("b", 0.01, 0.1, 0.1))
    }
    configs = run_configs(tiny, runs, tmp_path).values()
    experiment = build_experiment(next(iter(configs)))
    rl, task = experiment.rl, experiment.task
    params = jax.device_get(warm_start(experiment, warm, Silent()))
    hypers = [learner.hyperparameters(config, experiment.methods) for config in configs]
    alone = [rl.train_steps(rl.init(hyper, params), task, hyper, 2)[1] for hyper in hypers]
    states = jax.tree.map(lambda *x: jnp.stack(x), *(rl.init(hyper, params) for hyper in hypers))
    hyper = jax.tree.map(lambda *x: np.stack(x), *hypers)
    together = rl.train_steps_vmapped(states, task, hyper, 2)[1]
    for metric in ("loss", "gradient_norm", "kl", "kl_coefficient", "entropy"):
        expected = np.stack([metrics[metric] for metrics in alone])
        np.testing.assert_allclose(together[metric], expected, rtol=1e-3, atol=1e-6)
    assert np.all(together["loss"][0] != together["loss"][1])
