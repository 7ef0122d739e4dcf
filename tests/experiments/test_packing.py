"""Packed rows against the padded computation, and their layout read back token by token."""

import functools
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiments import objective, packing, scoring
from experiments.config import ConfigError, default_config
from experiments.experiment import build_experiment
from experiments.gradients import Batch
from experiments.learner import hyperparameters
from experiments.models import transformer
from experiments.models.config import ModelConfig
from experiments.rollout import Rollouts, log_probs_and_entropies
from experiments.step_functions import parameter_shardings
from experiments.validation import validate
from tests.experiments import test_learner, test_objective, test_policy, test_sharding
from tests.experiments.test_learner import case_fixture
from tests.experiments.test_objective import CASES, stale_fixture

__all__ = ["case_fixture", "stale_fixture"]

MODEL = test_learner.MODEL
S, T = 4, 9


def random_batch(lengths, seed=0, prompt=S, completion=T, vocabulary=7) -> Batch:
    """Completions of given lengths [P, G]; every token is random, padding too."""
    rng = np.random.default_rng(seed)
    lengths = np.asarray(lengths)
    shape = (*lengths.shape, completion)
    mask = (np.arange(completion) < lengths[..., None]).astype(np.float32)
    return Batch(
        jnp.asarray(rng.integers(0, vocabulary, (len(lengths), prompt)), jnp.int32),
        jnp.asarray(rng.integers(1, prompt + 1, len(lengths)), jnp.int32),
        jnp.asarray(rng.integers(0, vocabulary, shape), jnp.int32),
        jnp.asarray(mask),
        jnp.asarray(rng.normal(size=shape), jnp.float32),
        jnp.asarray(rng.normal(size=shape), jnp.float32),
        jnp.asarray(rng.normal(size=lengths.shape), jnp.float32),
    )


def lengths_of(prompts, group, longest=T):
    """Hypothesis: lengths [prompts, group], from 0 on."""
    row = st.lists(st.integers(0, longest), min_size=group, max_size=group)
    return st.lists(row, min_size=prompts, max_size=prompts)


# A Case of test_learner, with rollouts whose reward is unknown.
KnownCase = namedtuple("KnownCase", [*test_learner.Case._fields, "known"])


def sizes_of(batch, rows=1, model=MODEL):
    (prompts, prompt), (_, group, completion) = batch.prompts.shape, batch.mask.shape
    sizes = packing.packed_sizes(
        model, 0, prompts=prompts, prompt=prompt, group=group, completion=completion
    )
    return sizes._replace(rows=rows)


@functools.partial(jax.jit, static_argnums=0)
def _pack(sizes, batch, counts):
    packed = packing.pack(sizes, batch, counts)
    most = -(-batch.advantages.size // sizes.rows)
    return packed.used, packed.chunks, jax.vmap(packed.take)(jnp.arange(most)).rows


def pack(sizes, batch, counts=None):
    """Returns (rows used, chunks, the Rows of all chunks [chunk, row]), in NumPy."""
    return jax.device_get(_pack(sizes, batch, counts))


def read_back(batch, rows):
    """Yields (item, prompt, completion) as the rows have them, and checks what a token sees."""
    for r in range(len(rows.tokens)):
        tokens, positions, prompt, completion = (x[r] for x in rows[:4])
        for m, item in enumerate(rows.items[r]):
            if item == batch.advantages.size:
                continue
            of_prompt = np.flatnonzero(
                (completion == 0) & (prompt == item // batch.mask.shape[1] + 1)
            )
            fed = np.flatnonzero(completion == m + 1)
            assert len({*prompt[fed], *prompt[of_prompt]}) == 1
            assert len(fed) == 0 or of_prompt[-1] < fed[0]  # which causality asks for
            assert positions[[*of_prompt, *fed]].tolist() == list(range(len(of_prompt) + len(fed)))
            first = int(rows.first[r, m])
            count = len(fed) + 1
            source = rows.source[r, first : first + count]
            assert source.tolist() == [of_prompt[-1], *fed]
            target = rows.target[r, first : first + count]
            assert target[:-1].tolist() == tokens[fed].tolist()
            yield int(item), tokens[of_prompt].tolist(), target.tolist()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([(5, 1), (3, 4)]).flatmap(lambda shape: lengths_of(*shape)))
def test_pack_holds_every_completion_once(lengths):
    batch = random_batch(lengths)
    sizes = sizes_of(batch)
    _, chunks, rows = pack(sizes, batch)
    found = {}
    for index in range(chunks):
        chunk = jax.tree.map(lambda x, i=index: x[i], rows)
        for item, prompt, completion in read_back(batch, chunk):
            assert item not in found
            found[item] = prompt, completion
        used = np.sum(chunk.prompt > 0, axis=1)
        assert np.all((used > 0) & (used <= sizes.width))
    flat = np.ravel(lengths)
    assert sorted(found) == np.flatnonzero(flat).tolist()
    group = batch.mask.shape[1]
    for item, (prompt, completion) in found.items():
        own = np.asarray(batch.prompts)[item // group, : int(batch.length[item // group])]
        assert prompt == own.tolist()
        tokens = np.asarray(batch.completions).reshape(-1, T)[item, : flat[item]]
        assert completion == tokens.tolist()


def test_pack_by_hand():
    """Width 16: 8 + 4 and 7 + 4 tokens do not fit beside each other, 2 + 4 do beside neither."""
    batch = random_batch([[9], [8], [3], [1]])._replace(length=jnp.full(4, 4, jnp.int32))
    sizes = packing.Sizes(rows=2, width=16, predicted=12, completions=4)
    used, chunks, rows = pack(sizes, batch)
    assert (used, chunks) == (3, 2)
    assert rows.items.tolist() == [[[0, 3, 4, 4], [1, 4, 4, 4]], [[2, 4, 4, 4], [4, 4, 4, 4]]]
    # Two completions of one prompt share it: 4 + 4 + 5 tokens in the one row.
    batch = random_batch([[5, 6]])._replace(length=jnp.full(1, 4, jnp.int32))
    _, _, rows = pack(sizes._replace(rows=1), batch)
    assert rows.items[0].tolist() == [[1, 0, 2, 2]]
    assert rows.completion[0].tolist() == [[0] * 4 + [1] * 5 + [2] * 4 + [0] * 3]


def weighted(log_probs, entropies, batch):
    """A sum whose gradient tells every token, and log-probability from entropy, apart."""
    return jnp.sum(
        batch.mask * (batch.sampler_log_probs * log_probs + batch.old_log_probs * entropies)
    )


@pytest.fixture(scope="module", name="gradients")
def gradients_fixture():
    """batch -> (padded, packed), each (value, gradient)."""
    params = transformer.init_params(MODEL, jax.random.key(0))

    def padded(params, batch):
        found = log_probs_and_entropies(MODEL, params, *batch[:3], temperature=0.7)
        return weighted(*found, batch)

    def packed_loss(params, chunk):
        found = scoring.chunk_log_probs(MODEL, params, chunk, T, temperature=0.7)
        return weighted(*found, chunk.batch)

    @jax.jit
    def both(batch):
        packed = packing.pack(sizes_of(batch, rows=2), batch)

        def add(index, total):
            more = jax.value_and_grad(packed_loss)(params, packed.take(index))
            return jax.tree.map(jnp.add, total, more)

        zeros = 0.0, jax.tree.map(jnp.zeros_like, params)
        by_chunks = jax.lax.fori_loop(0, packed.chunks, add, zeros)
        return jax.value_and_grad(padded)(params, batch), by_chunks

    return both


def assert_same(one, other):
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1, np.abs(a).max()))


@settings(max_examples=25, deadline=None)
@example([[T] * 6] * 2, 0)
@example([[1] * 6, [T] + [1] * 5], 0)
@example([[0] * 6] * 2, 0)
@given(lengths_of(2, 6), st.integers(0, 99))
def test_packed_gradient_equals_padded(gradients, lengths, seed):
    assert_same(*gradients(random_batch(lengths, seed)))


def test_packed_batches_under_vmap(gradients):
    """As in a sweep: the loop over chunks goes on until the last run is done."""
    batches = [random_batch(x) for x in ([[1, 0, 2, 1, 0, 0], [0, 0, 1, 0, 0, 1]], [[9] * 6] * 2)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    together = jax.jit(jax.vmap(lambda batch: gradients(batch)[1]))(stacked)
    for index, batch in enumerate(batches):
        assert_same(gradients(batch)[1], jax.tree.map(lambda x, i=index: x[i], together))


def test_packed_losses_equal_padded():
    """Every loss, reduction and term of the objective, and its gradient in log-probs and entropies.

    Summed over the chunks; the gradient of these in the parameters is tested above.
    """
    batch = random_batch([[9, 1, 4, 0], [3, 5, 5, 2]])
    rng = np.random.default_rng(1)
    batch = batch._replace(
        importance=np.float32(rng.uniform(size=batch.mask.shape)),
        reference_log_probs=np.float32(rng.normal(size=batch.mask.shape)),
    )
    changes = [case for case, _ in CASES.values()]
    changes += [{"reduction": reduction} for reduction in objective.REDUCTIONS]
    configs = [test_objective.changed(change) for change in changes]
    terms = objective.Coefficients(kl=0.7, entropy=0.3)
    found = np.float32(rng.normal(size=(2, *batch.mask.shape)))  # log-probs and entropies

    def losses(batch, found):
        def loss(config):
            traced = objective.traced_arguments(config)
            return objective.batch_loss(config, traced, terms, batch, *found)[0]

        return jnp.stack([loss(config) for config in configs])

    def padded(found, batch):
        return losses(batch, found)

    def by_chunks(found, batch):
        packed = packing.pack(sizes_of(batch), batch)

        def chunk_losses(index):
            chunk = packed.take(index)
            flat = found.reshape(2, -1, T)
            return losses(chunk.batch, flat.at[:, chunk.rows.items].get(mode="fill", fill_value=0))

        # Chunks from `packed.chunks` on hold nothing.
        return jnp.sum(jax.lax.map(chunk_losses, jnp.arange(batch.advantages.size)), axis=0)

    @jax.jit
    def both(found, batch):
        return [(f(found, batch), jax.jacrev(f)(found, batch)) for f in (padded, by_chunks)]

    assert_same(*both(found, batch))


# A batch with a flat group, which takes no rows, in two epochs of two minibatches; and all terms
# that compare with other policies, on a batch in which every group counts.
UPDATES = {
    "minibatches": {
        "loss.name": "sequence_surrogate",
        "loss.kwargs": {"low": 0.05, "high": 0.06},
        "reduction": "sequence_mean",
        "epochs": 2,
        "minibatches": 2,
    },
    "terms": {
        "importance_cap": test_objective.CAP,
        "reduction": "token_mean",
        "kl.coefficient": 0.7,
        "entropy.coefficient": 0.3,
    },
}


@pytest.mark.parametrize("name", UPDATES)
def test_packed_update_equals_padded(stale, name):
    """By the policy update and its metrics, where the rewards of some rollouts are unknown."""
    changes = UPDATES[name]
    reference = transformer.init_params(MODEL, jax.random.key(5))
    known = np.random.default_rng(3).uniform(size=stale.rewards.shape) < 0.8
    case = KnownCase(*stale, known)
    # With one prompt in each microbatch both leave out the same groups.
    parts = test_learner.P // changes.get("minibatches", 1)
    padded, expected = test_objective.step(
        case, test_objective.changed(changes | {"microbatches": parts}), reference
    )
    packed, metrics = test_objective.step(
        case, test_objective.changed(changes | {"packed_tokens": 16}), reference
    )
    assert_same(padded.params, packed.params)
    for metric, value in expected.items():
        np.testing.assert_allclose(metrics[metric], value, rtol=1e-4, atol=1e-6, err_msg=metric)


def test_packed_update_of_adapters():
    params = transformer.init_params(test_policy.MODEL, jax.random.key(0))
    adapters = test_policy.random_adapters(params, test_policy.RANK)
    after = []
    for change in ({"packed_tokens": 64}, {"microbatches": 2}):
        config = default_config()
        config.lora.rank, config.lora.alpha = test_policy.RANK, test_policy.ALPHA
        config.learner.update(change)
        start = jax.tree.map(jnp.asarray, adapters)
        after.append(test_policy.update(config, params, start)[1].params)
    assert_same(*after)


def test_groups_without_a_gradient_take_no_rows():
    batch = random_batch([[9, 9], [5, 1], [9, 9], [3, 2]])
    counts = jnp.array([False, True, False, True])
    used, chunks, rows = pack(sizes_of(batch), batch, counts)
    assert used == pack(sizes_of(batch), random_batch([[0, 0], [5, 1], [0, 0], [3, 2]]))[0]
    items = np.ravel(rows.items[:chunks])
    assert sorted(items[items < 8]) == [2, 3, 6, 7]


SHAPES = {
    "tiny": ModelConfig(
        vocab_size=64, num_layers=4, d_model=128, num_heads=4, num_kv_heads=4, head_dim=32,
        d_ff=512, tied_head=True,
    ),
    "smollm2": ModelConfig(
        vocab_size=49152, num_layers=30, d_model=576, num_heads=9, num_kv_heads=3, head_dim=64,
        d_ff=1536, tied_head=True,
    ),
}  # fmt: skip


def products(model, tokens, scores, predicted):
    """Multiplications of a forward pass."""
    heads = (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    token = model.d_model * (heads + 3 * model.d_ff)
    score = 2 * model.num_heads * model.head_dim
    head = model.d_model * model.vocab_size
    return model.num_layers * (token * tokens + score * scores) + head * predicted


def packed_to_real(model, lengths, rows):
    """Products of the packed rows of completions behind prompts of 32, by those of real tokens."""
    prompt, longest = 32, 256
    batch = random_batch(lengths[:, None], prompt=prompt, completion=longest)
    batch = batch._replace(length=jnp.full(len(lengths), prompt, jnp.int32))
    sizes = sizes_of(batch, rows, model)
    computed = int(pack(sizes, batch)[1]) * rows
    tile = -(-sizes.width // transformer.TILES)
    tiles = [(s, min(s + tile, sizes.width)) for s in range(0, sizes.width, tile)]
    scores = sum((end - start) * end for start, end in tiles)
    done = products(model, computed * sizes.width, computed * scores, computed * sizes.predicted)
    fed = lengths - 1
    scores = np.sum(prompt**2 + fed * (prompt + fed))
    return done / products(model, np.sum(prompt + fed), scores, np.sum(lengths))


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_products_are_those_of_real_tokens_and_15_percent(shape):
    """Completions of a geometric law with a mean of 64, up to 256; padding has 2.8 times as many."""
    model = SHAPES[shape]
    drawn = [np.random.default_rng(seed).geometric(1 / 64, 32) for seed in range(6)]
    lengths = np.minimum(drawn, 256)
    assert packed_to_real(model, lengths[0], rows=2) <= 1.15  # of the benchmark
    assert np.mean([packed_to_real(model, row, rows=1) for row in lengths]) <= 1.15
    assert packed_to_real(model, lengths.ravel(), rows=2) <= 1.12


def test_wider_rows_for_groups_with_long_prompts():
    def width(prompt, group, packed_tokens=4096):
        model = SHAPES["smollm2"]
        return packing.packed_sizes(
            model, packed_tokens, prompts=32, prompt=prompt, group=group, completion=256
        )

    assert width(32, 1) == packing.Sizes(14, 288, 256, 16)
    assert width(256, 1).width == 512
    assert width(256, 16).width > 2 * 512
    assert width(256, 16, packed_tokens=600).width == 512
    assert width(32, 1, packed_tokens=2**31 - 1).rows == 32  # as many as there are completions


def outcome_of_update(mesh, packed_tokens):
    """(gradient, metrics) of a step of SGD on random rollouts and rewards."""
    config = test_sharding.divisible_config()
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.1
    config.mesh.update(mesh)
    config.learner.packed_tokens = packed_tokens
    config.learner.kl.measured = True
    experiment = build_experiment(config)
    params = jax.device_get(transformer.init_params(experiment.model, jax.random.key(0)))
    shardings = parameter_shardings(experiment.model, experiment.mesh)
    hyper = hyperparameters(config, experiment.methods)
    state = experiment.rl.init(hyper, jax.device_put(params, shardings))
    prompts = experiment.task.train_prompts(0, 0, config.prompts)._replace(verifier_inputs=())
    rng = np.random.default_rng(0)
    shape = config.prompts, config.group_size, experiment.task.max_completion
    mask = np.float32(np.arange(shape[2]) < rng.integers(1, shape[2] + 1, shape[:2])[..., None])
    log_probs = np.float32(rng.uniform(-4, -2, shape)) * mask
    tokens = rng.integers(0, experiment.model.vocab_size, shape, np.int32)
    rewards = rng.integers(0, 2, shape[:2]).astype(np.float32)
    rollouts = Rollouts(tokens, mask, log_probs, mask)
    state, metrics = experiment.rl.update(state, hyper, prompts, rollouts, rewards)
    moved = jax.tree.map(lambda a, b: (np.asarray(a) - b) / 0.1, state.params, params)
    return moved, jax.device_get(metrics)


@pytest.fixture(scope="module", name="on_one_device")
def on_one_device_fixture():
    moved, metrics = outcome_of_update({"data": 1}, 0)
    assert metrics["gradient_norm"] > 0
    return moved, metrics


@pytest.mark.parametrize("mesh", [{"data": 4, "fsdp": 2}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_packed_rows_over_eight_devices(on_one_device, mesh):
    (moved, metrics), (packed_moved, packed_metrics) = on_one_device, outcome_of_update(mesh, 256)
    for a, b in zip(*map(jax.tree.leaves, (moved, packed_moved)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name in ("loss", "gradient_norm", "kl"):
        np.testing.assert_allclose(metrics[name], packed_metrics[name], rtol=2e-4, atol=1e-5)


def test_packed_tokens_take_the_place_of_microbatches():
    config = test_sharding.divisible_config()
    config.learner.packed_tokens, config.learner.microbatches = 4096, 2
    with pytest.raises(ConfigError, match=r"microbatches must be 1 with .*packed_tokens = 4096"):
        validate(config)
    config.learner.packed_tokens = -1
    with pytest.raises(ConfigError, match=r"packed_tokens must be a whole number >= 0, got -1"):
        validate(config)
