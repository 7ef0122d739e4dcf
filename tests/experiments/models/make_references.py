"""Writes fixtures/: what transformers computes in float32, for tests that run without torch.

    pip install -e '.[parity]' && make smollm2
    python -m tests.experiments.models.make_references

Each small random checkpoint is a directory as transformers saves it, with reference.npz beside it:
prompt ids and their lengths, logits at every position, greedy tokens. smollm2.npz holds the same in
short for SmolLM2-135M-Instruct (the 20 largest logits), and the ids of some texts. Beside fixtures/,
chat_templates/rendered.json holds conversations as chat templates write them.
"""

import shutil
from pathlib import Path

import numpy as np

from tests.experiments.models import chats, smollm2, torch_models

FIXTURES = Path(__file__).parent / "fixtures"
_LENGTHS = (21, 13, 1)
_GREEDY = 8
# A greedy token that leads by less could change with the order of a sum.
_CLEAR = 2e-3


def small(name):
    """One checkpoint and its references; seeds are tried until every greedy choice is clear."""
    directory = FIXTURES / name
    for seed in range(100):
        shutil.rmtree(directory, ignore_errors=True)
        torch_models.write_checkpoint(name, directory, seed)
        model = torch_models.load(directory)
        rng = np.random.default_rng(seed)
        prompts = [rng.integers(0, 53, length) for length in _LENGTHS]
        chosen = [torch_models.greedy(model, prompt, _GREEDY) for prompt in prompts]
        if min(lead for _, lead in chosen) > _CLEAR:
            break
    np.savez_compressed(
        directory / "reference.npz",
        tokens=np.stack([np.pad(p, (0, max(_LENGTHS) - len(p))) for p in prompts]),
        length=np.array(_LENGTHS),
        logits=np.concatenate([torch_models.logits(model, prompt) for prompt in prompts]),
        greedy=np.array([tokens for tokens, _ in chosen]),
    )


def real():
    """SmolLM2 on the prompts of smollm2.py."""
    path = smollm2.path()
    model = torch_models.load(path.parent, gguf_file=path.name)
    tokenizer = smollm2.transformers_tokenizer(path)
    arrays = {}
    for i, (prompt, completion) in enumerate(smollm2.PROMPTS):
        ids, more = tokenizer(prompt).input_ids, tokenizer(completion).input_ids
        last = torch_models.logits(model, ids)[-1]
        best = np.argsort(-last)[:20]
        tokens, lead = torch_models.greedy(model, ids, 12)
        assert lead > _CLEAR, (prompt, lead)
        arrays |= {
            f"prompt_{i}": np.array(ids),
            f"completion_{i}": np.array(more),
            f"best_{i}": best,
            f"best_logits_{i}": last[best],
            f"log_probs_{i}": torch_models.log_probs(model, ids, more),
            f"greedy_{i}": np.array(tokens),
        }
    for i, text in enumerate(smollm2.TEXTS):
        arrays[f"text_{i}"] = np.array(tokenizer(text).input_ids)
    np.savez_compressed(FIXTURES / "smollm2.npz", **arrays)


if __name__ == "__main__":
    for case in torch_models.CASES:
        small(case)
    real()
    chats.write_rendered()
