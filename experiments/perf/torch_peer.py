"""Torch, transformers and TRL at the same work. Imports only these and the standard library.

No variant is chosen in advance: what can be compiled is tried compiled and not, the cache growing
and static, TRL's fused head and its plain one, and the fastest on this machine is timed. Left out
is what has been slower everywhere: a static cache and a plain head that are not compiled.
"""

import os

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head, entropy_from_logits, selective_log_softmax

from experiments.benchmarks.torch_trainer import trainer_stepper
from experiments.benchmarks.works import Work, tokens_of
from experiments.perf.worker import Once, fastest, serve


def make_model(work: Work) -> LlamaForCausalLM:
    """A Llama of the shape with random float32 weights."""
    torch.manual_seed(0)
    shape = work.shape
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=max(tokens_of(work), 64),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).float()


def prepare(work: Work) -> tuple[Once, dict]:
    """For `serve`."""
    torch.set_num_threads(1)
    makers = {"product": _product, "head": _head, "rollout": _rollout, "update": _update}
    if work.kind == "step":
        return trainer_stepper(work, make_model(work))
    variants = makers[work.kind](work)
    known = os.environ.get("FADE_JAX_VARIANT")  # found by the process with the other BLAS
    if known in variants:
        return variants[known](), {"variant": known}
    if len(variants) == 1:
        return next(iter(variants.values()))(), {}
    chosen, seconds = fastest(variants)
    torch.compiler.reset()
    return variants[chosen](), {"variant": chosen, "variants": seconds}


def _product(work: Work) -> dict:
    matrix = torch.ones(work.prompt, work.prompt)
    return {"eager": lambda: lambda: matrix @ matrix}


def _head(work: Work) -> dict:
    tokens, shape = work.sequences * tokens_of(work), work.shape
    hidden = torch.randn(tokens, shape.width, requires_grad=True)
    unembedding = (
        torch.randn(shape.vocabulary, shape.width) * 2 / shape.width**0.5
    ).requires_grad_()
    targets = torch.randint(shape.vocabulary, (tokens,))

    def loss(hidden, unembedding):
        logits = (hidden @ unembedding.T)[None]
        log_prob = selective_log_softmax(logits, targets[None])
        return log_prob.mean() + 0.1 * entropy_from_logits(logits).mean()

    def maker(function):
        def once():
            hidden.grad = unembedding.grad = None
            function(hidden, unembedding).backward()

        return once

    return {"eager": lambda: maker(loss), "compiled": lambda: maker(torch.compile(loss))}


def _rollout(work: Work) -> dict:
    model = make_model(work).eval()
    prompts = torch.randint(1, work.shape.vocabulary, (work.sequences, work.prompt))
    mask = torch.ones_like(prompts)
    plain = model.forward

    def maker(forward, **cache):
        model.forward = forward
        settings = GenerationConfig(
            max_new_tokens=work.completion,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            eos_token_id=None,  # no completion ends early
            pad_token_id=0,
            disable_compile=True,  # it is compiled here or not at all
            **cache,
        )

        @torch.no_grad()
        def once():
            out = model.generate(prompts, attention_mask=mask, generation_config=settings)
            assert out.shape[1] == tokens_of(work)

        return once

    return {
        "growing cache": lambda: maker(plain),
        "static cache, compiled": lambda: maker(
            torch.compile(plain), cache_implementation="static"
        ),
    }


def _update(work: Work) -> dict:
    tokens = torch.randint(work.shape.vocabulary, (work.sequences, tokens_of(work)))
    mask = torch.ones_like(tokens)
    completions = tokens[:, work.prompt :]
    nats = torch.tensor(float(work.shape.vocabulary)).log()
    old = 0.01 * torch.randn(completions.shape) - nats
    advantages = torch.randint(0, 2, (work.sequences, 1)).float()

    def surrogate(log_probs):
        ratio = torch.exp(log_probs - old)
        clipped = torch.clamp(ratio, 0.8, 1.2)
        return -torch.min(ratio * advantages, clipped * advantages).sum() / work.sequences

    def head_of_logits(hidden, unembedding):
        logits = hidden @ unembedding.T
        log_probs = selective_log_softmax(logits, completions)
        with torch.no_grad():  # as TRL does: the entropy is a metric
            entropy = entropy_from_logits(logits).mean()
        return surrogate(log_probs), entropy

    def with_logits(model, head):
        def loss():
            hidden = model.model(input_ids=tokens, attention_mask=mask, use_cache=False)[0]
            return head(hidden[:, work.prompt - 1 : -1], model.lm_head.weight)

        return loss

    def with_fused_head(model):
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        labels = tokens.clone()
        labels[:, : work.prompt] = -100

        def loss():
            out = model(input_ids=tokens, attention_mask=mask, labels=labels, fused_lm_head=True)
            kept = slice(-work.completion, None)
            return surrogate(out.log_probs[:, kept]), out.entropy[:, kept].detach().mean()

        return loss

    def maker(compiled: bool, fused_head: bool):
        model = make_model(work).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0, fused=True)
        if compiled:
            for layer in model.model.layers:  # one after another: 30 equal graphs compile once
                layer.compile()
        if fused_head:
            loss = with_fused_head(model)
        else:
            loss = with_logits(model, torch.compile(head_of_logits) if compiled else head_of_logits)

        def once():
            value, entropy = loss()
            value.backward()
            torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return value.item(), entropy.item()

        return once

    return {
        "eager, TRL's fused head": lambda: maker(False, True),
        "compiled": lambda: maker(True, False),
        "compiled, TRL's fused head": lambda: maker(True, True),
    }


if __name__ == "__main__":
    serve(prepare, ("torch", "transformers", "trl", "accelerate", "numpy"))
