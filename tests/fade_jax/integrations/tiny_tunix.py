"""A run of tunix's own GRPO learner small enough for a test: one layer, eleven words."""

from dataclasses import dataclass

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
from tunix.models.llama3.model import Llama3, ModelConfig

PROMPTS, GENERATIONS, STEPS = 4, 4, 2
PROMPT_TOKENS, NEW_TOKENS = 4, 3  # the first of a prompt is the one that tunix puts before it
PAD, END, VOCABULARY = 0, 2, 11


class Numbers:
    """Token ids written as numbers."""

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(str(i) for i in ids)

    def pad_id(self):
        return PAD

    def bos_id(self):
        return 1

    def eos_id(self):
        return END


def even_first_word(completions):
    """Each completion is judged by its first word; an empty one has failed."""
    first = [int(text.split()[0]) if text else 1 for text in completions]
    return [float(word % 2 == 0) for word in first]


def batches(num, seed):
    for prompts in np.random.default_rng(seed).integers(
        3, VOCABULARY, (num, PROMPTS, PROMPT_TOKENS - 1)
    ):
        yield {"prompts": np.array([" ".join(map(str, prompt)) for prompt in prompts])}


def make_cluster():
    model = Llama3(
        ModelConfig(
            num_layers=1,
            vocab_size=VOCABULARY,
            embed_dim=16,
            hidden_dim=16,
            num_heads=2,
            head_dim=8,
            num_kv_heads=1,
            rope_theta=10_000,
            norm_eps=1e-5,
        ),
        rngs=nnx.Rngs(0),
    )
    # As initialised the policy is uniform, and any entropy would be log(11).
    model.lm_head.w[...] = 40 * model.lm_head.w[...]
    one_device = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    return RLCluster(
        actor=model,
        tokenizer=Numbers(),
        cluster_config=ClusterConfig(
            role_to_mesh=dict.fromkeys((Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), one_device),
            training_config=RLTrainingConfig(
                actor_optimizer=optax.adam(0.01),
                eval_every_n_steps=1,
                max_steps=STEPS,
                mini_batch_size=PROMPTS,
                train_micro_batch_size=PROMPTS,
                # Two calls of the sampler for one batch of advantages.
                rollout_micro_batch_size=PROMPTS // 2,
                compute_logps_micro_batch_size=PROMPTS,
            ),
            rollout_config=RolloutConfig(
                max_tokens_to_generate=NEW_TOKENS,
                max_prompt_length=PROMPT_TOKENS,
                kv_cache_size=PROMPT_TOKENS + NEW_TOKENS,
                temperature=1.0,
                return_logprobs=True,
            ),
        ),
    )


def parameters(cluster):
    return [np.array(x) for x in jax.tree.leaves(nnx.state(cluster.actor_trainer.model))]


@dataclass
class Batch:
    """What tunix itself shows of one batch: to its reward and to its metric functions."""

    mode: str
    rewards: np.ndarray
    advantages: np.ndarray


def train(cluster, advantage_estimator, num_eval_batches=0):
    """Train for STEPS steps with tunix's learner, evaluating before each; what it was given."""
    seen = []

    def record(prompts, completions, rewards, advantages, mode=None, **_):
        del prompts, completions
        seen.append(Batch(modes.pop(), np.array(rewards), np.array(advantages)))
        return {}

    modes = []

    def reward(prompts, completions, mode, **_):
        modes.append(mode)
        return even_first_word(completions)

    config = GRPOConfig(
        advantage_estimator=advantage_estimator, num_generations=GENERATIONS, beta=0.0
    )
    learner = GRPOLearner(cluster, config, reward, metric_fns=[record])
    evaluation = list(batches(num_eval_batches, seed=1))
    learner.train(batches(STEPS, seed=0), evaluation or None)
    return seen


def watch_entropies(cluster):
    """Sum of -log π over the sampler's tokens, and their number, by a pass without a cache.

    Returns a list that grows by a pair with each call of the sampler.
    """
    seen = []
    generate = cluster.rollout.generate

    @nnx.jit
    def log_probs(model, tokens):
        length = tokens.shape[1]
        causal = jnp.tril(jnp.ones((1, length, length), bool))
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        logits, _ = model(tokens, positions, None, causal)
        return jax.nn.log_softmax(logits.astype(jnp.float32))

    def watched(prompts, config):
        output = generate(prompts, config)
        tokens = np.zeros((len(prompts), PROMPT_TOKENS + NEW_TOKENS), np.int32)
        tokens[:, :PROMPT_TOKENS] = output.left_padded_prompt_tokens
        for row, drawn in zip(tokens, output.tokens):
            row[PROMPT_TOKENS : PROMPT_TOKENS + len(drawn)] = drawn
        next_word = np.asarray(log_probs(cluster.actor_trainer.model, jnp.asarray(tokens)))
        total = 0.0
        for of_row, drawn in zip(next_word[:, PROMPT_TOKENS - 1 :], output.tokens):
            total -= sum(of_row[t, word] for t, word in enumerate(drawn))
        seen.append((total, sum(map(len, output.tokens))))
        return output

    cluster.rollout.generate = watched
    return seen
