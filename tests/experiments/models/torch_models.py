"""Small random checkpoints made by transformers, and what transformers computes with a model.

Needs torch and transformers (`pip install '.[parity]'`): only make_references.py and the tests
marked `parity` import it.
"""

import contextlib
import logging

import numpy as np
import torch
import transformers

_SIZES = {
    "vocab_size": 53,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "beta_fast": 4.0,
    "beta_slow": 0.25,
    "original_max_position_embeddings": 16,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}

# name: (family, settings beside _SIZES, dtype it is stored in, largest shard)
CASES = {
    "llama_tied": ("Llama", {"tie_word_embeddings": True}, "float32", "1GB"),
    "llama_llama3_rope": (
        "Llama",
        {"rope_parameters": _LLAMA3, "num_key_value_heads": 4},
        "float32",
        "1GB",
    ),
    "llama_linear_rope": ("Llama", {"rope_parameters": _LINEAR}, "bfloat16", "1GB"),
    "qwen2_sharded": ("Qwen2", {"tie_word_embeddings": True}, "float16", "6KB"),
    "qwen2_untied": ("Qwen2", {"num_key_value_heads": 1}, "bfloat16", "1GB"),
    "qwen2_yarn": (
        "Qwen2",
        {"rope_parameters": _YARN, "num_attention_heads": 2, "num_key_value_heads": 1},
        "float32",
        "1GB",
    ),
    "qwen3": ("Qwen3", {"head_dim": 6, "rms_norm_eps": 1e-5}, "float32", "1GB"),
    "qwen3_tied": ("Qwen3", {"head_dim": 4, "tie_word_embeddings": True}, "float16", "1GB"),
}


def write_checkpoint(name, directory, seed=0):
    """Saves one of CASES, with every weight random: norms and biases too."""
    family, settings, dtype, shard = CASES[name]
    config = getattr(transformers, f"{family}Config")(**_SIZES | settings)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in sorted(dict(model.named_parameters()).items()):
        noise = torch.randn(parameter.shape, generator=generator)
        plain = 1 + 0.3 * noise if "norm" in key else 0.4 * noise
        parameter.data = plain
    with _quiet():
        model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=shard)
    (directory / "generation_config.json").unlink()


def load(directory, **kwargs):
    """The model in float32, with plain attention."""
    with _quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager", **kwargs
        )
    return model.eval()


def logits(model, ids):
    """float32 [length, vocab], one unpadded full pass without a cache."""
    with torch.no_grad():
        return model(torch.tensor([list(map(int, ids))]), use_cache=False).logits[0].numpy()


def log_probs(model, prompt, completion):
    """float32 [len(completion)], each token given all before it."""
    both = [*prompt, *completion]
    table = torch.log_softmax(torch.tensor(logits(model, both)), dim=-1).numpy()
    return table[np.arange(len(prompt) - 1, len(both) - 1), completion]


def greedy(model, prompt, steps):
    """The `steps` most likely tokens after a prompt, and the smallest lead of one over the next."""
    ids, leads = list(prompt), []
    for _ in range(steps):
        last = logits(model, ids)[-1]
        second, first = np.sort(last)[-2:]
        leads.append(first - second)
        ids.append(int(np.argmax(last)))
    return ids[len(prompt) :], min(leads)


@contextlib.contextmanager
def _quiet():
    transformers.utils.logging.disable_progress_bar()
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)
