"""Attention of long sequences against float64, by every implementation that runs on a CPU."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments import sharding
from experiments.models import attention, transformer
from experiments.models.attention import Prompt, attend_causally, implementation
from experiments.models.config import ModelConfig
from experiments.rollout import completion_log_probs
from tests.experiments.models.common import random_params
from tests.experiments.models.numpy_attention import inputs, softmax_attention

MODEL = ModelConfig(32, 2, 12, 4, 2, 6, 20, max_positions=8192 + 64)
LONG = {
    "blocks": attention._in_blocks,
    "pallas": functools.partial(attention._pallas, interpret=True),
}


def with_attention(name, **changes):
    return dataclasses.replace(MODEL, attention=name, **changes)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 4 queries and 3 keys, so that short sequences have several."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", 4)
    monkeypatch.setattr(attention, "KEY_BLOCK", 3)


@functools.partial(jax.jit, static_argnums=0)
def run(function, own, prompt, gradient):
    """Output and gradients of `function`."""
    length = None if prompt is None else prompt[2]

    def call(own, pair):
        return function(*own, None if length is None else Prompt(*pair, length))

    out, pull = jax.vjp(call, own, None if prompt is None else prompt[:2])
    to_own, to_prompt = pull(gradient)
    return out, [*to_own, *(to_prompt or ())]


def check(function, sizes, dtype=jnp.float32, tolerance=1e-5):
    own, prompt = inputs(*sizes)
    gradient = np.float64(
        np.asarray(np.random.default_rng(9).normal(size=own[0].shape), jnp.bfloat16)
    )
    expected, gradients = softmax_attention(own, prompt, gradient)

    def cast(x):
        return jnp.asarray(x, dtype if x.dtype == np.float64 else None)

    found = run(function, *jax.tree.map(cast, (own, prompt, gradient)))
    assert found[0].dtype == dtype
    for a, b in zip([found[0], *found[1]], [expected, *gradients], strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(np.float64(a), b, rtol=0, atol=tolerance * np.abs(b).max())


# Prompts, group, queries, heads of keys, query heads to each, width, tokens of a prompt.
SIZES = [(2, 1, 11, 1, 1, 4), (2, 2, 9, 2, 3, 6), (3, 2, 7, 1, 4, 4, 5), (2, 3, 13, 2, 2, 6, 8)]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        *(
            (sizes, "float32")
            for sizes in (SIZES[0], (2, 2, 1, 2, 2, 4, 3), (1, 1, 12, 1, 1, 2, 1))
        ),
        *((sizes, dtype) for sizes in (SIZES[1], SIZES[3]) for dtype in ("float32", "bfloat16")),
    ],
    ids=str,
)
def test_blocks_match_float64(sizes, dtype):
    check(LONG["blocks"], sizes, jnp.dtype(dtype), 1e-5 if dtype == "float32" else 0.02)


def test_plain_matches_float64():
    for sizes in SIZES:
        check(attention._plain, sizes)
    check(attention._plain, SIZES[3], jnp.bfloat16, 0.02)


@pytest.mark.parametrize("sizes", [SIZES[1], SIZES[3], (1, 1, 130, 1, 2, 8, 150)], ids=str)
def test_pallas_interpreted_matches_float64(sizes):
    check(LONG["pallas"], sizes, tolerance=1e-4)


def test_long_sequences_match_float64():
    check(LONG["blocks"], (1, 1, 1024, 1, 2, 16))
    check(LONG["blocks"], (1, 2, 1024, 1, 2, 16, 300), jnp.bfloat16, 0.03)


@pytest.mark.slow
def test_very_long_sequences_match_float64():
    check(LONG["blocks"], (1, 1, 8192, 1, 1, 32))
    check(LONG["blocks"], (1, 2, 4096, 1, 1, 32, 700))
    check(LONG["blocks"], (1, 1, 8192, 1, 1, 32, 700), jnp.bfloat16, 0.03)


@pytest.mark.usefixtures("small_blocks")
def test_blocks_sums_of_parts_equal_one_softmax():
    """Scores up to ±400 and down to the last key: no part overflows, none is lost."""
    own, prompt = inputs(2, 2, 9, 1, 2, 4, 7)
    own = (own[0] * 100, *own[1:])
    expected, _ = softmax_attention(own, prompt, np.zeros_like(own[0]))
    prompt = Prompt(*map(np.float32, prompt[:2]), prompt[2])
    found = jax.jit(attention._in_blocks)(*map(np.float32, own), prompt)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.usefixtures("small_blocks")
def test_pairs_leave_out_what_causality_hides():
    own = jnp.zeros((5, 1, 1, 1, 3, 2))  # 15 keys of 13 tokens, blocks of 3
    queries = jnp.zeros((4, 1, 1, 1, 4, 1, 2))  # 16 queries, blocks of 4
    found = {tuple(pair) for pair in attention._pairs(queries, own).tolist()}
    last = {i: 4 * i + 3 for i in range(4)}  # last query of a block
    assert found == {(i, j) for i in range(4) for j in range(5) if 3 * j <= last[i]}
    prompt = jnp.zeros((2, 1, 1, 3, 2))
    assert len(attention._pairs(queries, prompt)) == 4 * 2


def score_arrays(jaxpr, count):
    """Shapes in a jaxpr, loops included, of which two dimensions are at least `count`."""
    shapes = []
    for equation in jaxpr.eqns:
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                shapes += score_arrays(inner, count)
        for variable in equation.outvars:
            if sum(size >= count for size in variable.aval.shape) > 1:
                shapes.append(variable.aval.shape)
    return shapes


def loss(config, params, tokens, length, completions):
    return jnp.sum(completion_log_probs(config, params, tokens, length, completions))


def shapes_of(prompts, start, group, count):
    return (
        jax.ShapeDtypeStruct((prompts, start), jnp.int32),
        jax.ShapeDtypeStruct((prompts,), jnp.int32),
        jax.ShapeDtypeStruct((prompts, group, count), jnp.int32),
    )


@pytest.mark.parametrize("remat", [True, False])
def test_no_array_has_all_scores(remat):
    """Neither in the forward pass nor in its gradient; the plain implementation has them."""
    params = jax.eval_shape(lambda: transformer.init_params(MODEL, jax.random.key(0)))
    found = {}
    for name in ("blocks", "plain"):
        config = with_attention(name, remat=remat)
        gradient = jax.make_jaxpr(jax.grad(functools.partial(loss, config)))
        found[name] = score_arrays(gradient(params, *shapes_of(1, 1500, 2, 1600)).jaxpr, 1400)
    assert found["blocks"] == []
    assert found["plain"]


def test_memory_is_far_below_the_scores_of_one_head():
    """Of 4096 queries to 8192 keys in float32, beside the arguments."""
    config = with_attention("blocks", remat=True)
    params = jax.eval_shape(lambda: transformer.init_params(MODEL, jax.random.key(0)))
    step = jax.jit(jax.grad(functools.partial(loss, config)))
    memory = step.lower(params, *shapes_of(1, 4096, 1, 4096)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.2 * 4 * 4096 * 8192


def batch(prompts=4, group=2, start=9, count=7, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 32, (prompts, start)).astype(np.int32),
        rng.integers(1, start + 1, prompts).astype(np.int32),
        rng.integers(0, 32, (prompts, group, count)).astype(np.int32),
    )


def log_probs_and_gradient(config, params, *inputs):
    def weighed(params):
        log_probs = completion_log_probs(config, params, *inputs)
        return jnp.sum(log_probs * jnp.sin(jnp.arange(log_probs.size)).reshape(log_probs.shape)), (
            log_probs
        )

    (_, log_probs), gradient = jax.value_and_grad(weighed, has_aux=True)(params)
    return log_probs, gradient


policy = jax.jit(log_probs_and_gradient, static_argnums=0)


def assert_trees_close(found, expected, tolerance):
    def close(a, b):
        a, b = np.float64(a), np.float64(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))

    jax.tree.map(close, found, expected)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    "changes",
    [{}, {"remat": True, "remat_keeps": "products", "num_kv_heads": 1}],
    ids=str,
)
def test_policy_by_blocks_equals_plain(changes):
    params = random_params(dataclasses.replace(MODEL, **changes))
    expected = policy(with_attention("plain", **changes), params, *batch())
    assert_trees_close(
        policy(with_attention("blocks", **changes), params, *batch()), expected, 2e-5
    )


@pytest.mark.usefixtures("small_blocks")
def test_prefill_by_blocks_equals_plain():
    params = random_params(MODEL)
    tokens, length, _ = batch()
    prefill = jax.jit(transformer.prefill, static_argnums=0)
    found, expected = (
        prefill(with_attention(name), params, tokens, length) for name in ("blocks", "plain")
    )
    assert_trees_close(found, expected, 2e-5)


def test_policy_by_pallas_interpreted_equals_plain(monkeypatch):
    monkeypatch.setattr(attention, "implementation", lambda config, _: config.attention)
    monkeypatch.setitem(attention._LONG_SEQUENCES, "pallas", LONG["pallas"])
    params = random_params(MODEL)
    expected = policy(with_attention("plain"), params, *batch())
    found = policy(with_attention("pallas"), params, *batch())
    assert_trees_close(found, expected, 1e-3)


@pytest.mark.usefixtures("small_blocks")
def test_policy_by_blocks_vmap_equals_loop():
    config = with_attention("blocks", remat=True)
    each = [random_params(MODEL, seed) for seed in range(3)]
    together = jax.tree.map(lambda *x: np.stack(x), *each)
    found = jax.jit(jax.vmap(lambda p: log_probs_and_gradient(config, p, *batch())))(together)
    for i, params in enumerate(each):
        expected = policy(with_attention("plain"), params, *batch())
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], found), expected, 2e-5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("axes", [(2, 2, 2), (1, 2, 4)], ids=str)
def test_policy_by_blocks_on_a_mesh_equals_one_device(axes):
    """Rows over data and fsdp, heads over tensor; 2 heads of keys do not divide over 4."""
    check_on_mesh(with_attention("blocks", remat=True, tied_head=False, d_model=16), axes)


@pytest.mark.slow
def test_policy_by_pallas_on_a_mesh_equals_one_device(monkeypatch):
    monkeypatch.setattr(attention, "implementation", lambda config, _: config.attention)
    monkeypatch.setitem(attention._LONG_SEQUENCES, "pallas", LONG["pallas"])
    check_on_mesh(with_attention("pallas", tied_head=False, d_model=16, num_layers=1), (2, 2, 2))


def check_on_mesh(config, axes):
    """Log-probs and gradient on a mesh against those of one device with plain attention."""
    params, inputs = random_params(config), batch(8)
    mesh = sharding.make_mesh(dict(zip(sharding.MESH_AXES, axes)))
    places = sharding.parameter_shardings(mesh, transformer.abstract_params(config))
    rows = sharding.batch_sharding(mesh)

    def step(params, *inputs):
        with sharding.layout(mesh):
            return log_probs_and_gradient(config, params, *inputs)

    compiled = (
        jax.jit(step)
        .lower(
            *jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                (params, *inputs),
                (places, rows, rows, rows),
            )
        )
        .compile()
    )
    found = compiled(jax.device_put(params, places), *jax.device_put(inputs, rows))
    plain = dataclasses.replace(config, attention="plain")
    assert_trees_close(found, policy(plain, params, *inputs), 1e-3)


def test_blocks_on_a_mesh_need_no_collective():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    spec = PartitionSpec(("data", "fsdp"), None, None, "tensor")
    config = with_attention("blocks")

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=NamedSharding(mesh, spec))

    def step(query, key, value, prompt_key, prompt_value, length):
        with sharding.layout(mesh):
            prompt = Prompt(prompt_key, prompt_value, length)
            return jnp.sum(attend_causally(config, query, key, value, prompt) ** 2)

    key, prompt = shape(4, 2, 600, 2, 8), shape(4, 1, 300, 2, 8)
    length = jax.ShapeDtypeStruct((4,), jnp.int32, sharding=sharding.batch_sharding(mesh))
    lowered = jax.jit(jax.grad(step, (0, 1, 2, 3, 4))).lower(
        shape(4, 2, 600, 2, 3, 8), key, key, prompt, prompt, length
    )
    text = lowered.compile().as_text()
    assert not re.findall(r"all-gather|all-to-all|collective-permute|reduce-scatter", text)


@pytest.mark.parametrize("prompt", [False, True])
def test_cudnn_lowers_to_its_kernels_for_a_gpu(monkeypatch, prompt):
    """Forward and backward, without a GPU; what they compute is tested on one only."""
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(fused, "is_cuda_compute_capability_equal", lambda capability: False)
    own, shared = inputs(2, 2, 64, 2, 3, 64, 32 if prompt else 0)
    own = [jnp.asarray(x, jnp.bfloat16) for x in own]
    shared = shared and Prompt(
        *(jnp.asarray(x, jnp.bfloat16) for x in shared[:2]), jnp.asarray(shared[2])
    )

    def total(own):
        return jnp.sum(attention._cudnn(*own, shared).astype(jnp.float32))

    traced = jax.jit(jax.value_and_grad(total)).trace(own)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax(" in text
    assert "__cudnn$fmhaSoftmaxBackward(" in text


def test_pallas_lowers_to_its_kernels_for_a_tpu():
    """Forward and backward, without a TPU."""
    own, shared = inputs(2, 2, 640, 2, 3, 64, 200)
    own = [jnp.asarray(x, jnp.bfloat16) for x in own]
    shared = Prompt(*(jnp.asarray(x, jnp.bfloat16) for x in shared[:2]), jnp.asarray(shared[2]))

    def total(own):
        return jnp.sum(attention._pallas(*own, shared).astype(jnp.float32))

    traced = jax.jit(jax.value_and_grad(total)).trace(own)
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count("@tpu_custom_call") >= 3


def test_cudnn_rows_match_float64(monkeypatch):
    """The rows that cuDNN gets, computed by JAX's other implementation of the same function."""
    public = jax.nn.dot_product_attention

    def by_xla(*arguments, implementation, **named):
        assert implementation == "cudnn"
        return public(*arguments, implementation="xla", **named)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    for sizes in (SIZES[1], SIZES[3]):
        check(attention._cudnn, sizes)


@pytest.mark.parametrize(
    ("name", "backend", "keys", "changes", "expected"),
    [
        ("auto", "cpu", attention.LONG - 1, {}, "plain"),
        ("auto", "cpu", attention.LONG, {}, "blocks"),
        ("auto", "tpu", attention.LONG, {}, "pallas"),
        ("auto", "gpu", attention.LONG, {}, "blocks"),
        ("auto", "gpu", attention.LONG, {"dtype": "bfloat16", "head_dim": 64}, "cudnn"),
        ("auto", "gpu", attention.LONG, {"dtype": "bfloat16", "head_dim": 160}, "blocks"),
        ("plain", "tpu", 10**6, {}, "plain"),
        ("blocks", "cpu", 1, {}, "blocks"),
        ("pallas", "tpu", 1, {}, "pallas"),
    ],
)
def test_implementation_by_backend_and_length(monkeypatch, name, backend, keys, changes, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert implementation(with_attention(name, **changes), keys) == expected


@pytest.mark.parametrize(
    ("name", "backend", "changes", "message"),
    [
        ("cudnn", "cpu", {}, 'config.model.attention = "cudnn" needs a gpu; the backend is "cpu"'),
        ("pallas", "gpu", {}, 'attention = "pallas" needs a tpu; the backend is "gpu"'),
        ("cudnn", "gpu", {}, 'needs config.model.dtype = "bfloat16", got "float32"'),
        ("cudnn", "gpu", {"dtype": "bfloat16"}, "a multiple of 8 up to 128, got 6"),
    ],
)
def test_implementation_raises(monkeypatch, name, backend, changes, message):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with pytest.raises(ValueError, match=re.escape(message)):
        implementation(with_attention(name, **changes), 8)
