"""Small random checkpoints of each family against the stored outputs of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import huggingface, transformer
from tests.experiments.models.common import CHECKPOINTS, FIXTURES, greedy


@pytest.fixture(scope="module", params=CHECKPOINTS)
def case(request):
    directory = FIXTURES / request.param
    with np.load(directory / "reference.npz") as file:
        return *huggingface.load_model(directory), dict(file)


def test_checkpoints_cover_every_family_and_switch():
    configs = [huggingface.read_config(FIXTURES / name / "config.json") for name in CHECKPOINTS]
    assert {c.tied_head for c in configs} == {True, False}
    switches = {(c.qkv_bias, c.qk_norm) for c in configs}
    assert switches == {(False, False), (True, False), (False, True)}
    kinds = {c.rope_scaling and c.rope_scaling.kind for c in configs}
    assert kinds == {None, "linear", "llama3", "yarn"}
    assert {c.num_heads // c.num_kv_heads for c in configs} == {1, 2, 4}


def test_prefill_equals_reference_logits(case):
    config, params, reference = case
    # Every real position is the last one of a prompt cut short there.
    rows, lengths = [], []
    for tokens, length in zip(reference["tokens"], reference["length"]):
        rows += [tokens] * length
        lengths += range(1, length + 1)
    tokens, lengths = jnp.array(np.stack(rows), jnp.int32), jnp.array(lengths, jnp.int32)
    _, last = jax.jit(transformer.prefill, static_argnums=0)(config, params, tokens, lengths)
    logits = last @ transformer.unembedding(config, params).T
    np.testing.assert_allclose(logits, reference["logits"], rtol=0, atol=3e-5)


def test_decode_equals_reference_greedy_tokens(case):
    config, params, reference = case
    tokens, length = (jnp.array(reference[name], jnp.int32) for name in ("tokens", "length"))
    found = greedy(config, params, tokens, length, reference["greedy"].shape[1])
    np.testing.assert_array_equal(found, reference["greedy"])


def test_saved_checkpoint_loads_unchanged(case, tmp_path):
    config, params, _ = case
    huggingface.save(tmp_path, config, params)
    again, loaded = huggingface.load_model(tmp_path)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
