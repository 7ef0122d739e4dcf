"""The fused head against float64, in every type, chunking and sharding."""

from functools import cache

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fade_jax.entropies import log_prob_and_entropy, token_entropy

TOKENS, WIDTH, VOCABULARY = 12, 16, 96
rng = np.random.default_rng(0)
HIDDEN = rng.normal(size=(TOKENS, WIDTH))
UNEMBEDDING = rng.normal(size=(VOCABULARY, WIDTH))
TARGETS = rng.integers(0, VOCABULARY, TOKENS)
BY_LOG_PROB, BY_ENTROPY = rng.normal(size=(2, TOKENS))


def reference(hidden, unembedding, targets, temperature=1.0):
    """Values, and the gradients of their sum weighted by BY_LOG_PROB and BY_ENTROPY."""
    z = hidden @ unembedding.T / temperature
    z = z - z.max(-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    p = np.exp(log_p)
    entropy = -(p * log_p).sum(-1)
    one_hot = np.eye(len(unembedding))[targets]
    by_z = BY_LOG_PROB[:, None] * (one_hot - p)
    by_z -= BY_ENTROPY[:, None] * p * (log_p + entropy[:, None])
    by_hidden = by_z @ unembedding / temperature
    return (
        (log_p * one_hot).sum(-1),
        entropy,
        by_hidden,
        by_z.T @ hidden / temperature,
        -(by_hidden * hidden).sum() / temperature,
    )


@cache
def compiled(**keywords):
    """Returns the jitted function of `evaluate`."""

    def weighted(hidden, unembedding, temperature, targets):
        log_prob, entropy = log_prob_and_entropy(
            hidden, unembedding, targets, temperature=temperature, **keywords
        )
        total = jnp.sum(BY_LOG_PROB * log_prob + BY_ENTROPY * entropy)
        return total, (log_prob, entropy)

    return jax.jit(jax.grad(weighted, (0, 1, 2), has_aux=True))


def evaluate(hidden, unembedding, targets, temperature=1.0, **keywords):
    gradients, values = compiled(**keywords)(hidden, unembedding, jnp.float32(temperature), targets)
    return (*values, *gradients)


def assert_all_close(results, expected, rtol, atol):
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(np.asarray(result, np.float64), wanted, rtol, atol)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(
    "sizes",
    [
        {"chunk": 96},
        {"chunk": 1000},
        {"chunk": 32},
        {"chunk": 7},
        {"chunk": 1},
        {"chunk": 7, "shards": 4},
    ],
    ids=str,
)
def test_head_values_and_gradients(sizes, temperature):
    hidden, unembedding = jnp.float32(HIDDEN), jnp.float32(UNEMBEDDING)
    results = evaluate(hidden, unembedding, TARGETS, temperature, **sizes)
    expected = reference(HIDDEN, UNEMBEDDING, TARGETS, temperature)
    assert_all_close(results, expected, rtol=1e-4, atol=2e-5)


def test_head_bfloat16():
    hidden, unembedding = jnp.bfloat16(HIDDEN), jnp.bfloat16(UNEMBEDDING)
    rounded = np.asarray(hidden, np.float64), np.asarray(unembedding, np.float64)
    results = evaluate(hidden, unembedding, TARGETS, chunk=20)
    expected = reference(*rounded, TARGETS)
    assert [r.dtype for r in results[:4]] == [jnp.float32] * 2 + [jnp.bfloat16] * 2
    assert_all_close(results[:2], expected[:2], rtol=1e-5, atol=1e-5)
    for result, wanted in zip(results[2:4], expected[2:4]):
        error = np.abs(np.asarray(result, np.float64) - wanted)
        assert error.max() < 0.01 * np.abs(wanted).max()


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_head_flat_and_peaked(scale):
    hidden = jnp.float32(HIDDEN * scale)
    unembedding = jnp.float32(UNEMBEDDING)
    log_prob, entropy, *_ = evaluate(hidden, unembedding, TARGETS, chunk=32)
    expected = reference(np.asarray(hidden, np.float64), UNEMBEDDING, TARGETS)
    np.testing.assert_allclose(log_prob, expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(entropy, expected[1], rtol=1e-4, atol=1e-6)
    assert np.all(np.asarray(entropy) >= 0)


def test_head_equals_plain_functions():
    hidden = jnp.float32(HIDDEN.reshape(3, 4, WIDTH))
    targets = TARGETS.reshape(3, 4)
    logits = hidden @ jnp.float32(UNEMBEDDING).T
    log_prob, entropy = log_prob_and_entropy(hidden, jnp.float32(UNEMBEDDING), targets)
    plain = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(log_prob, plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(entropy, token_entropy(logits), rtol=1e-5, atol=1e-6)


def test_head_vmap():
    hidden = jnp.float32(HIDDEN.reshape(3, 4, WIDTH))
    targets = jnp.asarray(TARGETS.reshape(3, 4))

    def fn(h, t):
        return log_prob_and_entropy(h, jnp.float32(UNEMBEDDING), t, chunk=20)

    mapped = jax.jit(jax.vmap(fn))(hidden, targets)
    looped = [np.stack(x) for x in zip(*map(jax.jit(fn), hidden, targets))]
    np.testing.assert_allclose(mapped, looped, rtol=1e-5, atol=1e-6)


def test_head_targets_out_of_range():
    targets = np.where(np.arange(TOKENS) % 2, TARGETS, -100)
    results = evaluate(jnp.float32(HIDDEN), jnp.float32(UNEMBEDDING), targets, chunk=20)
    for result in results:
        assert np.all(np.isfinite(result))


def largest_array(jaxpr):
    """Elements of the largest array that a program holds, its loops included."""
    largest = 0
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            largest = max(largest, int(np.prod(variable.aval.shape)))
        for inner in jax.tree.leaves(list(equation.params.values())):
            if isinstance(inner, jax.extend.core.ClosedJaxpr):
                inner = inner.jaxpr
            if isinstance(inner, jax.extend.core.Jaxpr):
                largest = max(largest, largest_array(inner))
    return largest


def test_head_never_holds_all_logits():
    tokens, width, vocabulary, chunk = 512, 8, 4096, 128

    def loss(hidden, unembedding, targets):
        log_prob, entropy = log_prob_and_entropy(hidden, unembedding, targets, chunk=chunk)
        return jnp.sum(log_prob + entropy)

    arguments = (
        jax.ShapeDtypeStruct((tokens, width), jnp.float32),
        jax.ShapeDtypeStruct((vocabulary, width), jnp.float32),
        jax.ShapeDtypeStruct((tokens,), jnp.int32),
    )
    gradient = jax.jit(jax.grad(loss, (0, 1)))
    traced = gradient.trace(*arguments)
    assert largest_array(traced.jaxpr.jaxpr) == tokens * chunk
    memory = traced.lower().compile().memory_analysis()
    assert memory.temp_size_in_bytes < tokens * vocabulary * 4 / 4


@pytest.mark.parametrize("axes", [("data", None), (None, "model"), ("data", "model")], ids=str)
def test_head_sharded(axes):
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("data", "model"))
    by_token, by_row = axes

    def put(array, *axes):
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))

    hidden = put(jnp.float32(HIDDEN), by_token)
    unembedding = put(jnp.float32(UNEMBEDDING), by_row)
    targets = put(jnp.asarray(TARGETS), by_token)
    results = evaluate(hidden, unembedding, targets, 0.8, chunk=10, shards=4 if by_row else 1)
    assert_all_close(results, reference(HIDDEN, UNEMBEDDING, TARGETS, 0.8), 1e-4, 2e-5)


def test_head_sharded_gathers_no_vocabulary():
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("data", "model"))

    def loss(hidden, unembedding, targets):
        log_prob, entropy = log_prob_and_entropy(hidden, unembedding, targets, chunk=64, shards=4)
        return jnp.sum(log_prob + entropy)

    def struct(shape, dtype, *axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    rows = struct((4096, 32), jnp.float32, "model")
    states = struct((64, 32), jnp.float32, "data")
    compiled = (
        jax.jit(jax.grad(loss, (0, 1)), out_shardings=(states.sharding, rows.sharding))
        .lower(states, rows, struct((64,), jnp.int32, "data"))
        .compile()
    )
    text = compiled.as_text()
    assert "all-reduce" in text
    # Two copies of one shard's rows and their gradient, and not four shards of either.
    assert compiled.memory_analysis().temp_size_in_bytes < 4096 * 32 * 4
    for line in text.splitlines():
        if " all-gather(" in line:
            assert "4096" not in line.split(" all-gather(")[0], line


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"unembedding": UNEMBEDDING.T}, "unembedding"),
        ({"targets": TARGETS[:-1]}, "targets"),
        ({"temperature": 0.0}, "temperature must be .* above 0, got 0.0"),
        ({"chunk": 0}, "chunk must be .* at least 1, got 0"),
        ({"shards": 5}, "shards must divide the vocabulary of 96, got 5"),
    ],
)
def test_head_bad_input(change, word):
    arguments = {"hidden": HIDDEN, "unembedding": UNEMBEDDING, "targets": TARGETS} | change
    with pytest.raises(ValueError, match=word):
        log_prob_and_entropy(**arguments)


@pytest.mark.parametrize("vmapped", [False, True])
def test_gradient_of_the_unembedding_is_computed_only_where_asked_for(vmapped):
    def weighted(hidden, unembedding):
        log_prob, entropy = log_prob_and_entropy(hidden, unembedding, TARGETS, chunk=40)
        return jnp.sum(BY_LOG_PROB * log_prob + BY_ENTROPY * entropy)

    inputs = jnp.float32(HIDDEN), jnp.float32(UNEMBEDDING)
    alone, both = jax.grad(weighted), jax.grad(weighted, (0, 1))
    if vmapped:
        alone, both = jax.vmap(alone), jax.vmap(both)
        inputs = tuple(x[None] for x in inputs)
    np.testing.assert_array_equal(jax.jit(alone)(*inputs), jax.jit(both)(*inputs)[0])
    written = "scatter" if vmapped else "dynamic_update_slice"  # of the rows of a chunk
    assert written in str(jax.make_jaxpr(both)(*inputs))
    assert written not in str(jax.make_jaxpr(alone)(*inputs))
    by_log_prob = jax.grad(lambda h: log_prob_and_entropy(h, UNEMBEDDING, TARGETS)[0].sum())
    one_hot = np.eye(VOCABULARY)[TARGETS]
    z = HIDDEN @ UNEMBEDDING.T
    p = np.exp(z - z.max(-1, keepdims=True))
    expected = (one_hot - p / p.sum(-1, keepdims=True)) @ UNEMBEDDING
    np.testing.assert_allclose(by_log_prob(jnp.float32(HIDDEN)), expected, rtol=1e-4, atol=1e-4)
