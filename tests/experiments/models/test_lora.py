"""Adapters against float64, against the merged weights, and against peft."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import huggingface, layers, lora, peft, transformer
from experiments.models.config import ModelConfig
from experiments.rollout import completion_log_probs
from tests.experiments.models import numpy_transformer
from tests.experiments.models.common import random_params

MODEL = ModelConfig(
    vocab_size=53, num_layers=2, d_model=16, num_heads=4, num_kv_heads=2, head_dim=6, d_ff=24,
    max_positions=64, qk_norm=True, tied_head=False,
)  # fmt: skip
IDS = np.random.default_rng(5).integers(0, 53, 20, np.int32)
SCALE = 1.75


def random_adapters(params, rank=3, targets=lora.TARGETS, seed=0):
    """Adapters of which neither part is 0."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: lora.init(params, jax.random.key(0), rank, targets))
    return jax.tree.map(lambda x: rng.normal(scale=0.2, size=x.shape).astype(np.float32), shapes)


def merged_by_hand(params, adapters):
    """W + scale A B of each layer, in float64."""
    weights = dict(params["layers"])
    for name, adapter in adapters["layers"].items():
        a, b = (np.asarray(adapter[part], np.float64) for part in "ab")
        products = [a[layer] @ b[layer] for layer in range(len(a))]
        weights[name] = np.asarray(weights[name], np.float64) + SCALE * np.stack(products)
    return params | {"layers": weights}


@functools.partial(jax.jit, static_argnums=0)
def our_logits(config, params, ids):
    prompt, length = ids[None, :4], jnp.array([4])
    last, hidden = transformer.forward(config, params, prompt, length, ids[None, None, 4:])
    return jnp.concatenate([last, hidden[0, 0]]) @ transformer.unembedding(config, params).T


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_linear_of_a_low_rank_equals_float64(dtype, tolerance):
    rng = np.random.default_rng(0)
    x, base, a, b = (rng.normal(size=s) for s in ((2, 3, 8), (8, 5), (8, 2), (2, 5)))
    expected = x @ base + SCALE * (x @ a) @ b
    weight = lora.LowRank(jnp.asarray(base, dtype), jnp.float32(a), jnp.float32(b), SCALE)
    found = layers.linear(jnp.asarray(x, dtype), weight)
    assert found.dtype == dtype
    error = np.abs(np.asarray(found, np.float64) - expected)
    assert error.max() <= tolerance * np.abs(expected).max()


def test_init_is_uniform_and_zero():
    params = random_params(MODEL)
    adapters = lora.init(params, jax.random.key(1), 5, ("query", "down"))["layers"]
    assert {name: (x["a"].shape, x["b"].shape) for name, x in adapters.items()} == {
        "query": ((2, 16, 5), (2, 5, 24)),
        "down": ((2, 24, 5), (2, 5, 16)),
    }
    for adapter in adapters.values():
        bound = adapter["a"].shape[1] ** -0.5
        assert 0.9 * bound < np.abs(adapter["a"]).max() < bound
        assert np.std(adapter["a"]) == pytest.approx(bound / np.sqrt(3), rel=0.15)
        assert not np.any(adapter["b"])
    alone = lora.init(params, jax.random.key(1), 5, ("down",))["layers"]["down"]
    np.testing.assert_array_equal(alone["a"], adapters["down"]["a"])


@pytest.mark.parametrize(
    "options",
    [{}, {"remat": True}, {"remat": True, "remat_keeps": "products"}, {"tied_head": True}],
    ids=str,
)
@pytest.mark.parametrize("targets", [lora.TARGETS, ("value", "up")], ids=["all", "two"])
def test_adapters_have_the_logits_of_merged_weights(options, targets):
    config = dataclasses.replace(MODEL, **options)
    params = random_params(config)
    adapters = random_adapters(params, targets=targets)
    expected = numpy_transformer.logits(config, merged_by_hand(params, adapters), IDS)[3:]
    joined = lora.join(params, adapters, SCALE)
    np.testing.assert_allclose(our_logits(config, joined, IDS), expected, rtol=0, atol=3e-4)
    merged = lora.merge(joined)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    np.testing.assert_allclose(our_logits(config, merged, IDS), expected, rtol=0, atol=3e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fresh_adapters_keep_the_bits(dtype):
    """Where b = 0, of the logits and of the merged weights."""
    config = dataclasses.replace(MODEL, dtype=dtype)
    base = transformer.cast_for_sampling(config, random_params(config))
    joined = lora.join(base, lora.init(base, jax.random.key(0), 4, lora.TARGETS), SCALE)
    found, expected = (our_logits(config, p, IDS) for p in (joined, base))
    np.testing.assert_array_equal(found, expected)
    jax.tree.map(np.testing.assert_array_equal, transformer.cast_for_sampling(config, joined), base)


@pytest.mark.parametrize("options", [{}, {"remat": True, "remat_keeps": "products"}], ids=str)
def test_gradient_equals_the_chain_rule(options):
    """∂/∂A = scale ∂/∂W Bᵀ and ∂/∂B = scale Aᵀ ∂/∂W, with ∂/∂W of the merged weights."""
    config = dataclasses.replace(MODEL, **options)
    params = random_params(config)
    adapters = random_adapters(params)
    rng = np.random.default_rng(2)
    tokens = jnp.asarray(rng.integers(0, 53, (3, 4)), jnp.int32)
    completions = jnp.asarray(rng.integers(0, 53, (3, 2, 5)), jnp.int32)

    def objective(params):
        length = jnp.array([4, 2, 3])
        log_probs = completion_log_probs(config, params, tokens, length, completions)
        return jnp.mean(log_probs * jnp.arange(1.0, 6.0))

    found = jax.jit(jax.grad(lambda x: objective(lora.join(params, x, SCALE))))(adapters)
    whole = jax.jit(jax.grad(objective))(lora.merge(lora.join(params, adapters, SCALE)))
    for name, adapter in found["layers"].items():
        by_weight = np.asarray(whole["layers"][name], np.float64)
        a, b = (np.asarray(adapters["layers"][name][part], np.float64) for part in "ab")
        scale = np.abs(by_weight).max()
        np.testing.assert_allclose(
            adapter["a"], SCALE * by_weight @ np.swapaxes(b, 1, 2), rtol=1e-3, atol=1e-4 * scale
        )
        np.testing.assert_allclose(
            adapter["b"], SCALE * np.swapaxes(a, 1, 2) @ by_weight, rtol=1e-3, atol=1e-4 * scale
        )


def test_save_writes_the_names_and_shapes_of_peft(tmp_path):
    from safetensors.numpy import load_file

    adapters = random_adapters(random_params(MODEL), targets=("value", "down"))
    peft.save(tmp_path, adapters, alpha=6.0, base="somewhere")
    found = load_file(tmp_path / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers"
    assert {name: x.shape for name, x in found.items()} == {
        f"{prefix}.{layer}.{module}.lora_{letter}.weight": shape
        for layer in (0, 1)
        for module, letter, shape in (
            ("self_attn.v_proj", "A", (3, 16)), ("self_attn.v_proj", "B", (12, 3)),
            ("mlp.down_proj", "A", (3, 24)), ("mlp.down_proj", "B", (16, 3)),
        )
    }  # fmt: skip
    np.testing.assert_array_equal(
        found[f"{prefix}.1.mlp.down_proj.lora_A.weight"], adapters["layers"]["down"]["a"][1].T
    )
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert sorted(settings["target_modules"]) == ["down_proj", "v_proj"]
    assert (settings["r"], settings["lora_alpha"]) == (3, 6)
    assert settings["base_model_name_or_path"] == "somewhere"


@pytest.mark.parity
@pytest.mark.parametrize("targets", [lora.TARGETS, ("query", "up")], ids=["all", "two"])
@pytest.mark.parametrize(
    "family", [{"qk_norm": True}, {"qk_norm": False, "qkv_bias": True}, {"qk_norm": False}], ids=str
)
def test_peft_has_the_logits_of_the_adapters_and_of_the_merged_weights(tmp_path, family, targets):
    import torch
    from peft import PeftModel

    from tests.experiments.models import torch_models

    config = dataclasses.replace(MODEL, **family)
    params = random_params(config)
    adapters = random_adapters(params, targets=targets)
    huggingface.save(tmp_path / "base", config, params)
    peft.save(tmp_path, adapters, alpha=3 * SCALE, base=str(tmp_path / "base"))
    base = torch_models.load(tmp_path / "base")
    before = torch_models.logits(base, IDS)
    model = PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        expected = model(torch.tensor(IDS)[None]).logits[0].numpy()
    assert np.abs(expected - before).max() > 0.1
    joined = lora.join(params, adapters, SCALE)
    for policy in (joined, lora.merge(joined)):
        np.testing.assert_allclose(our_logits(config, policy, IDS), expected[3:], rtol=0, atol=1e-4)
