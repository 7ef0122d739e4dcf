"""Baseline: google-tunix. Imports only tunix, its dependencies and the standard library.

Its llama3 with tied weights (which ignores `rope_theta`), its Sampler, the loss and train step of
its GRPOLearner, and that learner for the whole step.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from tunix import (
    ClusterConfig,
    GRPOConfig,
    GRPOLearner,
    RLCluster,
    RLTrainingConfig,
    Role,
    RolloutConfig,
)
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.llama3.model import Llama3, ModelConfig
from tunix.rl import common

from experiments.perf.worker import RunOnce, Stepper, Workload, serve


class Numbers:
    """Tokenizer that writes token ids as numbers; its end token is never sampled."""

    def __init__(self, vocabulary: int):
        self._end = vocabulary

    def encode(self, text):
        """Returns the ids of a text."""
        return [int(word) for word in text.split()]

    def decode(self, ids):
        """Returns the text of ids."""
        return " ".join(str(i) for i in ids)

    def pad_id(self):
        """Returns the padding id, which no prompt holds."""
        return 0

    def bos_id(self):
        """Returns the id that tunix puts before a prompt."""
        return 1

    def eos_id(self):
        """Returns the end id."""
        return self._end


def texts(workload: Workload, rng: np.random.Generator) -> list[str]:
    """Returns random prompts one token short: tunix prepends the first token."""
    ids = rng.integers(1, workload.shape.vocab_size, (workload.prompts, workload.prompt - 1))
    return [" ".join(map(str, row)) for row in ids]


def make_model(workload: Workload) -> Llama3:
    """Builds a Llama of the shape with random float32 weights."""
    shape = workload.shape
    return Llama3(
        ModelConfig(
            num_layers=shape.num_layers,
            vocab_size=shape.vocab_size,
            embed_dim=shape.d_model,
            hidden_dim=shape.d_ff,
            num_heads=shape.num_heads,
            head_dim=shape.d_model // shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            rope_theta=10_000,
            norm_eps=1e-5,
            weight_tying=True,
        ),
        rngs=nnx.Rngs(0),
    )


def prepare(workload: Workload) -> tuple[RunOnce, dict]:
    """Prepares a workload for `serve`."""
    makers = {"product": _product, "head": _head, "rollout": _rollout, "update": _update}
    return makers.get(workload.kind, _steps)(workload)


def _product(workload: Workload) -> tuple[RunOnce, dict]:
    matrix = jnp.ones((workload.prompt, workload.prompt))
    product = jax.jit(jnp.matmul)
    return lambda: product(matrix, matrix).block_until_ready(), {}


def _head(workload: Workload) -> tuple[RunOnce, dict]:
    tokens, shape = workload.sequences * workload.tokens, workload.shape
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.standard_normal((1, tokens, shape.d_model), np.float32))
    unembedding = rng.standard_normal((shape.vocab_size, shape.d_model), np.float32)
    unembedding = jnp.asarray(unembedding * 2 / shape.d_model**0.5)
    targets = jnp.asarray(rng.integers(0, shape.vocab_size, (1, tokens)))

    def loss(hidden, unembedding):
        logits = hidden @ unembedding.T
        log_prob = common.selective_log_softmax(logits, targets)
        log_p = jax.nn.log_softmax(logits)
        entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
        return jnp.mean(log_prob) + 0.1 * jnp.mean(entropy)

    step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    return lambda: jax.block_until_ready(step(hidden, unembedding)), {}


def _rollout(workload: Workload) -> tuple[RunOnce, dict]:
    shape = workload.shape
    cache = CacheConfig(
        cache_size=workload.tokens,
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.d_model // shape.num_heads,
    )
    sampler = Sampler(make_model(workload), Numbers(shape.vocab_size), cache)
    prompts = [
        p for p in texts(workload, np.random.default_rng(0)) for _ in range(workload.group_size)
    ]

    # Its sampler has no hook for the end of each row: it goes on to the longest.
    steps = workload.completion
    if workload.lengths == "geometric":
        steps = max(workload.completion_lengths())

    def run_once():
        out = sampler(
            prompts,
            max_generation_steps=steps,
            max_prompt_length=workload.prompt,
            temperature=1.0,
            top_p=1.0,
            return_logprobs=True,
            seed=0,
        )
        assert all(len(row) == steps for row in out.tokens)

    return run_once, {}


def _learner(workload: Workload, max_steps: int) -> GRPOLearner:
    one_device = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    cluster = RLCluster(
        actor=make_model(workload),
        tokenizer=Numbers(workload.shape.vocab_size),
        cluster_config=ClusterConfig(
            role_to_mesh=dict.fromkeys((Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), one_device),
            training_config=RLTrainingConfig(
                actor_optimizer=optax.adamw(3e-4, weight_decay=0.0),
                eval_every_n_steps=max_steps,
                max_steps=max_steps,
                mini_batch_size=workload.prompts,
                train_micro_batch_size=workload.prompts,
                rollout_micro_batch_size=workload.prompts,
                compute_logps_micro_batch_size=workload.prompts,
            ),
            rollout_config=RolloutConfig(
                max_tokens_to_generate=workload.completion,
                max_prompt_length=workload.prompt,
                kv_cache_size=workload.tokens,
                temperature=1.0,
                return_logprobs=True,
            ),
        ),
    )
    config = GRPOConfig(num_generations=max(workload.group_size, 2), beta=0.0)
    return GRPOLearner(cluster, config, _first_is_even)


def _first_is_even(prompts, completions, **_):
    return [float(int(text.split()[0]) % 2 == 0) for text in completions]


def _update(workload: Workload) -> tuple[RunOnce, dict]:
    trainer = _learner(workload, max_steps=10**6).rl_cluster.actor_trainer
    train_step, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
    rng = np.random.default_rng(0)
    sizes = workload.sequences, workload.completion
    prompts = rng.integers(1, workload.shape.vocab_size, (workload.sequences, workload.prompt))
    lengths = np.array(workload.completion_lengths())[:, None]
    mask = np.arange(workload.completion) < lengths  # tunix pads to the longest possible
    completions = rng.integers(1, workload.shape.vocab_size, sizes) * mask
    example = common.TrainExample(
        prompt_ids=jnp.asarray(prompts),
        prompt_mask=jnp.ones((workload.sequences, workload.prompt), bool),
        completion_ids=jnp.asarray(completions),
        completion_mask=jnp.asarray(mask),
        advantages=jnp.asarray(rng.integers(0, 2, workload.sequences), jnp.float32),
        ref_per_token_logps=None,
        old_per_token_logps=jnp.asarray(
            rng.normal(-np.log(workload.shape.vocab_size), 0.01, sizes), jnp.float32
        ),
    )

    def run_once():
        jax.block_until_ready((train_step(example), nnx.state(trainer.model)))

    return run_once, {}


def _steps(workload: Workload) -> tuple[RunOnce, dict]:
    learner = _learner(workload, max_steps=10**6)
    rng = np.random.default_rng(0)

    def batches():
        # The learner asks for one batch before it begins, and for one at the start of each step.
        yield {"prompts": np.array(texts(workload, rng))}
        while True:
            jax.block_until_ready(nnx.state(learner.rl_cluster.actor_trainer.model))
            stepper.boundary()
            yield {"prompts": np.array(texts(workload, rng))}

    stepper = Stepper(lambda: learner.train(batches()))

    def run_once():
        for _ in range(workload.steps):
            stepper.step()

    return run_once, {"trainer": "GRPOLearner"}


if __name__ == "__main__":
    serve(prepare, ("google-tunix", "jax", "jaxlib", "flax", "optax", "numpy"))
