"""Baseline of `experiments.perf.accelerator`: transformers and TRL on the device, same weights.

    python -m experiments.perf.accelerator_torch KIND ARGUMENTS_AS_JSON

Imports only these, the standard library and the worker. Weights are float32, and products bfloat16
by autocast; sampling has bfloat16 weights. The float32 log-probs of fixed tokens are compared with
those of fade_jax.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from experiments.perf.worker import Workload, peak_bytes, workload_from_json

try:
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    HEAD = "TRL"
except ImportError:
    HEAD = "torch"

    def selective_log_softmax(logits, index):
        """Log-probs of the tokens `index`."""
        return torch.gather(logits.log_softmax(-1), -1, index[..., None])[..., 0]

    def entropy_from_logits(logits):
        """Entropies in nats."""
        log_p = logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def timed(run_once, seconds: float = 3.0, most: int = 10) -> dict:
    """Runs once to warm up, then for some seconds; returns the median, as the JAX side does."""

    def wait():
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    start = time.perf_counter()
    run_once()
    wait()
    first = time.perf_counter() - start
    times = []
    while not times or (sum(times) < seconds and len(times) < most):
        start = time.perf_counter()
        run_once()
        wait()
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    return {"seconds": median, "compile_s": max(first - median, 0.0)}


def load(weights: str, dtype):
    """Loads the model that fade_jax wrote."""
    model: Any = AutoModelForCausalLM.from_pretrained(weights, dtype=dtype)
    return model.to(DEVICE)


def rollout(work: Workload, weights: str):
    """Samples by transformers with a growing cache; the prompt is repeated for its group."""
    model = load(weights, torch.bfloat16).eval()
    shape = work.sequences, work.prompt
    prompts = torch.randint(1, work.shape.vocab_size, shape, device=DEVICE)
    settings = GenerationConfig(
        max_new_tokens=work.completion,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=None,
        pad_token_id=0,
    )

    @torch.no_grad()
    def run_once():
        mask = torch.ones_like(prompts)
        out = model.generate(prompts, attention_mask=mask, generation_config=settings)
        assert out.shape[1] == work.tokens

    return run_once, "transformers", difference(weights)


def update(work: Workload, weights: str):
    """A clipped surrogate, its gradient and AdamW, in parts of 8 sequences."""
    model = load(weights, torch.float32).train()
    shape = work.sequences, work.tokens
    tokens = torch.randint(work.shape.vocab_size, shape, device=DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0, fused=True)

    def run_once():
        for rows in tokens.split(8):
            with torch.autocast(DEVICE, torch.bfloat16):
                hidden = model.model(input_ids=rows, use_cache=False)[0]
                logits = hidden[:, work.prompt - 1 : -1] @ model.lm_head.weight.T
            log_probs = selective_log_softmax(logits.float(), rows[:, work.prompt :])
            ratio = torch.exp(log_probs - log_probs.detach())
            (-torch.min(ratio, ratio.clamp(0.8, 1.2)).sum() / work.sequences).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run_once, f"transformers, {HEAD}", difference(weights)


def head(work: Workload, weights: str):
    """Log-prob, entropy and the gradients of both inputs, in parts of 1024 tokens."""
    del weights
    tokens, shape = work.sequences * work.tokens, work.shape
    hidden = torch.randn(tokens, shape.d_model, device=DEVICE, requires_grad=True)
    table = (torch.randn(shape.vocab_size, shape.d_model, device=DEVICE) * 0.1).requires_grad_()
    targets = torch.randint(shape.vocab_size, (tokens,), device=DEVICE)

    def run_once():
        hidden.grad = table.grad = None
        for rows, ids in zip(hidden.split(1024), targets.split(1024)):
            with torch.autocast(DEVICE, torch.bfloat16):
                logits = rows @ table.T
            logits = logits.float()[None]
            log_prob = selective_log_softmax(logits, ids[None])
            ((log_prob.sum() + 0.1 * entropy_from_logits(logits).sum()) / tokens).backward()

    return run_once, HEAD, {}


def difference(weights: str) -> dict:
    """The largest difference of float32 log-probs from those that fade_jax wrote, in nats."""
    reference = np.load(Path(weights) / "reference.npz")
    tokens = torch.tensor(reference["tokens"], device=DEVICE, dtype=torch.long)
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.no_grad():
        logits = load(weights, torch.float32).eval()(tokens).logits
    found = selective_log_softmax(logits[:, 1:-1], tokens[:, 2:]).cpu().numpy()
    return {"largest_difference": float(np.abs(found - reference["log_probs"]).max())}


def main():
    """Prints one row."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    kind, arguments = sys.argv[1], json.loads(sys.argv[2])
    work = workload_from_json(arguments["workload"])
    makers = {"rollout": rollout, "update": update, "head": head}
    run_once, name, notes = makers[kind](work, arguments["weights"])
    row = timed(run_once)
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else peak_bytes()
    row |= {"work": kind, "implementation": f"{name} {torch.__version__}", "memory_gb": peak / 1e9}
    print(json.dumps(row | {"tokens_per_s": work.amount / row["seconds"]} | notes), file=answers)


if __name__ == "__main__":
    main()
