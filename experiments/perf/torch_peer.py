"""Baseline: torch, transformers and TRL. Imports only these and the standard library.

Each workload is tried in several variants (compiled or not, growing or static cache, TRL's fused
head or a plain one), and the fastest on this machine is timed. Variants that were slower on every
machine are left out: a static cache and a plain head that are not compiled. The whole step is TRL's
GRPOTrainer without a generation backend.
"""

import random
import tempfile
import time
from collections.abc import Callable

import datasets
import tokenizers
import torch
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import add_fused_lm_head, entropy_from_logits, selective_log_softmax

from experiments.perf.worker import RunOnce, Stepper, Workload, serve


def make_model(workload: Workload) -> LlamaForCausalLM:
    """Builds a Llama of the shape with random float32 weights."""
    torch.manual_seed(0)
    shape = workload.shape
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_ff,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=max(workload.tokens, 64),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).float()


def prepare(workload: Workload) -> tuple[RunOnce, dict]:
    """Prepares a workload for `serve`."""
    torch.set_num_threads(1)
    makers = {"product": _product, "head": _head, "rollout": _rollout, "update": _update}
    if workload.kind == "step":
        return trainer_stepper(workload, make_model(workload))
    variants = makers[workload.kind](workload)
    if len(variants) == 1:
        return next(iter(variants.values()))(), {}
    chosen, seconds = fastest(variants)
    torch.compiler.reset()
    return variants[chosen](), {"variant": chosen, "variants": seconds}


def fastest(variants: dict[str, Callable[[], RunOnce]]) -> tuple[str, dict[str, float | str]]:
    """Makes and runs each variant twice; returns the name of the one with the best second time.

    Args:
      variants: makers by name; one that raises is left out.

    Returns:
      The name, and the CPU seconds or the error of each.
    """
    seconds: dict[str, float | str] = {}
    for name, make in variants.items():
        try:
            run_once = make()
            run_once()
            start = time.process_time()  # less disturbed by other processes than the wall clock
            run_once()
            seconds[name] = time.process_time() - start
        except Exception as error:  # whatever a compiler raises on this machine
            seconds[name] = f"{type(error).__name__}: {str(error).splitlines()[:1]}"
    timed = {name: s for name, s in seconds.items() if isinstance(s, float)}
    if not timed:
        raise RuntimeError(f"no variant works: {seconds}")
    return min(timed, key=timed.__getitem__), seconds


def _product(workload: Workload) -> dict:
    matrix = torch.ones(workload.prompt, workload.prompt)
    return {"eager": lambda: lambda: matrix @ matrix}


def _head(workload: Workload) -> dict:
    tokens, shape = workload.sequences * workload.tokens, workload.shape
    hidden = torch.randn(tokens, shape.d_model, requires_grad=True)
    unembedding = (
        torch.randn(shape.vocab_size, shape.d_model) * 2 / shape.d_model**0.5
    ).requires_grad_()
    targets = torch.randint(shape.vocab_size, (tokens,))

    def loss(hidden, unembedding):
        logits = (hidden @ unembedding.T)[None]
        log_prob = selective_log_softmax(logits, targets[None])
        return log_prob.mean() + 0.1 * entropy_from_logits(logits).mean()

    def maker(function):
        def run_once():
            hidden.grad = unembedding.grad = None
            function(hidden, unembedding).backward()

        return run_once

    return {"eager": lambda: maker(loss), "compiled": lambda: maker(torch.compile(loss))}


class EndsAt(StoppingCriteria):
    """Ends each sequence at a given length."""

    def __init__(self, lengths):
        self._lengths = torch.tensor(lengths)

    def __call__(self, input_ids, scores, **kwargs):
        """Returns which sequences have ended."""
        return input_ids.shape[1] >= self._lengths


def _rollout(workload: Workload) -> dict:
    model = make_model(workload).eval()
    prompts = torch.randint(1, workload.shape.vocab_size, (workload.sequences, workload.prompt))
    mask = torch.ones_like(prompts)
    plain = model.forward
    criteria, expected = StoppingCriteriaList(), workload.tokens
    if workload.lengths == "geometric":
        lengths = workload.completion_lengths()
        criteria.append(EndsAt([workload.prompt + length for length in lengths]))
        expected = workload.prompt + max(lengths)

    def maker(forward, **cache):
        model.forward = forward
        settings = GenerationConfig(
            max_new_tokens=workload.completion,
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
        def run_once():
            out = model.generate(
                prompts,
                attention_mask=mask,
                generation_config=settings,
                stopping_criteria=criteria,
            )
            assert out.shape[1] == expected

        return run_once

    return {
        "growing cache": lambda: maker(plain),
        "static cache, compiled": lambda: maker(
            torch.compile(plain), cache_implementation="static"
        ),
    }


def _update(workload: Workload) -> dict:
    lengths = torch.tensor(workload.completion_lengths())[:, None]
    longest = int(lengths.max())  # as TRL pads a batch
    size = workload.sequences, workload.prompt + longest
    real = torch.arange(longest) < lengths
    mask = torch.cat([torch.ones(size[0], workload.prompt, dtype=bool), real], dim=1).long()
    tokens = torch.randint(workload.shape.vocab_size, size) * mask
    completions = tokens[:, workload.prompt :]
    nats = torch.tensor(float(workload.shape.vocab_size)).log()
    old = 0.01 * torch.randn(completions.shape) - nats
    advantages = torch.randint(0, 2, (workload.sequences, 1)).float()
    # Gradients are accumulated, as TRL does, over parts whose logits have at most half a gigabyte.
    count = -(-tokens.numel() * workload.shape.vocab_size * 4 // 2**29)
    parts = torch.arange(workload.sequences).chunk(count)

    def surrogate(log_probs, part):
        ratio = torch.exp(log_probs - old[part])
        clipped = torch.clamp(ratio, 0.8, 1.2)
        least = torch.min(ratio * advantages[part], clipped * advantages[part])
        return -(least * real[part]).sum() / workload.sequences

    def head_of_logits(hidden, unembedding, part):
        logits = hidden @ unembedding.T
        log_probs = selective_log_softmax(logits, completions[part])
        with torch.no_grad():  # as TRL does: the entropy is a metric
            entropy = entropy_from_logits(logits)[real[part]].sum() / real.sum()
        return surrogate(log_probs, part), entropy

    def with_logits(model, head):
        def loss(part):
            hidden = model.model(
                input_ids=tokens[part], attention_mask=mask[part], use_cache=False
            )[0]
            return head(hidden[:, workload.prompt - 1 : -1], model.lm_head.weight, part)

        return loss

    def with_fused_head(model):
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        labels = tokens.clone()
        labels[:, : workload.prompt] = -100
        labels[mask == 0] = -100

        def loss(part):
            inputs = {"input_ids": tokens[part], "attention_mask": mask[part]}
            out = model(**inputs, labels=labels[part], fused_lm_head=True)
            kept = slice(-longest, None)
            entropy = out.entropy[:, kept].detach()[real[part]].sum() / real.sum()
            return surrogate(out.log_probs[:, kept], part), entropy

        return loss

    def maker(compiled: bool, fused_head: bool):
        model = make_model(workload).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0, fused=True)
        if compiled:
            for layer in model.model.layers:  # one after another: 30 equal graphs compile once
                layer.compile()
        if fused_head:
            loss = with_fused_head(model)
        else:
            loss = with_logits(model, torch.compile(head_of_logits) if compiled else head_of_logits)

        def run_once():
            value = entropy = 0.0
            for part in parts:
                loss_of_part, entropy_of_part = loss(part)
                loss_of_part.backward()
                value, entropy = value + loss_of_part.detach(), entropy + entropy_of_part
            torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return float(value), float(entropy)

        return run_once

    return {
        "eager, TRL's fused head": lambda: maker(False, True),
        "compiled": lambda: maker(True, False),
        "compiled, TRL's fused head": lambda: maker(True, True),
    }


def first_is_even(completion_ids, **_) -> list[float]:
    """Reward: 1 if the first token of the completion is even."""
    return [float(ids[0] % 2 == 0) for ids in completion_ids]


def number_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Writes token ids as numbers; the end token is one that the model cannot sample."""
    words = {str(i): i for i in range(vocabulary)} | {"end": vocabulary}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="end", pad_token="0")


class _Boundaries(TrainerCallback):
    def __init__(self):
        self.stepper: Stepper | None = None

    def on_step_begin(self, args, state, control, **kwargs):
        """Waits before the rollouts of a step."""
        self.stepper.boundary()


def trainer_stepper(workload: Workload, model) -> tuple[RunOnce, dict]:
    """Returns a function that runs `workload.steps` steps of the trainer, and notes."""
    rng = random.Random(0)

    def prompt():
        ids = (rng.randrange(1, workload.shape.vocab_size) for _ in range(workload.prompt))
        return {"prompt": " ".join(map(str, ids))}

    prompts = [prompt() for _ in range(workload.prompts * 64)]
    settings = GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="fade_jax_trl_"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,  # as fast as can be
        per_device_train_batch_size=workload.sequences,
        gradient_accumulation_steps=1,
        num_generations=workload.group_size,
        max_completion_length=workload.completion,
        max_steps=10**6,
        learning_rate=3e-4,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        beta=0.0,
        temperature=1.0,
        logging_steps=10**6,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    boundaries = _Boundaries()
    trainer = GRPOTrainer(
        model=model,
        args=settings,
        reward_funcs=first_is_even,
        train_dataset=datasets.Dataset.from_list(prompts),
        processing_class=number_tokenizer(workload.shape.vocab_size),
        callbacks=[boundaries],
    )
    boundaries.stepper = Stepper(trainer.train)

    def run_once():
        for _ in range(workload.steps):
            boundaries.stepper.step()

    return run_once, {"trainer": "GRPOTrainer"}


if __name__ == "__main__":
    serve(prepare, ("torch", "transformers", "trl", "accelerate", "numpy"))
