"""SmolLM2-135M-Instruct against the stored outputs of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import tokenizer, transformer
from experiments.models.huggingface import load_model
from tests.experiments.models import smollm2
from tests.experiments.models.common import FIXTURES, greedy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        smollm2.path() is None,
        reason="SmolLM2 is not on this machine: run `make smollm2`, or set SMOLLM2_GGUF to its file",
    ),
]
COUNT = len(smollm2.PROMPTS)


@pytest.fixture(scope="module")
def reference():
    with np.load(FIXTURES / "smollm2.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def tokens():
    return tokenizer.load(smollm2.path())


@pytest.fixture(scope="module")
def outputs(reference):
    """Logits of the completions and greedy tokens, from one padded batch."""
    config, params = load_model(smollm2.path())
    prompts, length = padded([reference[f"prompt_{i}"] for i in range(COUNT)])
    completions, _ = padded([reference[f"completion_{i}"] for i in range(COUNT)])
    steps = reference["greedy_0"].size

    @jax.jit
    def forward(params):
        first, rest = transformer.forward(config, params, prompts, length, completions[:, None])
        hidden = jnp.concatenate([first[:, None], rest[:, 0]], axis=1)
        return hidden @ transformer.unembedding(config, params).T

    return np.asarray(forward(params)), np.asarray(greedy(config, params, prompts, length, steps))


def padded(rows):
    width = max(map(len, rows))
    rows_ = np.stack([np.pad(row, (0, width - len(row))) for row in rows])
    return jnp.array(rows_, jnp.int32), jnp.array([len(row) for row in rows], jnp.int32)


@pytest.mark.parametrize("i", range(COUNT))
def test_forward_equals_reference_logits(i, outputs, reference):
    logits = outputs[0][i, 0]
    np.testing.assert_allclose(
        logits[reference[f"best_{i}"]], reference[f"best_logits_{i}"], rtol=0, atol=3e-4
    )
    assert logits.max() == logits[reference[f"best_{i}"][0]]


@pytest.mark.parametrize("i", range(COUNT))
def test_forward_equals_reference_log_probs(i, outputs, reference):
    completion = reference[f"completion_{i}"]
    log_probs = jax.nn.log_softmax(outputs[0][i])[np.arange(len(completion)), completion]
    np.testing.assert_allclose(log_probs, reference[f"log_probs_{i}"], rtol=0, atol=3e-4)


@pytest.mark.parametrize("i", range(COUNT))
def test_decode_equals_reference_greedy_tokens(i, outputs, reference):
    np.testing.assert_array_equal(outputs[1][i], reference[f"greedy_{i}"])


def test_encode_equals_reference_ids(tokens, reference):
    for i, (prompt, completion) in enumerate(smollm2.PROMPTS):
        assert tokens.encode(prompt) == reference[f"prompt_{i}"].tolist()
        assert tokens.encode(completion) == reference[f"completion_{i}"].tolist()
    for i, text in enumerate(smollm2.TEXTS):
        assert tokens.encode(text) == reference[f"text_{i}"].tolist()


def test_decode_restores_texts(tokens):
    for text in smollm2.TEXTS:
        assert tokens.decode(tokens.encode(text)) == text


def test_encode_special_tokens(tokens):
    assert tokens.encode("<|im_end|>") == [tokens.eos_id] == [2]
    assert tokens.vocab_size == 49_152
