"""What the model starts from: the solve rates before training, and the methods of a sweep."""

import hashlib
import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.report.runs import SEED
from fade_jax.densities import Beta, fit_beta, quadrature


class Start(NamedTuple):
    """The distribution of solve rates before training, as weighted points.

    Attributes:
      solve_rate: p in (0, 1), `[points]`.
      weight: of each point, `[points]`; they sum to 1.
      prior: the density that was fitted to the counts.
    """

    solve_rate: np.ndarray
    weight: np.ndarray
    prior: Beta


def start_from_counts(num_correct, num_samples: int, points: int = 32) -> Start:
    """The posterior solve rates of prompts given their counts, under a density fitted to all.

        p_i | K_i ~ Beta(a + K_i, b + N - K_i),   (a, b) fitted to the counts by moments

    A prompt with 0 of N has a small solve rate, not none, so it can learn.

    Args:
      num_correct: K, `[prompts]`, each in 0..N.
      num_samples: N ≥ 2.
      points: for each prompt, by Gauss-Jacobi quadrature.

    Returns:
      `Start`; prompts of one count share their points.

    Raises:
      ValueError: if a count is outside 0..N, or N is below 2.
    """
    counts = np.asarray(num_correct)
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, got {num_samples}")
    if counts.min() < 0 or counts.max() > num_samples:
        raise ValueError(f"num_correct must be in [0, {num_samples}], got {counts}")
    a, b = (float(x) for x in fit_beta(counts, num_samples))
    nodes, weights = [], []
    for k, prompts in zip(*np.unique(counts, return_counts=True), strict=True):
        p, w = quadrature(Beta(a + float(k), b + float(num_samples - k)), points)
        nodes.append(p)
        weights.append(w * float(prompts) / len(counts))
    # float32 quadrature may put the first point of a density near 0 a rounding below it.
    p = np.clip(np.concatenate(nodes), 1e-7, 1 - 1e-7)
    w = np.concatenate(weights)
    return Start(p, w / w.sum(), Beta(a, b))


def read_counts(workdir: Path) -> tuple[np.ndarray, int, str]:
    """The counts before training of the first run of a sweep that has them.

    Returns:
      num_correct `[prompts]`, num_samples, and the start of the SHA-256 of the counts.

    Raises:
      FileNotFoundError: if no run has been evaluated at step 0.
    """
    found = sorted(Path(workdir).glob("runs/*/evaluations/0.npz"))
    if not found:
        raise FileNotFoundError(f"no runs/*/evaluations/0.npz in {workdir}")
    with np.load(found[0]) as counts:
        correct, samples = counts["num_correct"], int(counts["num_samples"])
    return correct, samples, hashlib.sha256(correct.astype("<i4").tobytes()).hexdigest()[:16]


def read_sweep(path: Path) -> tuple[dict[str, tuple[str, dict[str, Any]]], int]:
    """The advantages and the group size of a sweep.

    Args:
      path: a config file with a function sweep(), or the workdir of a sweep.

    Returns:
      (factory, arguments) of each distinct advantage by the name of its method, and G.

    Raises:
      FileNotFoundError: if there is no such file or no sweep in the workdir.
      ValueError: if the runs do not have one group size.
    """
    path = Path(path)
    if path.suffix == ".py":
        module = runpy.run_path(str(path))
        config = module["get_config"]()
        runs = module["sweep"](config)
        default = config.group_size
    else:
        listed = json.loads((path / "sweep.json").read_text())["runs"]
        runs = {run["name"]: run["overrides"] for run in listed}
        first = next(path.glob("runs/*/config.json"))
        default = json.loads(first.read_text())["group_size"]
    sizes = {overrides.get("group_size", default) for overrides in runs.values()}
    if len(sizes) > 1:
        raise ValueError(f"the runs must have one group_size, got {sorted(sizes)}")
    return distinct_methods(runs), sizes.pop()


def distinct_methods(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, dict]]:
    """The first run of each advantage, named without its seed."""
    methods: dict[str, tuple[str, dict]] = {}
    for name, overrides in runs.items():
        advantage = overrides["advantage"]["name"], dict(overrides["advantage"]["kwargs"])
        if advantage not in methods.values():
            methods[SEED.sub("", name)] = advantage
    return methods
