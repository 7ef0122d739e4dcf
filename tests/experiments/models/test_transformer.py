"""The transformer against a float64 reference; sharing, padding and caching change nothing."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments.models import decode, layers, transformer
from experiments.models.config import ModelConfig, RopeScaling
from tests.experiments.models import numpy_transformer
from tests.experiments.models.common import random_params

BASE = ModelConfig(
    vocab_size=32,
    num_layers=3,
    d_model=12,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    d_ff=20,
    max_positions=32,
)
LLAMA3 = {"rope_theta": 30.0, "rope_scaling": RopeScaling("llama3", 4.0, 1.0, 3.0, 12)}
YARN = RopeScaling("yarn", 4.0, original_max_positions=9, beta_fast=2.0, beta_slow=0.1)
SWITCHES = {
    "grouped_queries": {},
    "one_key_head_untied_remat_llama3": {
        "num_kv_heads": 1, "tied_head": False, "remat": True, **LLAMA3,
    },
    "plain_heads_qkv_bias_products_kept_linear": {
        "num_kv_heads": 4, "qkv_bias": True, "remat": True, "remat_keeps": "products",
        "rope_scaling": RopeScaling("linear", 3.0),
    },
    "wide_heads_qk_norm_yarn": {
        "head_dim": 10, "qk_norm": True, "norm_eps": 1e-2, "rope_theta": 30.0, "rope_scaling": YARN,
    },
}  # fmt: skip
EVERYTHING = {
    "num_kv_heads": 1,
    "tied_head": False,
    "qkv_bias": True,
    "qk_norm": True,
    "remat": True,
    **LLAMA3,
}
PROMPTS, GROUP, PROMPT_TOKENS, TOKENS = 4, 2, 7, 5
WEIGHTS = np.random.default_rng(7).normal(size=(PROMPTS, GROUP, TOKENS)).astype(np.float32)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, BASE.vocab_size, (PROMPTS, PROMPT_TOKENS)).astype(np.int32)
    completions = rng.integers(0, BASE.vocab_size, (PROMPTS, GROUP, TOKENS)).astype(np.int32)
    return tokens, np.array([7, 1, 4, 2], np.int32), completions


full = jax.jit(transformer.forward, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def cached(config, params, tokens, length, completions):
    prompt_cache, _ = transformer.prefill(config, params, tokens, length)
    prompts, group, steps = completions.shape
    context = decode.make_decode_context(config, params, prompt_cache, steps)

    def step(cache, inputs):
        drawn, index = inputs
        hidden, cache = decode.decode(config, context, cache, drawn, index)
        return cache, hidden

    cache = decode.empty_cache(config, prompts, group, steps)
    inputs = jnp.moveaxis(completions, 2, 0), jnp.arange(steps)
    return jnp.moveaxis(jax.lax.scan(step, cache, inputs)[1], 0, 2)


@functools.partial(jax.jit, static_argnums=0)
def gradient(config, params, tokens, length, completions):
    """Of Σ WEIGHTS log π(completions) + Σ (hidden states at the ends of the prompts)."""

    def objective(params):
        last, hidden = full(config, params, tokens, length, completions)
        head = transformer.unembedding(config, params)
        before = jnp.broadcast_to(last[:, None, None], (PROMPTS, GROUP, 1, config.d_model))
        logits = jnp.concatenate([before, hidden[:, :, :-1]], axis=2) @ head.T
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
        chosen = jnp.take_along_axis(log_probs, completions[..., None], axis=-1)[..., 0]
        return jnp.sum(WEIGHTS * chosen) + jnp.sum(last.astype(jnp.float32))

    return jax.grad(objective)(params)


@pytest.fixture(scope="module", params=SWITCHES)
def model(request):
    config = dataclasses.replace(BASE, **SWITCHES[request.param])
    return config, random_params(config)


def test_forward_matches_float64(model):
    config, params = model
    tokens, length, completions = batch()
    last, hidden = full(config, params, tokens, length, completions)
    head = transformer.unembedding(config, params)
    for p in range(PROMPTS):
        prompt = tokens[p, : length[p]]
        for g in range(GROUP):
            sequence = np.concatenate([prompt, completions[p, g]])
            expected = numpy_transformer.logits(config, params, sequence)[length[p] - 1 :]
            found = jnp.concatenate([last[p][None], hidden[p, g]]) @ head.T
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_decode_equals_forward(model):
    config, params = model
    inputs = batch(1)
    head = transformer.unembedding(config, params)
    full_pass = jax.nn.log_softmax(full(config, params, *inputs)[1] @ head.T)
    by_token = jax.nn.log_softmax(cached(config, params, *inputs) @ head.T)
    np.testing.assert_allclose(by_token, full_pass, rtol=0, atol=2e-5)
    # With one completion of each prompt the cache has no group axis.
    if config != BASE:
        return
    tokens, length, completions = inputs
    alone = jax.nn.log_softmax(cached(config, params, tokens, length, completions[:, 1:]) @ head.T)
    np.testing.assert_allclose(alone, full_pass[:, 1:], rtol=0, atol=2e-5)


@pytest.mark.parametrize("switches", [{}, EVERYTHING], ids=["none", "all"])
def test_forward_gradient_matches_finite_differences(switches):
    config = dataclasses.replace(BASE, **switches)
    params = random_params(config)
    tokens, length, completions = batch()

    def objective(params):
        total = 0.0
        for p in range(PROMPTS):
            prompt = tokens[p, : length[p]]
            for g in range(GROUP):
                sequence = np.concatenate([prompt, completions[p, g]])
                table = numpy_transformer.logits(config, params, sequence)[length[p] - 1 : -1]
                table = table - np.log(np.exp(table).sum(-1, keepdims=True))
                total += WEIGHTS[p, g] @ table[np.arange(TOKENS), completions[p, g]]
            total += numpy_transformer.hidden_states(config, params, prompt)[-1].sum()
        return total

    found = gradient(config, params, tokens, length, completions)
    rng = np.random.default_rng(3)
    leaves, tree = jax.tree.flatten(jax.tree.map(np.float64, params))
    # A direction for each array, so that a wrong gradient cannot hide behind the others.
    for i, part in enumerate(jax.tree.leaves(found)):
        direction = rng.normal(size=part.shape)

        def along(step, i=i, direction=direction):
            moved = [x + step * direction if i == j else x for j, x in enumerate(leaves)]
            return objective(jax.tree.unflatten(tree, moved))

        expected = (along(1e-5) - along(-1e-5)) / 2e-5
        scale = np.linalg.norm(part) * np.linalg.norm(direction)
        assert abs(np.sum(np.float64(part) * direction) - expected) < 1e-4 * scale


def test_forward_ignores_padding():
    params = random_params(BASE)
    tokens, length, completions = batch()
    last, hidden = full(BASE, params, tokens, length, completions)
    scrambled = np.where(np.arange(PROMPT_TOKENS) < length[:, None], tokens, 31 - tokens)
    again = full(BASE, params, scrambled, length, completions)
    np.testing.assert_array_equal(again[0], last)
    np.testing.assert_array_equal(again[1], hidden)
    one = slice(2, 3)
    bare = full(BASE, params, tokens[one, : length[2]], length[one], completions[one])
    # Sums run over fewer zeros, in another order.
    np.testing.assert_allclose(bare[0], last[one], rtol=0, atol=1e-5)
    np.testing.assert_allclose(bare[1], hidden[one], rtol=0, atol=1e-5)


def test_forward_gradient_of_padding_is_zero():
    tokens, length, completions = batch()
    unused = BASE.vocab_size - 1
    real = np.arange(PROMPT_TOKENS) < length[:, None]
    tokens = np.where(real, tokens % unused, unused)
    completions = completions % unused
    # The head would give every row of a tied embedding a gradient.
    config = dataclasses.replace(BASE, **EVERYTHING)
    found = gradient(config, random_params(config), tokens, length, completions)["embedding"]
    np.testing.assert_array_equal(found[unused], 0)
    used = np.union1d(tokens[real], completions[..., :-1])
    assert np.all(np.any(found[used] != 0, axis=-1))


def test_forward_is_causal():
    params = random_params(BASE)
    tokens, length, completions = batch()
    _, hidden = full(BASE, params, tokens, length, completions)
    changed = completions.copy()
    changed[:, :, 3:] = (changed[:, :, 3:] + 1) % BASE.vocab_size
    _, again = full(BASE, params, tokens, length, changed)
    np.testing.assert_array_equal(again[:, :, :3], hidden[:, :, :3])
    assert np.all(np.any(again[:, :, 3] != hidden[:, :, 3], axis=-1))


def test_bfloat16_is_near_float32():
    params = random_params(BASE)
    config = dataclasses.replace(BASE, dtype="bfloat16")
    inputs = batch()
    exact, near = full(BASE, params, *inputs), full(config, params, *inputs)
    assert near[1].dtype == jnp.bfloat16
    assert decode.empty_cache(config, 1, 1, 4).keys[0].dtype == jnp.bfloat16
    init = functools.partial(transformer.init_params, config)
    shapes = jax.tree.leaves(jax.eval_shape(init, jax.random.key(0)))
    assert {x.dtype for x in shapes} == {jnp.dtype("float32")}
    for a, b in zip(exact, near):
        assert np.abs(np.float32(b) - a).mean() < 0.02
    by_token = np.float32(cached(config, params, *inputs))
    assert np.abs(by_token - exact[1]).mean() < 0.02
    exact, near = (gradient(c, params, *inputs) for c in (BASE, config))
    assert {x.dtype for x in jax.tree.leaves(near)} == {jnp.dtype("float32")}
    exact, near = (np.concatenate([x.ravel() for x in jax.tree.leaves(g)]) for g in (exact, near))
    assert np.linalg.norm(near - exact) < 0.2 * np.linalg.norm(exact)


def test_attention_blocks_change_nothing(monkeypatch):
    """7 queries in blocks of 3, the last of them not full; 5 are one block."""
    config, inputs = dataclasses.replace(BASE, **EVERYTHING), batch()
    params = random_params(config)
    expected = [f(config, params, *inputs) for f in (full, gradient)]
    monkeypatch.setattr(layers, "QUERIES", 3)
    # Another config, so that nothing compiled serves both.
    config = dataclasses.replace(config, max_positions=35)
    found = [f(config, params, *inputs) for f in (full, gradient)]
    assert [layers.query_blocks(count) for count in (5, 6, 7, 10)] == [1, 1, 3, 4]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found, expected)


def test_plain_operations_of_other_backends_equal_the_cpu_workarounds(monkeypatch):
    config, inputs = dataclasses.replace(BASE, **EVERYTHING), batch()
    params = random_params(config)
    expected = [f(config, params, *inputs) for f in (full, cached, gradient)]
    monkeypatch.setattr(layers, "on_cpu", lambda: False)
    config = dataclasses.replace(config, max_positions=33)  # compiled nowhere else
    found = [f(config, params, *inputs) for f in (full, cached, gradient)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_cast_for_sampling_keeps_the_bits(tied):
    config = dataclasses.replace(BASE, dtype="bfloat16", qkv_bias=True, tied_head=tied)
    params = random_params(config)
    copy = transformer.cast_for_sampling(config, params)
    assert copy["layers"]["query"].dtype == jnp.bfloat16
    assert copy["layers"]["attention_norm"].dtype == jnp.float32
    assert transformer.unembedding(config, copy).dtype == jnp.float32
    if not tied:
        return
    inputs = batch()
    np.testing.assert_array_equal(
        np.float32(cached(config, copy, *inputs)), np.float32(cached(config, params, *inputs))
    )


def test_sharded_equals_single_device():
    """Prompts over `data`; heads, keys, SwiGLU and vocabulary over `model`."""
    params = random_params(BASE)
    inputs = batch()
    automatic = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=automatic)
    rules = [(axis, "model") for axis in ("vocab", "heads", "kv_heads", "mlp")]

    def place(x, *axes):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

    axes = nn.get_partition_spec(transformer.abstract_params(BASE))
    sharded = jax.device_put(params, nn.logical_to_mesh_sharding(axes, mesh, rules))
    placed = [place(x, "data") for x in inputs]
    expected, found = full(BASE, params, *inputs), full(BASE, sharded, *placed)
    assert found[1].sharding.shard_shape(found[1].shape)[0] == 1
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)
    by_token = cached(BASE, sharded, *placed)
    np.testing.assert_allclose(by_token, expected[1], rtol=0, atol=2e-5)
    expected, found = gradient(BASE, params, *inputs), gradient(BASE, sharded, *placed)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), found, expected
    )


def test_cache_sizes():
    params = random_params(BASE)
    tokens, length, _ = batch()
    prompt_cache, _ = jax.eval_shape(
        functools.partial(transformer.prefill, BASE), params, tokens, length
    )
    assert prompt_cache.keys.size == BASE.num_layers * PROMPTS * PROMPT_TOKENS * 2 * 6
    cache = decode.empty_cache(BASE, PROMPTS, GROUP, TOKENS)
    assert sum(x.size for x in cache.keys) == BASE.num_layers * PROMPTS * GROUP * TOKENS * 2 * 6


@pytest.mark.parametrize("group", [1, GROUP])
def test_decode_updates_the_cache_in_place(group):
    """A loop over tokens needs no second cache: XLA's buffers stay far below one."""
    config = dataclasses.replace(BASE, max_positions=5000, num_layers=8)
    params = random_params(config)
    tokens, length, _ = batch()
    cache = decode.empty_cache(config, PROMPTS, group, 4000)

    def loop(cache):
        prompt_cache, _ = transformer.prefill(config, params, tokens, length)
        context = decode.make_decode_context(config, params, prompt_cache, 4000)

        def step(carry):
            index, drawn, cache = carry
            hidden, cache = decode.decode(config, context, cache, drawn, index)
            drawn = jnp.argmax(hidden @ params["embedding"].T, axis=-1).astype(jnp.int32)
            return index + 1, drawn, cache

        start = jnp.int32(0), jnp.zeros((PROMPTS, group), jnp.int32), cache
        return jax.lax.while_loop(lambda carry: carry[0] < 4000, step, start)

    memory = jax.jit(loop, donate_argnums=0).lower(cache).compile().memory_analysis()
    held = sum(x.nbytes for x in jax.tree.leaves(cache))
    assert memory.alias_size_in_bytes >= held
    assert memory.temp_size_in_bytes < held


def test_abstract_params_name_every_dimension():
    config = dataclasses.replace(BASE, tied_head=False, qkv_bias=True, qk_norm=True)
    boxed = transformer.abstract_params(config)
    sizes = {
        "layers": 3,
        "vocab": 32,
        "embed": 12,
        "heads": 24,
        "kv_heads": 12,
        "head_dim": 6,
        "mlp": 20,
    }
    leaves = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    for leaf in leaves:
        assert leaf.value.shape == tuple(sizes[name] for name in leaf.names)
    init = functools.partial(transformer.init_params, config)
    plain = jax.tree.map(np.shape, jax.eval_shape(init, jax.random.key(0)))
    assert plain == jax.tree.map(np.shape, nn.unbox(boxed))


def test_init_params_depend_on_the_key_and_have_the_scale():
    config = dataclasses.replace(BASE, d_model=64, d_ff=128, num_layers=4)
    init = jax.jit(functools.partial(transformer.init_params, config))
    first, again, other = (jax.device_get(init(jax.random.key(seed))) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.any(first["embedding"] != other["embedding"])
    assert np.std(first["layers"]["gate"]) == pytest.approx(64**-0.5, rel=0.05)
    assert np.std(first["layers"]["down"]) == pytest.approx((128 * 8) ** -0.5, rel=0.05)
    assert np.any(first["layers"]["gate"][0] != first["layers"]["gate"][1])


def test_too_many_positions_raise():
    config = dataclasses.replace(BASE, max_positions=8)
    params = random_params(config)
    tokens, length, completions = batch()
    keys, values = np.zeros((3, PROMPTS, 2, 6, 7)), np.zeros((3, PROMPTS, 2, 7, 6))
    prompt_cache = transformer.PromptCache(keys, values, length)
    for call in (
        lambda: transformer.prefill(config, params, np.tile(tokens, 2), length),
        lambda: transformer.forward(config, params, tokens, length, completions),
        lambda: decode.make_decode_context(config, params, prompt_cache, TOKENS),
    ):
        with pytest.raises(ValueError, match=r"max_positions = 8 tokens; got room for 1[24]"):
            call()
