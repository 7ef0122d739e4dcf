"""The fade_jax side of the benchmark: step functions of a run in a timed process, and sweeps.

The end token is outside the vocabulary, so no completion ends early. The update reads the exact
entropies that sampling has stored in the rollouts.
"""

import dataclasses
import math
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.compilation import compiler_options
from experiments.config import default_config
from experiments.experiment import Experiment, assemble, build_experiment, initial_params
from experiments.learner import hyperparameters
from experiments.models.config import ModelConfig
from experiments.perf.flops import learn_flops, sample_flops, work_of
from experiments.perf.worker import (
    ONE_THREAD,
    SHAPES,
    RunOnce,
    Worker,
    Workload,
    pinned,
    serve,
)
from experiments.rollout import Rollouts
from experiments.sharding import make_mesh
from experiments.step_functions import make_sample_fn, sampling_key
from experiments.tasks.base import Prompts
from fade_jax.entropies import log_prob_and_entropy

SWEEP_CONFIG = "configs/sweeps/benchmark.py"
SWEEP_RUNS = 16
_SWEEP_STEPS = Workload("sweep_steps", "sweep_steps", SHAPES["tiny"], 1, 1, 1, 1, steps=10)


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
        """Returns the prompts of a step, all of full length."""
        key = jax.random.fold_in(jax.random.key(seed), step)
        tokens = jax.random.randint(key, (count, self.max_prompt), 0, self.vocab_size, jnp.int32)
        return Prompts(tokens, jnp.full(count, self.max_prompt, jnp.int32), ())

    def verify(self, verifier_inputs, tokens, mask) -> jax.Array:
        """Returns rewards [P, G]."""
        return (tokens[..., 0] % 2 == 0).astype(jnp.float32)


def make_experiment(workload: Workload, dtype: str = "float32") -> Experiment:
    """Returns an experiment with the sizes of `workload`, all else by default but the dtype."""
    config, shape = default_config(), workload.shape
    config.prompts, config.group_size = workload.prompts, workload.group_size
    config.steps_per_call = workload.steps
    # With one rollout per group, an advantage relative to the group would be 0.
    config.advantage = {"name": "grpo" if workload.group_size > 1 else "reinforce", "kwargs": {}}
    config.warm_start.steps = 0
    if workload.kind == "update" and workload.lengths != "fixed":
        config.learner.packed_tokens = 2 * workload.tokens
    elif workload.kind == "update" and shape.d_model < 384:  # parts that fit a core's cache
        fit = max(workload.sequences * workload.tokens // 512, 1)
        config.learner.microbatches = math.gcd(workload.prompts, fit)
    config.learner.head_rank = workload.kind != "update"  # the baselines do not measure it
    if workload.kind == "rollout":
        config.sampling.loops = 6 if workload.lengths == "geometric" else 1
        config.sampling.slots = workload.sequences // 4 if workload.variant == "slots" else 0
        config.optimizer.name = "sgd"  # the samplers of the baselines hold no optimizer state
    model = ModelConfig(
        vocab_size=shape.vocab_size,
        num_layers=shape.num_layers,
        d_model=shape.d_model,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.d_model // shape.num_heads,
        d_ff=shape.d_ff,
        tied_head=True,
        max_positions=workload.tokens,
        dtype=dtype,
        remat=config.model.remat,
        remat_keeps="products" if workload.variant == "kept" else "nothing",
    )
    task: Any = RandomTask(shape.vocab_size, workload.prompt, workload.completion)
    return assemble(config, make_mesh(config.mesh), task, model)


class Call(NamedTuple):
    """A jitted step function and its arguments.

    Attributes:
      function: of experiments.step_functions.RLFns.
      arguments: the train state first.
      carries: whether the state is donated, and replaced by the first result.
      notes: to report.
    """

    function: Callable
    arguments: tuple
    carries: bool
    notes: dict


def call_of(workload: Workload, dtype: str = "float32") -> Call:
    """Returns the call of a rollout, an update or a whole step of `workload`."""
    experiment = make_experiment(workload, dtype)
    rl, task = experiment.rl, experiment.task
    hyper = hyperparameters(experiment.config, experiment.methods)
    state = rl.init(hyper, initial_params(experiment))
    prompts = task.train_prompts(0, 0, workload.prompts)
    notes: dict[str, Any] = {"remat": experiment.model.remat}
    if workload.kind == "rollout" and workload.lengths == "geometric":
        return Call(_sample_to(workload, experiment), (state, prompts), False, notes)
    if workload.kind == "rollout":
        notes["flop"] = sample_flops(work_of(experiment)).total
        return Call(rl.sample, (state, prompts), False, notes)
    if workload.kind == "update":
        if workload.lengths == "fixed":
            notes["flop"] = learn_flops(work_of(experiment)).total
        rollouts = random_rollouts(workload)
        rewards = task.verify((), rollouts.tokens, rollouts.token_mask)
        rewards += 1  # an update may leave completions without a gradient out
        return Call(rl.update, (state, hyper, prompts, rollouts, rewards), True, notes)
    return Call(rl.train_steps, (state, task, hyper, workload.steps), True, notes)


def _sample_to(workload: Workload, experiment: Experiment) -> Callable:
    """Returns the rollout step, whose completions end at the lengths of the workload."""
    sizes = workload.prompts, workload.group_size
    limits = jnp.array(workload.completion_lengths(), jnp.int32).reshape(sizes)
    config, model = experiment.config, experiment.model
    draw = make_sample_fn(config, experiment.mesh, experiment.task, model, limits)

    def sample(state, prompts):
        key = sampling_key(config, state.key, state.step, 0)
        return draw(state.params, prompts, key, workload.group_size)

    return jax.jit(sample, compiler_options=compiler_options(config, model))


def repeated(call: Call) -> RunOnce:
    """Returns a function that makes the call and waits for its results."""
    arguments = list(call.arguments)

    def run_once():
        results = jax.block_until_ready(call.function(*arguments))
        if call.carries:
            arguments[0] = results[0]

    return run_once


def random_rollouts(workload: Workload) -> Rollouts:
    """Returns completions [P, G, T] with nearly uniform log-probs, as of a random policy."""
    rng = np.random.default_rng(0)
    shape = (workload.prompts, workload.group_size, workload.completion)
    nats = np.float32(np.log(workload.shape.vocab_size))
    noise = rng.normal(0, 0.01, shape).astype(np.float32)
    tokens = rng.integers(0, workload.shape.vocab_size, shape, np.int32)
    lengths = np.reshape(workload.completion_lengths(), shape[:2])
    mask = (np.arange(workload.completion) < lengths[..., None]).astype(np.float32)
    arrays = np.where(mask > 0, tokens, 0), mask, (noise - nats) * mask, nats * mask
    return Rollouts(*map(jnp.asarray, arrays))


def prepare(workload: Workload) -> tuple[RunOnce, dict]:
    """Prepares a workload for `serve`."""
    device = jax.devices()[0]
    notes = {"backend": jax.default_backend(), "device": device.device_kind}
    makers = {"product": _product, "head": head_call, "sweep_steps": _sweep_steps}
    if workload.kind in makers:
        run_once, more = makers[workload.kind](workload)
        return run_once, notes | more
    call = call_of(workload)
    return repeated(call), notes | call.notes


def device_peak() -> dict:
    """Returns the peak of the accelerator's memory; None on a CPU."""
    statistics = jax.devices()[0].memory_stats() or {}
    return {"device_bytes": statistics.get("peak_bytes_in_use")}


def _product(workload: Workload) -> tuple[RunOnce, dict]:
    matrix = jnp.ones((workload.prompt, workload.prompt))
    product = jax.jit(jnp.matmul)
    return lambda: product(matrix, matrix).block_until_ready(), {}


def _logits_head(hidden, unembedding, targets):
    """The head with the logits of all tokens at once."""
    log_p = jax.nn.log_softmax(hidden @ unembedding.T)
    log_prob = jnp.take_along_axis(log_p, targets[:, None], axis=1)[:, 0]
    return log_prob, -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def _rows_head(hidden, unembedding, targets):
    """The head with the logits of 128 tokens at a time, computed again in the backward pass."""
    rows = math.gcd(128, targets.size)

    @jax.checkpoint
    def block(hidden_and_targets):
        return _logits_head(hidden_and_targets[0], unembedding, hidden_and_targets[1])

    blocks = hidden.reshape(-1, rows, hidden.shape[1]), targets.reshape(-1, rows)
    log_prob, entropy = jax.lax.map(block, blocks)
    return log_prob.reshape(-1), entropy.reshape(-1)


_HEADS = {"": partial(log_prob_and_entropy, chunk=512), "rows": _rows_head, "logits": _logits_head}
# Products of the size of the logits: forward, two backward, and the logits again if not stored.
_HEAD_PRODUCTS = {"": 4, "rows": 4, "logits": 3}


def head_call(workload: Workload, dtype: str = "float32") -> tuple[RunOnce, dict]:
    """Log-prob, entropy and the gradients of both inputs; hidden states are in `dtype`."""
    tokens, shape = workload.sequences * workload.tokens, workload.shape
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((tokens, shape.d_model), np.float32)
    unembedding = rng.standard_normal((shape.vocab_size, shape.d_model), np.float32)
    unembedding *= 2 / shape.d_model**0.5
    targets = rng.integers(0, shape.vocab_size, tokens)
    inputs = jnp.asarray(hidden, dtype), jnp.asarray(unembedding), jnp.asarray(targets)

    def loss(hidden, unembedding, targets):
        log_prob, entropy = _HEADS[workload.variant](hidden, unembedding, targets)
        return jnp.mean(log_prob) + 0.1 * jnp.mean(entropy)

    step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    products = _HEAD_PRODUCTS[workload.variant]
    flop = products * 2 * tokens * shape.d_model * shape.vocab_size
    return lambda: jax.block_until_ready(step(*inputs)), {"flop": flop}


def sweep_call(steps: int, runs: int = 0) -> Call:
    """Returns the call of steps of the benchmark's sweep, by the program of all its methods.

    Args:
      steps: of a run.
      runs: in one vmapped call; 0 for a run alone.
    """
    file = runpy.run_path(SWEEP_CONFIG)
    config = file["get_config"]()
    experiment = build_experiment(config, list(file["METHODS"].values()))
    hyper = hyperparameters(config, experiment.methods)
    state = experiment.rl.init(hyper, initial_params(experiment))
    function = experiment.rl.train_steps
    if runs:
        function = experiment.rl.train_steps_vmapped
        state, hyper = jax.tree.map(lambda x: jnp.stack([x] * runs), (state, hyper))
    return Call(function, (state, experiment.task, hyper, steps), carries=True, notes={})


def _sweep_steps(workload: Workload) -> tuple[RunOnce, dict]:
    return repeated(sweep_call(workload.steps)), {}


def time_sweep(steps: int, repeats: int, core: int | None, log: Callable[[str], None]) -> dict:
    """Times the pure steps of a run, and each way to run the benchmark's sweep once.

    Args:
      steps: of each run, a multiple of 10.
      repeats: of the pure steps.
      core: that all of it runs on; None for no pinning.
      log: shows progress.

    Raises:
      RuntimeError: if the pure steps fail.
    """
    log("sweep: pure steps")
    worker = Worker(sys.executable, "fade_jax_worker", _SWEEP_STEPS, core)
    try:
        for word in ["", *["go"] * repeats]:
            worker.request(word)
    finally:
        worker.stop()
    if not worker.result["seconds"]:
        raise RuntimeError(f"the steps of the sweep {worker.result['status']}")
    step_s = statistics.median(worker.result["seconds"]) / _SWEEP_STEPS.steps
    base = [sys.executable, "-m", "experiments.run", f"--config={SWEEP_CONFIG}", "--noreport"]
    base += [f"--config.steps={steps}", f"--config.evaluation.every={steps}"]
    base += [f"--config.checkpoint.every={steps}"]
    ways = {
        "one vmapped program": (["--config.sweep.mode=vmap"], 1),
        "a process for each core": (["--config.sweep.mode=processes"], 1),
        # One of them is timed, since all take as long.
        f"{SWEEP_RUNS} commands": (
            ["--config.sweep.mode=serial", f"--shard=0/{SWEEP_RUNS}"],
            SWEEP_RUNS,
        ),
    }
    modes = []
    for title, (more, factor) in ways.items():
        log(f"sweep: {title}")
        with tempfile.TemporaryDirectory() as workdir:
            command = pinned([*base, *more, f"--workdir={workdir}"], core)
            start = time.perf_counter()
            done = subprocess.run(
                command, env=os.environ | ONE_THREAD, capture_output=True, text=True
            )
        mode = {"title": title, "seconds": (time.perf_counter() - start) * factor}
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            mode |= {"seconds": None, "status": f"failed, exit code {done.returncode}: {last}"}
        modes.append(mode)
    return {"runs": SWEEP_RUNS, "steps": steps, "step_s": step_s, "modes": modes}


if __name__ == "__main__":
    serve(prepare, ("jax", "jaxlib", "flax", "optax", "numpy"), at_end=device_peak)
