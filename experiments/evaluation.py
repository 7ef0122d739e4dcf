"""Evaluation of a policy: pass@k on the held-out prompts of a config.

Below: experiment, checkpoints, workdir. Above: train, evaluate.
"""

import json
import operator
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import workdir as workdirs
from experiments.checkpoints import Checkpoints
from experiments.experiment import (
    Experiment,
    abstract_checkpoint,
)
from experiments.metric_writer import plain_tree, replacing
from experiments.tasks.base import Prompts, eos_ids
from experiments.warm_start import start_params
from fade_jax.pass_at_k import interval_over_problems, pass_at_k

# Stream of evaluation under its seed. Training folds its step, which is below 2^31, into its seed.
STREAM = np.uint32(2**32 - 1)


class HeldOut(NamedTuple):
    """Outcomes on the held-out prompts.

    Attributes:
      num_correct: int [M], correct samples of each prompt.
      num_samples: n, samples of each prompt.
      entropy: mean token entropy, nats.
      length: mean tokens of a completion.
      distinct: mean number of different right completions of a prompt, by their tokens.
      truncated: fraction of the completions that have no end.
      unknown: samples that could not be verified; they count as wrong.
      shown: some prompts with all their completions, for people to read; see `_shown`.
    """

    num_correct: np.ndarray
    num_samples: int
    entropy: float
    length: float
    distinct: float
    truncated: float
    unknown: int
    shown: list[dict]


def evaluate(experiment: Experiment, params, rewards_of: Any, step: int) -> HeldOut:
    """Samples and verifies n completions of each held-out prompt.

    The same prompts at every step and for every method; fresh samples at every step.

    Args:
      experiment: of the run.
      params: of the policy.
      rewards_of: verification on the host, for a host task.
      step: enters the sampling key.
    """
    settings, task, rl = experiment.config.evaluation, experiment.task, experiment.rl
    prompts = jax.tree.map(np.asarray, task.eval_prompts(settings.prompts))
    stream = jax.random.fold_in(jax.random.key(np.uint32(settings.seed)), STREAM)
    key = jax.random.fold_in(stream, step)
    correct, distinct, entropy, tokens, ended, unknown = [], 0, 0.0, 0.0, 0, 0
    shown: list[dict] = []
    calls = settings.prompts // settings.prompts_per_call
    batches = jax.tree.map(lambda x: x.reshape(calls, -1, *x.shape[1:]), prompts)
    for call in range(calls):
        batch = jax.tree.map(operator.itemgetter(call), batches)
        call_key = jax.random.fold_in(key, call)
        if task.on_device:
            rewards, rollouts = rl.evaluate(params, task, batch, call_key)
        else:
            rollouts = rl.sample_held_out(params, batch._replace(verifier_inputs=()), call_key)
            rewards, counts, verdicts = rewards_of(batch.verifier_inputs, rollouts)
            unknown += counts["verification/unknown"]
            left = settings.shown_prompts - len(shown) // settings.samples
            if left > 0 and verdicts and hasattr(task, "decoded"):
                first = call * settings.prompts_per_call
                shown += _shown(task, batch, rollouts, dict(list(verdicts.items())[:left]), first)
        solved_at = getattr(task, "solved_at", 1.0)
        right = np.asarray(rewards) >= solved_at
        correct.append(np.sum(right, axis=-1))
        distinct += count_distinct(np.asarray(rollouts.tokens), right)
        entropy += float(np.sum(np.asarray(rollouts.entropies), dtype=np.float64))
        mask = np.asarray(rollouts.token_mask)
        tokens += float(np.sum(mask, dtype=np.float64))
        ends = np.isin(np.asarray(rollouts.tokens), eos_ids(task)) & (mask > 0)
        ended += int(np.sum(np.any(ends, axis=-1)))
    total = settings.prompts * settings.samples
    return HeldOut(
        np.concatenate(correct),
        settings.samples,
        entropy / tokens,
        tokens / total,
        distinct / settings.prompts,
        1 - ended / total,
        unknown,
        shown,
    )


def count_distinct(tokens: np.ndarray, right: np.ndarray) -> int:
    """Counts different right completions of each prompt, and adds the counts up.

    Args:
      tokens: [P, G, T], the same token after the end of every completion.
      right: bool [P, G].
    """
    return sum(
        len(np.unique(group[solved], axis=0))
        for group, solved in zip(tokens, right)
        if solved.any()
    )


def _shown(task: Any, batch: Prompts, rollouts, verdicts: dict[int, list], first: int) -> list:
    """Returns a dict per completion of the prompts in `verdicts`: texts, reward, verdict."""
    rows = np.array(list(verdicts))
    texts, _ = task.decoded(
        np.asarray(rollouts.tokens)[rows], np.asarray(rollouts.token_mask)[rows]
    )
    lengths = np.asarray(rollouts.token_mask)[rows].sum(axis=-1).astype(int).tolist()
    return [
        {
            "index": first + row,
            "prompt": task.tokenizer.decode(batch.tokens[row][: int(batch.length[row])].tolist()),
            "completion": text,
            "tokens": tokens,
            "reward": verdict.reward,
            "verdict": verdict.kind,
            "detail": verdict.detail,
            "seconds": verdict.seconds,
            **{f"reward/{name}": reward for name, reward in verdict.parts},
        }
        for row, group, counts in zip(rows.tolist(), texts, lengths)
        for text, tokens, verdict in zip(group, counts, verdicts[row])
    ]


def evaluation_metrics(
    experiment: Experiment, params, rewards_of, step: int, workdir: Path | None = None
) -> dict:
    """Returns the metrics of one evaluation, with 95% intervals over the prompts.

    Args:
      experiment: of the run.
      params: of the policy.
      rewards_of: verification on the host, for a host task.
      step: enters the sampling key.
      workdir: of the run, which keeps the counts of every prompt; None keeps none.
    """
    start = time.perf_counter()
    held_out = evaluate(experiment, params, rewards_of, step)
    if workdir is not None:
        _save_counts(workdir, step, held_out)
        if held_out.shown:
            _save_samples(workdir, step, held_out.shown)
    metrics = {}
    ks = tuple(experiment.config.evaluation.ks)
    intervals = _intervals(held_out.num_correct, held_out.num_samples, ks)
    for k, interval in zip(ks, intervals):
        mean, low, high = (float(x) for x in interval)
        metrics |= {f"eval/pass@{k}": mean, f"eval/pass@{k}_low": low, f"eval/pass@{k}_high": high}
    return metrics | {
        "eval/entropy": held_out.entropy,
        "eval/length": held_out.length,
        "eval/distinct": held_out.distinct,
        "eval/truncated_fraction": held_out.truncated,
        "eval/unknown": held_out.unknown,
        "eval/seconds": time.perf_counter() - start,
    }


# One program for all k, not 30 small ones.
@partial(jax.jit, static_argnums=(1, 2))
def _intervals(num_correct, num_samples: int, ks: tuple[int, ...]):
    return [interval_over_problems(pass_at_k(num_samples, num_correct, k)) for k in ks]


def _save_counts(workdir: Path, step: int, held_out: HeldOut) -> None:
    """Writes evaluations/STEP.npz: num_correct [M] and num_samples, for comparisons by prompt."""
    directory = workdir / "evaluations"
    directory.mkdir(exist_ok=True)
    with replacing(directory / f"{step}.npz") as temporary, temporary.open("wb") as file:
        counts = held_out.num_correct.astype(np.int32)
        np.savez(file, num_correct=counts, num_samples=np.int32(held_out.num_samples))


def _save_samples(workdir: Path, step: int, shown: list[dict]) -> None:
    """Writes samples/STEP.jsonl, a line per completion."""
    directory = workdir / "samples"
    directory.mkdir(exist_ok=True)
    with replacing(directory / f"{step}.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(plain_tree(line)) + "\n" for line in shown))


def restore_trained(experiment: Experiment, workdir: str | Path, step: int | None = None):
    """Reads what a run's checkpoint holds of the policy; nothing is moved.

    Args:
      experiment: of the run.
      workdir: of the run.
      step: of the checkpoint; None for the newest that is whole.

    Returns:
      (step, params), with LoRA the adapters alone.

    Raises:
      FileNotFoundError: if there is no readable checkpoint, or not the one asked for.
      DifferentStateError, DamagedError: see Checkpoints.restore.
    """
    directory = workdirs.directory(workdir) / "checkpoints"
    if not directory.exists():
        raise FileNotFoundError(f"there is no run in {workdir}: {directory} is missing")
    with closing(Checkpoints(directory, experiment.config.checkpoint.keep)) as checkpoints:
        restored = checkpoints.restore(abstract_checkpoint(experiment), step)
    if restored is None:
        raise FileNotFoundError(f"there is no readable checkpoint in {directory}")
    return restored[0], restored[1].params


def restore_params(experiment: Experiment, workdir: str | Path, step: int | None = None):
    """Reads the whole policy of a run's checkpoint; nothing is moved.

    Adapters are merged into the parameters that RL started from.

    Args:
      experiment: of the run.
      workdir: of the run.
      step: of the checkpoint; None for the newest that is whole.

    Returns:
      (step, params).

    Raises:
      FileNotFoundError: as `restore_trained`, or if adapters have lost their warm start.
      DifferentStateError, DamagedError: see Checkpoints.restore.
    """
    step, params = restore_trained(experiment, workdir, step)
    if experiment.config.lora.rank:
        start = start_params(experiment, workdirs.directory(workdir))
        params = experiment.rl.merge(params, experiment.rl.freeze(start))
    return step, params
