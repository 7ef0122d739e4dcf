"""Workdirs with plausible curves, in the format of training."""

import json
import math

import numpy as np
import pytest

STEPS, EVERY, GROUP, PROMPTS = 120, 20, 8, 16

# advantage, kwargs, final pass@1, final pass@100, final entropy
METHODS = {
    "grpo": ("grpo", {}, 0.47, 0.84, 0.35),
    "power3": ("power", {"alpha": 3.0}, 0.41, 0.92, 0.9),
    "fade": ("fade", {"target_fraction": 0.5}, 0.43, 0.93, 0.8),
}


@pytest.fixture(scope="session")
def two_seeds(tmp_path_factory):
    """Three methods with two seeds each; the last run of fade was killed in the middle of a line."""
    workdir = write_sweep(tmp_path_factory.mktemp("two"), seeds=2)
    killed = workdir / "runs" / "fade-seed1"
    (killed / "result.json").unlink()
    text = (killed / "metrics.jsonl").read_text()
    (killed / "metrics.jsonl").write_text(text[: len(text) * 6 // 10])
    return workdir


@pytest.fixture(scope="session")
def four_seeds(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("four"), seeds=4)


def write_sweep(workdir, seeds, steps=STEPS):
    names = []
    for method, (advantage, kwargs, *_) in METHODS.items():
        for seed in range(seeds):
            names.append(f"{method}-seed{seed}")
            run = workdir / "runs" / names[-1]
            run.mkdir(parents=True)
            config = {
                "seed": seed,
                "steps": steps,
                "prompts": PROMPTS,
                "group_size": GROUP,
                "task": {"name": "graph", "kwargs": {}},
                "advantage": {"name": advantage, "kwargs": kwargs},
                "warm_start": {"steps": 300, "workdir": "x"},
            }
            (run / "config.json").write_text(json.dumps(config))
            lines = [json.dumps(line) + "\n" for line in metrics(method, seed, steps)]
            (run / "metrics.jsonl").write_text("".join(lines))
            (run / "result.json").write_text(json.dumps({"params_sha256": f"{seed:064x}"}))
    (workdir / "sweep.json").write_text(json.dumps({"runs": [{"name": name} for name in names]}))
    return workdir


def metrics(method, seed, steps=STEPS):
    _, kwargs, one, hundred, entropy = METHODS[method]
    random = np.random.default_rng(seed * 31 + len(method))
    shift = random.normal(0, 0.01)
    yield evaluation(0, 0.1, 0.9, 1.6)
    for step in range(1, steps + 1):
        done = 1 - math.exp(-3 * step / steps)
        rate, nats = 0.1 + (one - 0.1) * done + shift, 1.6 + (entropy - 1.6) * done + shift
        line = train_line(step, rate, nats, random) | kwargs
        if method == "fade":
            line |= {"alpha": min(3.0, 1.5 * (1 - rate) / rate), "delta": min(1.0, nats)}
        yield line
        if step % EVERY == 0:
            yield evaluation(step, rate, 0.9 + (hundred - 0.9) * done + shift, nats)


def evaluation(step, one, hundred, nats):
    line = {"step": step, "eval/entropy": nats, "eval/length": 9.5, "eval/seconds": 2.0}
    line["eval/truncated_fraction"] = 0.125
    for k, value in ((1, one), (10, 0.35 * one + 0.65 * hundred - 0.1), (100, hundred)):
        half = 2 * math.sqrt(value * (1 - value) / 64)
        key = f"eval/pass@{k}"
        line |= {key: value, f"{key}_low": value - half, f"{key}_high": value + half}
    return line


def train_line(step, rate, nats, random):
    counts = random.binomial(GROUP, random.beta(2 * rate, 2 * (1 - rate), PROMPTS))
    mass = float(np.mean(counts / GROUP * (1 - counts / GROUP)))
    line = {
        "step": step,
        "reward": rate,
        "solve_rate": rate,
        "length": 8.0 + step / STEPS,
        "truncated_fraction": 0.25,
        "entropy": nats,
        "entropy_success": nats * 0.8 if counts.sum() else None,
        "entropy_failure": nats * 1.1,
        "mass_success": mass,
        "mass_failure": mass,
        "zero_variance_fraction": float(np.mean((counts == 0) | (counts == GROUP))),
        "gradient_norm": float(0.3 * random.lognormal(0, 0.3)),
        "solve_rate_histogram": np.bincount(counts, minlength=GROUP + 1).tolist(),
        "step_seconds": 0.3,
    }
    return line | ({"rank_one_fraction": 0.9 - 0.3 * step / STEPS} if step % 10 == 0 else {})
