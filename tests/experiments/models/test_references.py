"""Small random checkpoints of each family against what transformers computed with them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import decode, huggingface, transformer
from experiments.models.huggingface import load_model

FIXTURES = Path(__file__).parent / "fixtures"
CASES = sorted(path.parent.name for path in FIXTURES.glob("*/reference.npz"))


@pytest.fixture(scope="module", params=CASES)
def case(request):
    directory = FIXTURES / request.param
    config, params = load_model(directory)
    with np.load(directory / "reference.npz") as file:
        return request.param, config, params, dict(file)


def test_cases_cover_every_family_and_switch():
    configs = [huggingface.read_config(FIXTURES / name / "config.json") for name in CASES]
    assert {c.tied_head for c in configs} == {True, False}
    assert {(c.qkv_bias, c.qk_norm) for c in configs} == {
        (False, False),
        (True, False),
        (False, True),
    }
    kinds = {c.rope_scaling and c.rope_scaling.kind for c in configs}
    assert kinds == {None, "linear", "llama3"}
    assert {c.num_heads // c.num_kv_heads for c in configs} == {1, 2, 4}


def test_logits_after_every_token(case):
    _, config, params, reference = case
    # Every real position is the last one of a prompt cut short there.
    rows, lengths = [], []
    for tokens, length in zip(reference["tokens"], reference["length"]):
        rows += [tokens] * length
        lengths += range(1, length + 1)
    tokens, lengths = jnp.array(np.stack(rows), jnp.int32), jnp.array(lengths, jnp.int32)
    _, last = transformer.prefill(config, params, tokens, lengths)
    logits = last @ transformer.unembedding(config, params).T
    np.testing.assert_allclose(logits, reference["logits"], rtol=0, atol=3e-5)


def test_cached_greedy_tokens(case):
    _, config, params, reference = case
    tokens = jnp.array(reference["tokens"], jnp.int32)
    length = jnp.array(reference["length"], jnp.int32)
    steps = reference["greedy"].shape[1]

    def best(hidden):
        logits = hidden @ transformer.unembedding(config, params).T
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def step(carry, index):
        drawn, cache = carry
        hidden, cache = decode.decode(config, context, cache, drawn, index)
        return (best(hidden), cache), drawn

    prompt_cache, last = transformer.prefill(config, params, tokens, length)
    context = decode.make_decode_context(config, params, prompt_cache, steps)
    cache = decode.empty_cache(config, len(length), 1, steps)
    _, greedy = jax.lax.scan(step, (best(last)[:, None], cache), jnp.arange(steps))
    np.testing.assert_array_equal(greedy[:, :, 0].T, reference["greedy"])


def test_saved_model_loads_again_unchanged(case, tmp_path):
    _, config, params, _ = case
    huggingface.save(tmp_path, config, params)
    again, loaded = load_model(tmp_path)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
