"""Live comparison with torch and transformers in float32: `make parity`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import huggingface, tokenizer, transformer
from experiments.models.huggingface import load_model
from tests.experiments.models import smollm2
from tests.experiments.models.checkpoints import write_gguf
from tests.experiments.models.common import CHECKPOINTS, FIXTURES, greedy, random_params

pytestmark = pytest.mark.parity
# Differs from the seed of the stored references.
SEED = 1234


@pytest.fixture(scope="module")
def torch_models():
    from tests.experiments.models import torch_models

    return torch_models


def our_logits(config, params, ids):
    """Returns logits [len(ids), V] from a pass with the first id as the prompt."""
    ids = jnp.array(ids, jnp.int32)
    prompt, length = ids[None, :1], jnp.array([1])
    last, hidden = transformer.forward(config, params, prompt, length, ids[None, None, 1:])
    return jnp.concatenate([last, hidden[0, 0]]) @ transformer.unembedding(config, params).T


def compare(torch_models, model, config, params, prompt, completion, *, atol):
    both = [*prompt, *completion]
    expected = torch_models.logits(model, both)
    logits = our_logits(config, params, both)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=atol)
    log_probs = jax.nn.log_softmax(logits)[np.arange(len(prompt) - 1, len(both) - 1), completion]
    expected_log_probs = torch_models.log_probs(model, prompt, completion)
    np.testing.assert_allclose(log_probs, expected_log_probs, rtol=0, atol=atol)
    expected_tokens, lead = torch_models.greedy(model, prompt, 8)
    assert lead > 2 * atol, "this prompt has a greedy choice too close to call"
    tokens = jnp.array([prompt], jnp.int32)
    found = greedy(config, params, tokens, jnp.array([len(prompt)]), 8)
    assert found[0].tolist() == expected_tokens
    return float(np.abs(logits - expected).max())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_forward_equals_torch_on_random_checkpoints(torch_models, tmp_path, name):
    torch_models.write_checkpoint(name, tmp_path, SEED)
    config, params = huggingface.load_model(tmp_path)
    rng = np.random.default_rng(SEED)
    prompt, completion = rng.integers(0, 53, 30).tolist(), rng.integers(0, 53, 9).tolist()
    compare(
        torch_models, torch_models.load(tmp_path), config, params, prompt, completion, atol=3e-5
    )


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_save_is_read_by_transformers(torch_models, tmp_path, name):
    config, params = huggingface.load_model(FIXTURES / name)
    huggingface.save(tmp_path, config, params)
    ids = np.load(FIXTURES / name / "reference.npz")["tokens"][0]
    original = torch_models.logits(torch_models.load(FIXTURES / name), ids)
    again = torch_models.logits(torch_models.load(tmp_path), ids)
    np.testing.assert_allclose(again, original, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "name"),
    [("llama", "llama_tied"), ("qwen2", "qwen2_untied"), ("qwen3", "qwen3")],
)
def test_gguf_file_equals_torch(torch_models, tmp_path, family, name):
    config = huggingface.read_config(FIXTURES / name / "config.json")
    if family == "qwen3":
        # transformers ignores the head width in the file and takes 128.
        config = dataclasses.replace(config, head_dim=128)
    write_gguf(tmp_path / "model.gguf", family, config, random_params(config, SEED))
    model = torch_models.load(tmp_path, gguf_file="model.gguf")
    ids = np.load(FIXTURES / name / "reference.npz")["tokens"][0]
    found = our_logits(*load_model(tmp_path / "model.gguf"), ids)
    np.testing.assert_allclose(found, torch_models.logits(model, ids), rtol=0, atol=3e-5)


@pytest.fixture(scope="module")
def gguf():
    path = smollm2.path()
    if path is None:
        pytest.fail(f"{smollm2.FILE} is not on this machine: run `make smollm2`")
    return path


def test_forward_equals_torch_on_smollm2(torch_models, gguf):
    model = torch_models.load(gguf.parent, gguf_file=gguf.name)
    config, params = load_model(gguf)
    tokens = tokenizer.load(gguf)
    for prompt, completion in smollm2.PROMPTS:
        prompt, completion = tokens.encode(prompt), tokens.encode(completion)
        largest = compare(torch_models, model, config, params, prompt, completion, atol=3e-4)
        print(f"\nlargest difference of {len(prompt + completion)} x 49152 logits: {largest:.1e}")


def test_encode_equals_transformers_on_smollm2(gguf):
    ours, theirs = tokenizer.load(gguf), smollm2.transformers_tokenizer(gguf)
    texts = [*smollm2.TEXTS, *(text for pair in smollm2.PROMPTS for text in pair)]
    rng = np.random.default_rng(SEED)
    alphabet = [*"aZé東🙂0123456789 .,'\n\t-+=#_<|>", "  ", " the", "ing", "<|im_end|>"]
    texts += ["".join(rng.choice(alphabet, 40)) for _ in range(200)]
    for text in texts:
        ids = theirs(text).input_ids
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    assert (ours.eos_id, ours.pad_id) == (theirs.eos_token_id, theirs.pad_token_id)


def test_saved_tokenizer_is_read_by_transformers(gguf, tmp_path):
    from transformers import AutoTokenizer

    ours = tokenizer.load(gguf)
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in smollm2.TEXTS:
        assert theirs(text).input_ids == ours.encode(text)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id)
