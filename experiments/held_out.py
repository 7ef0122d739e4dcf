"""pass@k of a policy, or of a checkpoint, on held-out prompts."""

import operator
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.checkpoints import Checkpoints
from experiments.experiment import Parts, Program, abstract_state
from experiments.learner import kept
from experiments.metric_writer import replacing
from fade_jax.pass_at_k import interval_over_problems, pass_at_k


class HeldOut(NamedTuple):
    """Outcomes on the held-out prompts.

    Attributes:
      num_correct: int [M], correct samples of each prompt.
      num_samples: n, samples of each prompt.
      entropy: mean token entropy, nats.
      length: mean tokens of a completion.
    """

    num_correct: np.ndarray
    num_samples: int
    entropy: float
    length: float


def run_held_out(parts: Parts, program: Program, params, verify: Callable, step: int) -> HeldOut:
    """Samples and verifies n completions of each held-out prompt.

    The same prompts at every step and for every method; fresh samples at every step.

    Args:
      parts: of the run.
      program: compiled functions.
      params: of the policy.
      verify: host verification, for host tasks.
      step: enters the sampling key.
    """
    settings = parts.config.evaluation
    prompts = jax.tree.map(np.asarray, parts.task.eval_prompts(settings.prompts))
    key = jax.random.fold_in(jax.random.key(settings.seed), step)
    correct, entropy, tokens = [], 0.0, 0.0
    calls = settings.prompts // settings.prompts_per_call
    parts_of_prompts = jax.tree.map(lambda x: x.reshape(calls, -1, *x.shape[1:]), prompts)
    for call in range(calls):
        part = jax.tree.map(operator.itemgetter(call), parts_of_prompts)
        call_key = jax.random.fold_in(key, call)
        if parts.task.on_device:
            rewards, rollouts = program.judge(params, parts.task, part, call_key)
        else:
            rollouts = program.sample_held_out(params, part._replace(verifier_inputs=()), call_key)
            rewards = verify(part.verifier_inputs, rollouts)
        correct.append(np.sum(np.asarray(rewards) > 0.5, axis=-1))
        entropy += float(np.sum(np.asarray(rollouts.entropies), dtype=np.float64))
        tokens += float(np.sum(np.asarray(rollouts.token_mask), dtype=np.float64))
    rollouts_total = settings.prompts * settings.samples
    return HeldOut(
        np.concatenate(correct), settings.samples, entropy / tokens, tokens / rollouts_total
    )


def save_counts(workdir: Path, step: int, held_out: HeldOut) -> None:
    """Writes evaluations/STEP.npz: num_correct [M] and num_samples, for comparisons by prompt."""
    directory = workdir / "evaluations"
    directory.mkdir(exist_ok=True)
    with replacing(directory / f"{step}.npz") as temporary, temporary.open("wb") as file:
        counts = held_out.num_correct.astype(np.int32)
        np.savez(file, num_correct=counts, num_samples=np.int32(held_out.num_samples))


def evaluation_line(
    parts: Parts, program: Program, params, verify, step: int, workdir: Path | None = None
) -> dict:
    """Returns the metrics of one evaluation, with 95% intervals over the prompts.

    Args:
      parts: of the run.
      program: compiled functions.
      params: of the policy.
      verify: host verification, for host tasks.
      step: enters the sampling key.
      workdir: of the run, which keeps the counts of every prompt; None keeps none.
    """
    start = time.perf_counter()
    held_out = run_held_out(parts, program, params, verify, step)
    if workdir is not None:
        save_counts(workdir, step, held_out)
    line = {}
    ks = tuple(parts.config.evaluation.ks)
    intervals = _intervals(held_out.num_correct, held_out.num_samples, ks)
    for k, interval in zip(ks, intervals):
        mean, low, high = (float(x) for x in interval)
        line |= {f"eval/pass@{k}": mean, f"eval/pass@{k}_low": low, f"eval/pass@{k}_high": high}
    return line | {
        "eval/entropy": held_out.entropy,
        "eval/length": held_out.length,
        "eval/seconds": time.perf_counter() - start,
    }


@partial(jax.jit, static_argnums=(1, 2))
def _intervals(num_correct, num_samples: int, ks: tuple[int, ...]):
    """pass@k of the prompts, mean, low and high, for each k; in one program, not 30 small ones."""
    return [interval_over_problems(pass_at_k(num_samples, num_correct, k)) for k in ks]


def restore_params(parts: Parts, members, hyper, workdir: str | Path, step: int | None):
    """Reads the policy of a run's checkpoint.

    Returns:
      (step, params).

    Raises:
      FileNotFoundError: if there is no readable checkpoint, or not the one asked for.
    """
    directory = Path(workdir) / "checkpoints"
    if not directory.exists():
        raise FileNotFoundError(f"there is no run in {workdir}: {directory} is missing")
    checkpoints = Checkpoints(directory, parts.config.checkpoint.keep)
    try:
        restored = checkpoints.restore(kept(abstract_state(parts, members, hyper), hyper), step)
    finally:
        checkpoints.close()
    if restored is None:
        raise FileNotFoundError(f"there is no readable checkpoint in {directory}")
    return restored[0], restored[1].params
