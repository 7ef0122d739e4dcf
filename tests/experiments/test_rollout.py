"""Sampling against the forward pass, and its distribution against the softmax."""

import functools
import unittest.mock
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import rollout
from experiments.models import transformer
from experiments.models.config import ModelConfig
from experiments.rollout import completion_log_probs, sample, truncate

EOS, PAD = 5, 6
MODEL = ModelConfig(
    vocab_size=7,
    num_layers=2,
    d_model=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    d_ff=32,
    tied_head=False,
    max_positions=32,
)


@pytest.fixture(scope="module", name="params")
def params_fixture():
    params = transformer.init_params(MODEL, jax.random.key(0))
    return params | {"head": params["head"] * 2.0}  # far from uniform, and not certain


@pytest.fixture(scope="module", name="prompts")
def prompts_fixture():
    tokens = jnp.array([[1, 2, 3, 4], [4, 3, PAD, PAD], [2, PAD, PAD, PAD]], jnp.int32)
    return tokens, jnp.array([4, 2, 1], jnp.int32)


@functools.cache
def sampler(**kwargs):
    settings = {"group_size": 64, "max_tokens": 6, "eos_id": EOS, "pad_id": PAD} | kwargs
    return jax.jit(partial(sample, MODEL, **settings))


def draw(params, prompts, seed=0, **kwargs):
    return jax.device_get(sampler(**kwargs)(params, *prompts, jax.random.key(seed)))


score = jax.jit(partial(completion_log_probs, MODEL))


@pytest.fixture(scope="module", name="weights")
def weights_fixture(params, prompts):
    """Softmax of the first token of each prompt, float32 [3, 7]."""

    def softmax(params, tokens, length):
        _, last = transformer.prefill(MODEL, params, tokens, length)
        return jax.nn.softmax(last @ transformer.unembedding(MODEL, params).T)

    return jax.device_get(jax.jit(softmax)(params, *prompts))


def test_sample_log_probs_equal_forward(params, prompts):
    """Also at a temperature: the policy of the head divided by it."""
    for temperature in (1.0, 0.5):
        rollouts = draw(params, prompts, temperature=temperature)
        tempered = params | {"head": params["head"] / temperature}
        full = score(tempered, *prompts, rollouts.tokens) * rollouts.token_mask
        np.testing.assert_allclose(rollouts.log_probs, full, rtol=1e-4, atol=1e-5)


def test_sample_entropies_match_float64(params, prompts):
    rollouts = draw(params, prompts)
    forward = jax.jit(partial(transformer.forward, MODEL))
    last, hidden = forward(params, *prompts, rollouts.tokens[..., :-1])
    hidden = np.concatenate([np.broadcast_to(last[:, None, None], (3, 64, 1, 16)), hidden], axis=2)
    logits = (
        hidden.astype(np.float64) @ np.asarray(transformer.unembedding(MODEL, params), np.float64).T
    )
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    expected = -np.sum(p * np.log(p), axis=-1) * np.asarray(rollouts.token_mask)
    np.testing.assert_allclose(rollouts.entropies, expected, atol=2e-5)


def test_sample_mask_ends_at_eos(params, prompts):
    rollouts = draw(params, prompts)
    ended = 0
    for tokens, mask in zip(rollouts.tokens.reshape(-1, 6), rollouts.token_mask.reshape(-1, 6)):
        ends = np.flatnonzero(tokens == EOS)
        length = ends[0] + 1 if len(ends) else 6
        assert mask.tolist() == [1.0] * length + [0.0] * (6 - length)
        assert np.all(tokens[length:] == PAD)
        ended += len(ends) > 0
    assert 0 < ended < rollouts.tokens.shape[0] * rollouts.tokens.shape[1]


def test_sample_frequencies_equal_softmax(params, prompts, weights):
    count, expected = 4096, weights
    rollouts = draw(params, prompts, group_size=count, max_tokens=1)
    observed = np.mean(rollouts.tokens == np.arange(7), axis=1)
    # Five standard errors of 21 frequencies: a false alarm has probability below 2e-5.
    bound = 5 * np.sqrt(expected * (1 - expected) / count) + 1e-6
    assert np.all(np.abs(observed - expected) < bound)


def test_sample_depends_on_the_key(params, prompts):
    first, again, other = (draw(params, prompts, seed=s) for s in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    assert np.any(first.tokens != other.tokens)


def test_truncate_keeps_top_k():
    logits = np.log(np.float32([0.1, 0.4, 0.2, 0.3]))
    assert np.isfinite(truncate(logits, top_k=2)).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.3, [1]),
        (0.4, [1]),
        (0.41, [1, 3]),
        (0.7, [1, 3]),
        (0.75, [1, 2, 3]),
        (0.95, [0, 1, 2, 3]),
    ],
)
def test_truncate_keeps_the_smallest_nucleus(top_p, kept):
    # The cumulative sums 0.4, 0.7, 0.9 and 1 are exact enough in float32.
    logits = np.log(np.float32([0.1, 0.4001, 0.2, 0.2999]))
    finite = np.flatnonzero(np.isfinite(truncate(logits, top_p=top_p))).tolist()
    assert finite == kept


def test_sample_never_draws_truncated_tokens(params, prompts, weights):
    rollouts = draw(params, prompts, group_size=512, max_tokens=1, top_k=1)
    assert np.all(rollouts.tokens[..., 0] == weights.argmax(axis=-1)[:, None])


def gather(table, drawn):
    """Gathers from a table [..., vocab] at indices [draws, ...]."""
    return np.take_along_axis(table[None], np.asarray(drawn)[..., None], axis=-1)[..., 0]


@jax.jit
def _draw_and_uniforms(keys, logits):
    """`rollout.draw` by each key, and the numbers that it is expected to use."""
    number = jax.vmap(lambda key: jax.random.uniform(key, logits.shape[:-1]))(keys)
    return jax.vmap(lambda key: rollout.draw(key, logits))(keys), number


@pytest.mark.parametrize("shape", [(7,), (3, 4, 7), (2, 1000), (2, 49152)])
def test_draw_matches_float64_cdf(shape):
    logits = 3 * np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    logits = np.where(logits < -2, -np.inf, logits)  # as top-p and top-k leave them
    keys = jax.random.split(jax.random.key(2), 50)
    drawn, number = jax.device_get(_draw_and_uniforms(keys, logits))
    assert drawn.dtype == np.int32
    weights = np.exp(np.float64(logits))
    assert np.all(gather(weights, drawn) > 0)
    cumulative = np.cumsum(weights, axis=-1) / weights.sum(axis=-1, keepdims=True)
    number = np.float64(number)
    below = np.pad(cumulative, [(0, 0)] * (len(shape) - 1) + [(1, 0)])
    low, high = gather(below, drawn), gather(below, drawn + 1)
    assert np.all(low <= number + 1e-6)
    assert np.all(number <= high + 1e-6)
    assert np.mean((low <= number) & (number < high)) > 0.9


def float64_weights(logits, top_k, top_p):
    """exp(logit - max) in float64; 0 outside the top-k, then outside the nucleus, of numpy's sort."""
    weights = np.exp(np.float64(logits) - logits.max())
    descending = np.sort(weights)[::-1]
    if top_k:
        weights[weights < descending[top_k - 1]] = 0
        descending[top_k:] = 0
    before = np.cumsum(descending) - descending
    # Float32 sums may put one more token into the nucleus than exact ones.
    smallest = descending[before <= (top_p + 1e-6) * descending.sum()].min() if top_p < 1 else 0
    return np.where(weights < smallest, 0, weights)


@partial(jax.jit, static_argnums=(2, 3))
def _draws(key, kept, batches, batch):
    # kept is an argument: XLA is slow to fold constants of this size.
    def draw_batch(keys):
        return jax.vmap(lambda k: rollout.draw(k, kept))(keys)

    return jax.lax.map(draw_batch, jax.random.split(key, (batches, batch)))


def count_draws(logits, count, *, top_k, top_p, seed=0, batch=4096):
    """How often each token is drawn in `count` draws (rounded up to batches), int64 [vocab]."""
    kept = jax.jit(partial(truncate, top_k=top_k, top_p=top_p))(logits)
    drawn = _draws(jax.random.key(seed), kept, -(-count // batch), batch)
    return np.bincount(np.ravel(drawn), minlength=logits.size)


SAMPLERS = [  # (vocabulary, top_k, top_p, draws); sums of 1187 = 151936 / 128 were seen to decrease
    (300, 40, 1.0, 200_000),
    (300, 0, 0.9, 200_000),
    (1187, 200, 1.0, 20_000),
    (1187, 500, 0.95, 20_000),
    (49152, 0, 0.9, 50_000),
    (151936, 200, 0.9, 20_000),
]


def check_draws(vocabulary, top_k, top_p, count, seed=0):
    """Compares draws from a truncated distribution with float64; returns their number."""
    normal = np.random.default_rng([seed, vocabulary]).standard_normal(vocabulary)
    logits = np.float32((2 if vocabulary < 10_000 else 4) * normal)
    weights = float64_weights(logits, top_k, top_p)
    assert np.count_nonzero(weights) < vocabulary
    counts = count_draws(logits, count, top_k=top_k, top_p=top_p, seed=seed)
    assert np.all(weights[counts > 0] > 0)
    total, probs = counts.sum(), weights / weights.sum()
    # Six standard errors: a false alarm at one of 152,000 tokens has probability below 1e-3.
    error = 6 * np.sqrt(total * probs) + 2e-6 * total + 6
    assert np.all(np.abs(counts - total * probs) < error)
    return total


@pytest.mark.parametrize(("vocabulary", "top_k", "top_p", "count"), SAMPLERS)
def test_draw_stays_inside_top_k_and_top_p(vocabulary, top_k, top_p, count):
    check_draws(vocabulary, top_k, top_p, count)


def test_draw_stays_inside_where_sums_decrease(monkeypatch):
    """Cumulative sums with errors of several roundings, up and down, at every index."""
    cumsum, noise = jnp.cumsum, np.random.default_rng(0).uniform(-1e-4, 1e-4, 1187)

    def rounded(x, axis):
        return cumsum(x, axis=axis) * (1 + noise[: x.shape[axis]].astype(np.float32))

    monkeypatch.setattr(jnp, "cumsum", rounded)
    logits = np.random.default_rng(1).standard_normal(1187).astype(np.float32)
    counts = count_draws(logits, 20_000, top_k=200, top_p=1.0, batch=1000)  # traced anew
    assert np.all(float64_weights(logits, 200, 1.0)[counts > 0] > 0)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_truncate_drops_padding_rows(top_p):
    logits = np.random.default_rng(2).standard_normal((5, 12)).astype(np.float32)
    logits[:, 9:] += 5  # padding rows hold anything
    kept = truncate(logits, top_p=top_p, top_k=4, vocab_size=9)
    np.testing.assert_array_equal(kept[:, 9:], -np.inf)
    np.testing.assert_array_equal(kept[:, :9], truncate(logits[:, :9], top_p=top_p, top_k=4))


def test_sample_never_draws_padding_and_keeps_the_ratio_at_one(params, prompts):
    """The log-probabilities are over all rows in the draw and in the update."""
    rollouts = draw(params, prompts, vocab_size=4, eos_id=3)
    assert rollouts.tokens[rollouts.token_mask > 0].max() == 3
    full = score(params, *prompts, rollouts.tokens) * rollouts.token_mask
    np.testing.assert_allclose(rollouts.log_probs, full, rtol=1e-4, atol=1e-5)


def test_sample_ends_with_each_end_token(params, prompts):
    rollouts = draw(params, prompts, eos_id=(EOS, 2))
    tokens, mask = rollouts.tokens.reshape(-1, 6), rollouts.token_mask.reshape(-1, 6)
    last = tokens[np.arange(len(tokens)), mask.sum(axis=1).astype(int) - 1]
    assert {2, EOS} <= set(last.tolist())
    ends = (tokens == 2) | (tokens == EOS)
    length = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, 6)
    np.testing.assert_array_equal(mask.sum(axis=1), length)


def test_draw_never_returns_zero_probability():
    """Uniforms 0 and just below 1, with zero mass in the first block and at the ends."""
    logits = np.full(1024, -np.inf, np.float32)
    logits[[5, 130, 700]] = 0.0
    for number, expected in ((0.0, 5), (np.nextafter(np.float32(1), np.float32(0)), 700)):
        with unittest.mock.patch(
            "jax.random.uniform", lambda key, shape, n=number: jnp.full(shape, n)
        ):
            assert rollout.draw(jax.random.key(0), logits) == expected
