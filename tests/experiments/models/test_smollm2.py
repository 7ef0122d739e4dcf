"""SmolLM2-135M-Instruct, where its GGUF file is, against what transformers computed from it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import decode, tokenizer, transformer
from experiments.models.huggingface import load_model
from tests.experiments.models import smollm2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        smollm2.path() is None,
        reason="SmolLM2 is not on this machine: run `make smollm2`, or set SMOLLM2_GGUF to its file",
    ),
]
REFERENCE = Path(__file__).parent / "fixtures" / "smollm2.npz"
COUNT = len(smollm2.PROMPTS)


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as file:
        return dict(file)


@pytest.fixture(scope="module")
def tokens():
    return tokenizer.load(smollm2.path())


@pytest.fixture(scope="module")
def outputs(reference):
    """Every prompt with its completion, and a cached greedy continuation, in one padded batch."""
    config, params = load_model(smollm2.path())
    head = transformer.unembedding(config, params)
    prompts, length = padded([reference[f"prompt_{i}"] for i in range(COUNT)])
    completions, _ = padded([reference[f"completion_{i}"] for i in range(COUNT)])
    steps = reference["greedy_0"].size

    def run(params, prompts, length, completions):
        prompt_cache, last = transformer.prefill(config, params, prompts, length)
        first, rest = transformer.forward(config, params, prompts, length, completions[:, None])
        logits = jnp.concatenate([first[:, None], rest[:, 0]], axis=1) @ head.T

        def step(carry, index):
            drawn, cache = carry
            now, cache = decode.decode(config, context, cache, drawn, index)
            return (jnp.argmax(now @ head.T, axis=-1).astype(jnp.int32), cache), drawn

        first = jnp.argmax(logits[:, :1], axis=-1).astype(jnp.int32)
        context = decode.make_decode_context(config, params, prompt_cache, steps)
        cache = decode.empty_cache(config, COUNT, 1, steps)
        _, greedy = jax.lax.scan(step, (first, cache), jnp.arange(steps))
        return logits, greedy[:, :, 0].T

    return jax.tree.map(np.asarray, jax.jit(run)(params, prompts, length, completions))


def padded(rows):
    width = max(map(len, rows))
    rows_ = np.stack([np.pad(row, (0, width - len(row))) for row in rows])
    return jnp.array(rows_, jnp.int32), jnp.array([len(row) for row in rows], jnp.int32)


@pytest.mark.parametrize("i", range(COUNT))
def test_largest_logits(i, outputs, reference):
    logits = outputs[0][i, 0]
    np.testing.assert_allclose(
        logits[reference[f"best_{i}"]], reference[f"best_logits_{i}"], rtol=0, atol=3e-4
    )
    assert logits.max() == logits[reference[f"best_{i}"][0]]


@pytest.mark.parametrize("i", range(COUNT))
def test_log_probs_of_a_completion(i, outputs, reference):
    completion = reference[f"completion_{i}"]
    log_probs = jax.nn.log_softmax(outputs[0][i])[np.arange(len(completion)), completion]
    np.testing.assert_allclose(log_probs, reference[f"log_probs_{i}"], rtol=0, atol=3e-4)


@pytest.mark.parametrize("i", range(COUNT))
def test_cached_greedy_tokens(i, outputs, reference):
    np.testing.assert_array_equal(outputs[1][i], reference[f"greedy_{i}"])


def test_token_ids(tokens, reference):
    for i, (prompt, completion) in enumerate(smollm2.PROMPTS):
        assert tokens.encode(prompt) == reference[f"prompt_{i}"].tolist()
        assert tokens.encode(completion) == reference[f"completion_{i}"].tolist()
    for i, text in enumerate(smollm2.TEXTS):
        assert tokens.encode(text) == reference[f"text_{i}"].tolist()


def test_texts_come_back(tokens):
    for text in smollm2.TEXTS[:-1]:
        assert tokens.decode(tokens.encode(text)) == text
    assert tokens.decode(tokens.encode(smollm2.TEXTS[-1])) == "system\nA 1"


def test_special_ids(tokens):
    assert tokens.encode("<|im_end|>") == [tokens.eos_id] == [2]
    assert tokens.vocab_size == 49_152
