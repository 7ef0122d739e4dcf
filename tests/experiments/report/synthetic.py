"""Workdirs with plausible curves, in the format of training."""

import json
import math
from pathlib import Path

import numpy as np

STEPS, EVERY, GROUP, PROMPTS = 120, 20, 8, 16

# name, kwargs, final pass@1, final pass@100, final entropy
METHODS = {
    "grpo": ("grpo", {}, 0.47, 0.84, 0.35),
    "power3": ("power", {"alpha": 3.0}, 0.41, 0.92, 0.9),
    "fade": ("fade", {"target_fraction": 0.5}, 0.43, 0.93, 0.8),
}


def write_sweep(workdir: Path, seeds: int, truncate: bool) -> Path:
    """Writes three methods; `truncate` cuts the last run in the middle of a line."""
    names = [f"{method}-seed{seed}" for method in METHODS for seed in range(seeds)]
    for name in names:
        method, _, seed = name.partition("-seed")
        write_run(workdir / "runs" / name, method, int(seed))
    if truncate:
        path = workdir / "runs" / names[-1]
        (path / "result.json").unlink()
        text = (path / "metrics.jsonl").read_text()
        (path / "metrics.jsonl").write_text(text[: len(text) * 6 // 10])
    (workdir / "sweep.json").write_text(json.dumps({"runs": [{"name": name} for name in names]}))
    return workdir


def write_run(directory: Path, method: str, seed: int) -> Path:
    """Writes a finished run."""
    directory.mkdir(parents=True)
    lines = run_lines(method, seed)
    (directory / "config.json").write_text(json.dumps(run_config(method, seed)))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {**lines[-1], "params_sha256": f"{seed + 1:064x}"}
    (directory / "result.json").write_text(json.dumps(result))
    return directory


def run_config(method: str, seed: int) -> dict:
    name, kwargs, *_ = METHODS[method]
    return {
        "seed": seed,
        "steps": STEPS,
        "prompts": PROMPTS,
        "group_size": GROUP,
        "task": {"name": "graph", "kwargs": {}},
        "advantage": {"name": name, "kwargs": kwargs},
        "optimizer": {"name": "adamw", "learning_rate": 3e-4},
        "warm_start": {"steps": 300, "workdir": "x"},
    }


def run_lines(method: str, seed: int) -> list[dict]:
    name, kwargs, one, hundred, entropy = METHODS[method]
    random = np.random.default_rng(seed * 31 + len(method))
    lines = [evaluation_line(0, 0.1, 0.9, 1.6)]
    shift = random.normal(0, 0.01)
    for step in range(1, STEPS + 1):
        done = 1 - math.exp(-3 * step / STEPS)
        rate = 0.1 + (one - 0.1) * done + random.normal(0, 0.03)
        nats = 1.6 + (entropy - 1.6) * done + random.normal(0, 0.03)
        line = train_line(step, rate, nats, random)
        if name == "fade":
            line["alpha"] = min(3.0, max(1.0, 3 * (1 - rate) / (2 * rate)))
            line["delta"] = min(1.0, max(0.3, 1 + nats - 0.9))
        lines.append(line)
        if step % EVERY == 0:
            first = 0.1 + (one - 0.1) * done + shift
            lines.append(evaluation_line(step, first, 0.9 + (hundred - 0.9) * done + shift, nats))
    return lines


def evaluation_line(step: int, one: float, hundred: float, nats: float) -> dict:
    line: dict = {"step": step, "eval/entropy": nats, "eval/seconds": 2.0}
    for k, value in ((1, one), (10, 0.35 * one + 0.65 * hundred - 0.1), (100, hundred)):
        half = 2 * math.sqrt(value * (1 - value) / 64)
        line |= {
            f"eval/pass@{k}": value,
            f"eval/pass@{k}_low": value - half,
            f"eval/pass@{k}_high": value + half,
        }
    return line


def train_line(step: int, rate: float, nats: float, random: np.random.Generator) -> dict:
    rate = min(max(rate, 0.02), 0.98)
    counts = random.binomial(GROUP, random.beta(2 * rate, 2 * (1 - rate), PROMPTS))
    mass = float(np.mean(counts / GROUP * (1 - counts / GROUP)))
    return {
        "step": step,
        "reward": rate,
        "solve_rate": rate,
        "entropy": nats,
        "entropy_success": nats * 0.8 if counts.sum() else None,
        "entropy_failure": nats * 1.1,
        "mass_success": mass,
        "mass_failure": mass,
        "zero_variance_fraction": float(np.mean((counts == 0) | (counts == GROUP))),
        "gradient_norm": float(0.3 * random.lognormal(0, 0.3)),
        "solve_rate_histogram": np.bincount(counts, minlength=GROUP + 1).tolist(),
        "step_seconds": 0.3,
        **({"rank_one_fraction": 0.9 - 0.3 * step / STEPS} if step % 10 == 0 else {}),
    }
