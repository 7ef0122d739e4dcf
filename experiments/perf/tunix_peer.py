"""google-tunix at the same work. Imports only what comes with it, and the standard library.

Its llama3 with tied weights, its sampler, the loss and train step of its GRPO learner, the learner.
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

from experiments.benchmarks.works import Work, tokens_of
from experiments.perf.worker import Once, Stepper, serve


class Numbers:
    """Token ids written as numbers; the end is a token that is never sampled."""

    def __init__(self, vocabulary: int):
        self._end = vocabulary

    def encode(self, text):
        """Ids of a text."""
        return [int(word) for word in text.split()]

    def decode(self, ids):
        """The text of ids."""
        return " ".join(str(i) for i in ids)

    def pad_id(self):
        """Of padding; no prompt holds it."""
        return 0

    def bos_id(self):
        """What tunix puts before a prompt."""
        return 1

    def eos_id(self):
        """The end."""
        return self._end


def texts(work: Work, rng: np.random.Generator) -> list[str]:
    """Prompts one token short: tunix puts the first one before them."""
    ids = rng.integers(1, work.shape.vocabulary, (work.prompts, work.prompt - 1))
    return [" ".join(map(str, row)) for row in ids]


def make_model(work: Work) -> Llama3:
    """A Llama of the shape with random float32 weights."""
    shape = work.shape
    return Llama3(
        ModelConfig(
            num_layers=shape.layers,
            vocab_size=shape.vocabulary,
            embed_dim=shape.width,
            hidden_dim=shape.hidden,
            num_heads=shape.heads,
            head_dim=shape.width // shape.heads,
            num_kv_heads=shape.kv_heads,
            rope_theta=10_000,
            norm_eps=1e-5,
            weight_tying=True,
        ),
        rngs=nnx.Rngs(0),
    )


def prepare(work: Work) -> tuple[Once, dict]:
    """For `serve`."""
    makers = {"product": _product, "head": _head, "rollout": _rollout, "update": _update}
    return makers.get(work.kind, _steps)(work)


def _product(work: Work) -> tuple[Once, dict]:
    matrix = jnp.ones((work.prompt, work.prompt))
    product = jax.jit(jnp.matmul)
    return lambda: product(matrix, matrix).block_until_ready(), {}


def _head(work: Work) -> tuple[Once, dict]:
    tokens, shape = work.sequences * tokens_of(work), work.shape
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.standard_normal((1, tokens, shape.width), np.float32))
    unembedding = rng.standard_normal((shape.vocabulary, shape.width), np.float32)
    unembedding = jnp.asarray(unembedding * 2 / shape.width**0.5)
    targets = jnp.asarray(rng.integers(0, shape.vocabulary, (1, tokens)))

    def loss(hidden, unembedding):
        logits = hidden @ unembedding.T
        log_prob = common.selective_log_softmax(logits, targets)
        log_p = jax.nn.log_softmax(logits)
        entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
        return jnp.mean(log_prob) + 0.1 * jnp.mean(entropy)

    step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    return lambda: jax.block_until_ready(step(hidden, unembedding)), {}


def _rollout(work: Work) -> tuple[Once, dict]:
    shape = work.shape
    cache = CacheConfig(
        cache_size=tokens_of(work),
        num_layers=shape.layers,
        num_kv_heads=shape.kv_heads,
        head_dim=shape.width // shape.heads,
    )
    sampler = Sampler(make_model(work), Numbers(shape.vocabulary), cache)
    prompts = [p for p in texts(work, np.random.default_rng(0)) for _ in range(work.group)]

    def once():
        out = sampler(
            prompts,
            max_generation_steps=work.completion,
            max_prompt_length=work.prompt,
            temperature=1.0,
            top_p=1.0,
            return_logprobs=True,
            seed=0,
        )
        assert all(len(row) == work.completion for row in out.tokens)

    return once, {}


def _learner(work: Work, max_steps: int) -> GRPOLearner:
    one_device = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    cluster = RLCluster(
        actor=make_model(work),
        tokenizer=Numbers(work.shape.vocabulary),
        cluster_config=ClusterConfig(
            role_to_mesh=dict.fromkeys((Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), one_device),
            training_config=RLTrainingConfig(
                actor_optimizer=optax.adamw(3e-4, weight_decay=0.0),
                eval_every_n_steps=max_steps,
                max_steps=max_steps,
                mini_batch_size=work.prompts,
                train_micro_batch_size=work.prompts,
                rollout_micro_batch_size=work.prompts,
                compute_logps_micro_batch_size=work.prompts,
            ),
            rollout_config=RolloutConfig(
                max_tokens_to_generate=work.completion,
                max_prompt_length=work.prompt,
                kv_cache_size=tokens_of(work),
                temperature=1.0,
                return_logprobs=True,
            ),
        ),
    )
    config = GRPOConfig(num_generations=max(work.group, 2), beta=0.0)
    return GRPOLearner(cluster, config, _first_is_even)


def _first_is_even(prompts, completions, **_):
    return [float(int(text.split()[0]) % 2 == 0) for text in completions]


def _update(work: Work) -> tuple[Once, dict]:
    trainer = _learner(work, max_steps=10**6).rl_cluster.actor_trainer
    train_step, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
    rng = np.random.default_rng(0)
    sizes = work.sequences, work.completion
    prompts = rng.integers(1, work.shape.vocabulary, (work.sequences, work.prompt))
    example = common.TrainExample(
        prompt_ids=jnp.asarray(prompts),
        prompt_mask=jnp.ones((work.sequences, work.prompt), bool),
        completion_ids=jnp.asarray(rng.integers(1, work.shape.vocabulary, sizes)),
        completion_mask=jnp.ones(sizes, bool),
        advantages=jnp.asarray(rng.integers(0, 2, work.sequences), jnp.float32),
        ref_per_token_logps=None,
        old_per_token_logps=jnp.asarray(
            rng.normal(-np.log(work.shape.vocabulary), 0.01, sizes), jnp.float32
        ),
    )

    def once():
        jax.block_until_ready((train_step(example), nnx.state(trainer.model)))

    return once, {}


def _steps(work: Work) -> tuple[Once, dict]:
    learner = _learner(work, max_steps=10**6)
    rng = np.random.default_rng(0)

    def batches():
        # The learner asks for one batch before it begins, and for one at the start of each step.
        yield {"prompts": np.array(texts(work, rng))}
        while True:
            jax.block_until_ready(nnx.state(learner.rl_cluster.actor_trainer.model))
            stepper.boundary()
            yield {"prompts": np.array(texts(work, rng))}

    stepper = Stepper(lambda: learner.train(batches()))

    def once():
        for _ in range(work.steps):
            stepper.step()

    return once, {"trainer": "GRPOLearner"}


if __name__ == "__main__":
    serve(prepare, ("google-tunix", "jax", "jaxlib", "flax", "optax", "numpy"))
