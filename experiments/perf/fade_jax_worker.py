"""Our side: what a run does, through the program that a run compiles.

The sampler forbids nothing, but its end token lies outside of the vocabulary, so that no completion
ends early. The update reads the exact entropies that sampling has left in the rollouts.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import advantages
from experiments.benchmarks import head
from experiments.benchmarks.works import Work, tokens_of
from experiments.config import default_config
from experiments.experiment import Parts, make_program, starting_params
from experiments.learner import hyperparameters
from experiments.models.config import ModelConfig
from experiments.perf.flops import learn_flops, sample_flops, work_of
from experiments.perf.worker import Once, serve
from experiments.rollout import Rollouts
from experiments.sharding import make_mesh
from experiments.tasks.base import Prompts
from experiments.train import Compiled


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[],
    meta_fields=["vocab_size", "max_prompt", "max_completion"],
)
@dataclasses.dataclass(frozen=True)
class RandomTask:
    """Random prompts; a completion succeeds if its first token is even."""

    vocab_size: int
    max_prompt: int
    max_completion: int

    on_device = True
    pad_id = 0

    @property
    def eos_id(self) -> int:
        """A token that is never sampled."""
        return self.vocab_size

    def train_prompts(self, seed, step, count: int) -> Prompts:
        """The prompts of a step, all of full length."""
        key = jax.random.fold_in(jax.random.key(seed), step)
        tokens = jax.random.randint(key, (count, self.max_prompt), 0, self.vocab_size, jnp.int32)
        return Prompts(tokens, jnp.full(count, self.max_prompt, jnp.int32), ())

    def verify(self, facts, tokens, mask) -> jax.Array:
        """Rewards [P, G]."""
        return (tokens[..., 0] % 2 == 0).astype(jnp.float32)


def compile_work(work: Work) -> Compiled:
    """The parts and the program of a run with the sizes of `work`, all else by default."""
    config, shape = default_config(), work.shape
    config.prompts, config.group_size = work.prompts, work.group
    config.steps_per_call = work.steps
    # With one rollout a group, an advantage that compares within the group would be 0.
    config.advantage = {"name": "grpo" if work.group > 1 else "reinforce", "kwargs": {}}
    config.warm_start.steps = 0
    config.learner.head_rank = work.kind != "update"  # which the peers do not measure
    if work.kind == "rollout":
        config.optimizer.name = "sgd"  # the peers' samplers hold no optimiser state either
    model = ModelConfig(
        vocab_size=shape.vocabulary,
        num_layers=shape.layers,
        d_model=shape.width,
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        head_dim=shape.width // shape.heads,
        d_ff=shape.hidden,
        tied_head=True,
        max_positions=tokens_of(work),
        dtype=config.model.dtype,
        remat=config.model.remat,
        remat_keeps=work.keeps,
    )
    task = RandomTask(shape.vocabulary, work.prompt, work.completion)
    parts = Parts(config, make_mesh(config.mesh), task, model, None)
    members = advantages.members_of([(config.advantage.name, {})])
    return Compiled(parts, members, make_program(parts, members), None)


class Call(NamedTuple):
    """A jitted function of the program, and what one step calls it with.

    Attributes:
      function: of experiments.experiment.Program.
      arguments: the train state first.
      carries: whether the state is donated, and the first result takes its place.
      notes: what is good to know of it.
    """

    function: Callable
    arguments: tuple
    carries: bool
    notes: dict


def call_of(work: Work) -> Call:
    """The step that a rollout, an update or a whole step of `work` consists of."""
    parts, members, program, _ = compile_work(work)
    hyper = hyperparameters(parts.config, members)
    state = program.init(hyper, starting_params(parts))
    prompts = parts.task.train_prompts(0, 0, work.prompts)
    notes = {"remat": parts.model.remat}
    if work.kind == "rollout":
        notes["flop"] = sample_flops(work_of(parts)).total
        return Call(program.sample, (state, prompts), False, notes)
    if work.kind == "update":
        notes["flop"] = learn_flops(work_of(parts)).total
        rollouts = random_rollouts(work)
        rewards = parts.task.verify((), rollouts.tokens, rollouts.token_mask)
        return Call(program.learn, (state, hyper, prompts, rollouts, rewards), True, notes)
    return Call(program.advance, (state, parts.task, hyper, work.steps), True, notes)


def repeated(call: Call) -> Once:
    """The call as a function that does it once more each time."""
    arguments = list(call.arguments)

    def once():
        results = jax.block_until_ready(call.function(*arguments))
        if call.carries:
            arguments[0] = results[0]

    return once


def random_rollouts(work: Work) -> Rollouts:
    """Completions as a sampler would leave them, [P, G, T]."""
    rng = np.random.default_rng(0)
    shape = (work.prompts, work.group, work.completion)
    nats = np.float32(np.log(work.shape.vocabulary))
    noise = rng.normal(0, 0.01, shape).astype(np.float32)
    return Rollouts(
        jnp.asarray(rng.integers(0, work.shape.vocabulary, shape, np.int32)),
        jnp.ones(shape),
        jnp.asarray(noise - nats),
        jnp.full(shape, nats),
    )


def prepare(work: Work) -> tuple[Once, dict]:
    """For `serve`: the work as a function, with what is good to know of it."""
    device = jax.devices()[0]
    notes = {"backend": jax.default_backend(), "device": device.device_kind}
    if work.kind in ("product", "head"):
        return {"product": _product, "head": _head}[work.kind](work), notes
    call = call_of(work)
    return repeated(call), notes | call.notes


def device_peak() -> dict:
    """For `serve`: the peak of the accelerator's memory; of a CPU there is none."""
    statistics = jax.devices()[0].memory_stats() or {}
    return {"device_bytes": statistics.get("peak_bytes_in_use")}


def _product(work: Work) -> Once:
    matrix = jnp.ones((work.prompt, work.prompt))
    product = jax.jit(jnp.matmul)
    return lambda: product(matrix, matrix).block_until_ready()


def _head(work: Work) -> Once:
    tokens = work.sequences * tokens_of(work)
    inputs = head.inputs(tokens, work.shape.width, work.shape.vocabulary)

    def loss(hidden, unembedding, targets):
        log_prob, entropy = head.IMPLEMENTATIONS["fused"](hidden, unembedding, targets)
        return jnp.mean(log_prob) + 0.1 * jnp.mean(entropy)

    step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    return lambda: jax.block_until_ready(step(*inputs))


if __name__ == "__main__":
    serve(prepare, ("jax", "jaxlib", "flax", "optax", "numpy"), at_end=device_peak)
