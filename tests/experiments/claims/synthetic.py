"""Sweeps with known solve rates: a share of the prompts is solved at one rate, the others never."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

STEPS, EVERY, PROMPTS, SAMPLES, GROUP = 100, 25, 64, 128, 8
START = (0.95, 0.11)  # share, rate


@dataclass(frozen=True)
class Truth:
    """What a method comes to, in a straight line from the start.

    Its pass@1 ends at share * rate, and its pass@100 at about share.
    """

    share: float = 0.8
    rate: float = 0.5
    entropy: float = 0.6
    rank: float = 0.4
    speed: float = 1.0  # the end is reached after steps / speed
    suppressed: int = 0  # first step with delta < 1
    advantage: tuple[str, dict] = ("dr_grpo", {})


def write_sweep(
    workdir: Path,
    truths: Mapping[str, Truth],
    seeds: Sequence[int] = range(5),
    *,
    unfinished: Sequence[str] = (),
    noise: float = 0.01,
    task: str = "graph",
    prompts: int = PROMPTS,
    steps: int = STEPS,
    every: int = EVERY,
    ks: Sequence[int] = (1, 10, 100),
    samples: int = SAMPLES,
) -> Path:
    """Writes a sweep as experiments.sweep does; `unfinished` runs stop after the first evaluation.

    All runs have the same prompts, of which the first are those that stay solved, and `noise` is
    the spread over seeds of the final rate.
    """
    names = []
    for method, truth in truths.items():
        for seed in seeds:
            name = f"{method}-seed{seed}"
            names.append(name)
            directory = workdir / "runs" / name
            (directory / "evaluations").mkdir(parents=True)
            last = every if name in unfinished else steps
            config = _config(truth, seed, task, steps, every, prompts, samples)
            (directory / "config.json").write_text(json.dumps(config))
            lines = _lines(directory, truth, seed, noise, prompts, last, steps, every, ks, samples)
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (directory / "metrics.jsonl").write_text(text)
            if name not in unfinished:
                result = {"params_sha256": f"{seed + 1:064x}"}
                (directory / "result.json").write_text(json.dumps(result))
    # A field that no config has: of equal settings in two sweeps the truths may differ.
    runs = [{"name": name, "overrides": {"truth": name}} for name in names]
    (workdir / "sweep.json").write_text(json.dumps({"runs": runs}))
    return workdir


def _config(truth, seed, task, steps, every, prompts, samples) -> dict:
    name, kwargs = truth.advantage
    return {
        "seed": seed,
        "steps": steps,
        "group_size": GROUP,
        "prompts": 16,
        "task": {"name": task, "kwargs": {}},
        "advantage": {"name": name, "kwargs": kwargs},
        "optimizer": {"name": "adamw", "learning_rate": 6e-4},
        "warm_start": {"steps": 280, "workdir": str(seed)},
        "evaluation": {"every": every, "prompts": prompts, "samples": samples},
    }


def _lines(directory, truth, seed, noise, prompts, last, steps, every, ks, samples) -> list[dict]:
    random = np.random.default_rng(1000 + seed)
    shift = random.normal(0, noise)
    lines = []
    for step in range(last + 1):
        done = min(truth.speed * step / steps, 1)
        entropy = 1.3 + (truth.entropy - 1.3) * done
        if step % every == 0:
            share = START[0] + (truth.share - START[0]) * done
            rate = START[1] + (truth.rate + shift - START[1]) * done
            solved = np.arange(prompts) < round(share * prompts)
            counts = np.random.default_rng(step).binomial(samples, rate, prompts) * solved
            np.savez(
                directory / "evaluations" / f"{step}.npz", num_correct=counts, num_samples=samples
            )
            line = {"step": step, "eval/entropy": entropy + shift, "eval/length": 6.0}
            lines.append(line | {f"eval/pass@{k}": _pass(counts, samples, k) for k in ks})
        if step:
            lines.append(_train_line(step, done, entropy, truth, random))
    return lines


def _pass(counts, samples: int, k: int) -> float:
    """By the definition: 1 - C(n-c, k)/C(n, k), in whole numbers."""
    subsets = math.comb(samples, k)
    missed = [math.comb(samples - int(c), k) / subsets for c in counts]
    return float(1 - np.mean(missed))


def _train_line(step: int, done: float, entropy: float, truth: Truth, random) -> dict:
    solve = random.beta(0.5 + 2 * done, 2.0, 16)
    counts = random.binomial(GROUP, solve)
    line = {
        "step": step,
        "reward": float(solve.mean()),
        "solve_rate": float(solve.mean()),
        "entropy": entropy + random.normal(0, 0.02),
        "mass_success": 0.1,
        "mass_failure": 0.1,
        "sign_ratio": 1.0,
        "zero_variance_fraction": 0.2,
        "solve_rate_histogram": np.bincount(counts, minlength=GROUP + 1).tolist(),
    }
    if step % 10 == 0:
        line["rank_one_fraction"] = 0.1 + (truth.rank - 0.1) * done
    if truth.suppressed:
        line |= {"alpha": 3 - done, "delta": 1.0 if step < truth.suppressed else 0.7}
    return line
