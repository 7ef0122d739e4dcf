"""Writes golden.json: what fade_jax computes for the advantages of the explorer.

Run from the root of the repository: `python -m explorer.golden`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import fade_jax
from fade_jax import decomposition, diagnostics, dynamics, synthesis, transforms
from fade_jax.densities import Beta

PATH = Path(__file__).with_name("golden.json")
GROUP_SIZES = (2, 8, 16)
SOLVE_RATES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
STEPS, STEP_SIZE, EVERY = 200, 0.05, 20
# Solve rates before training and their probabilities.
START = {
    "rates": (0.001, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 0.9),
    "weights": (0.1, 0.1, 0.2, 0.2, 0.15, 0.1, 0.1, 0.05),
}

# By the explorer's id: the parameters to try, as the explorer names them.
PARAMETERS: dict[str, list[dict[str, float]]] = {
    "rloo": [{}],
    "dr_grpo": [{}],
    "grpo": [{}],
    "power": [{"alpha": 0.5}, {"alpha": 1.0}, {"alpha": 3.0}],
    "power_asym": [{"alpha": 2.0, "delta": 0.5}, {"alpha": 1.5, "delta": 2.0}],
    "fade": [
        {"average": 0.5, "rate": 0.02, "delta": 1.0},
        {"average": 0.3, "rate": 0.1, "delta": 0.5},
    ],
    "asym_grpo": [{"delta": 0.5}, {"delta": 2.0}],
    "f_grpo": [{"gamma": 0.5}, {"gamma": 1.0}],
    "max_rl": [{}],
    "tempered_likelihood": [{"beta": 0.5}, {"beta": 1.5}],
    "log_mean_exp": [{"beta": 0.5}, {"beta": 2.0}],
    "pkpo": [{"k": 1}, {"k": 2}, {"k": 4}],
    "pkpo_loo": [{"k": 1}, {"k": 4}],
    "pkpo_none": [{"k": 2}, {"k": 4}],
    "pass_at_k_training": [{"k": 1}, {"k": 4}],
    "leave_one_out_pass_at_g": [{}],
    "synthesized_pass_at_k": [{"k": 2}, {"k": 4}],
    "synthesized_tempered": [{"beta": 0.5}, {"beta": 1.0}],
    "reinforce": [{"baseline": 0.0}, {"baseline": 0.3}],
    "psr": [{}],
    "nsr": [{}],
    "w_reinforce": [{"positive_weight": 0.1}],
    "quantile": [{"level": 0.4}, {"level": 0.75}],
    "a_grae": [{"omega": 0.3}, {"omega": 0.7}],
    "opo": [{"length_ratio": 0.5}, {"length_ratio": 2.0}],
}
TRANSFORMATIONS = {
    "rloo": transforms.rloo(),
    "grpo": transforms.grpo(),
    "power": transforms.power(alpha=3.0),
    "max_rl": transforms.max_rl(),
    "asym_grpo": transforms.asym_grpo(delta=2.0),
}
DENSITY = Beta(0.5, 1.5)


def advantage_fn(name: str, group_size: int, given: dict[str, float]) -> Callable[..., ArrayLike]:
    """Returns the library's advantage by the explorer's id and parameters."""
    if name == "synthesized_pass_at_k":
        return synthesis.synthesize(synthesis.pass_at_k(int(given["k"])), group_size)
    if name == "synthesized_tempered":
        return synthesis.synthesize(synthesis.tempered_likelihood(given["beta"]), group_size)
    if name == "fade":
        average = jnp.float32(given["average"])
        alpha = jnp.clip(1.5 * (1 - average) / average, 1, 3)
        return partial(fade_jax.power_asym, alpha=alpha, delta=given["delta"])
    if name == "opo":
        failures = given["length_ratio"]
        return lambda r: fade_jax.opo(r, lengths=r + failures * (1 - r))
    baselines = {"pkpo_loo": "loo", "pkpo_none": "none"}
    if name in baselines:
        return partial(fade_jax.pkpo, k=int(given["k"]), baseline=baselines[name])
    return partial(getattr(fade_jax, name), **given)


def fits(name: str, group_size: int, given: dict[str, float]) -> bool:
    """Says whether the group is large enough for k."""
    return given.get("k", 1) <= group_size - (name == "pkpo_loo")


def decomposed(name: str, group_size: int, given: dict[str, float]) -> dict[str, Any]:
    """Returns masses, weight and objective of one advantage at `SOLVE_RATES`."""
    fn = advantage_fn(name, group_size, given)
    p = jnp.asarray(SOLVE_RATES)
    masses = decomposition.gradient_masses(fn, p, group_size)
    weight = decomposition.expected_weight(fn, p, group_size)
    # A failure mass of rounding error alone has no ratio.
    ratio = jnp.where(jnp.abs(masses.failure) > 1e-5, decomposition.sign_ratio(masses), jnp.nan)
    values = {
        "success": masses.success,
        "failure": masses.failure,
        "weight": weight,
        "objective": decomposition.implied_objective(fn, p, group_size),
        "ratio": ratio,
        "share": diagnostics.effective_sample_size(weight) / p.size,
        "mean_mass": sum(decomposition.mean_masses(fn, group_size, DENSITY)),
    }
    return {"id": name, "parameters": given, "group_size": group_size, **_plain(values)}


def path(name: str, given: dict[str, float], group_size: int) -> dict[str, Any]:
    """Returns what `fade_jax.dynamics.simulate` predicts, every `EVERY` steps."""
    if name == "fade":
        # At the constant entropy of 1 nat δ is 2 - H*.
        transformation = transforms.fade(
            target_entropy=2 - given["delta"],
            rate=given["rate"],
            initial_solve_rate=given["average"],
        )
    else:
        transformation = TRANSFORMATIONS[name]
    found = dynamics.simulate(
        transformation,
        np.array(START["rates"]),
        np.array(START["weights"]),
        group_size=group_size,
        step_size=STEP_SIZE,
        steps=STEPS,
    )
    fields = ("pass_at_1", "pass_at_100", "alpha")
    values = {field: getattr(found, field)[::EVERY] for field in fields}
    return {"id": name, "parameters": given, "group_size": group_size, **_plain(values)}


def golden() -> dict[str, Any]:
    """Returns all that golden.json holds."""
    cases = [
        decomposed(name, group_size, given)
        for name, tried in PARAMETERS.items()
        for given in tried
        for group_size in GROUP_SIZES
        if fits(name, group_size, given)
    ]
    moving = [(name, PARAMETERS[name][-1]) for name in TRANSFORMATIONS]
    moving += [("fade", given) for given in PARAMETERS["fade"]]
    paths = [path(name, given, 8) for name, given in moving]
    return {
        "solve_rates": list(SOLVE_RATES),
        "steps": STEPS,
        "step_size": STEP_SIZE,
        "every": EVERY,
        "start": {name: list(values) for name, values in START.items()},
        "density": list(DENSITY),
        "cases": cases,
        "paths": paths,
    }


def main() -> None:
    """Writes golden.json beside this file, one case a line."""
    sections = []
    for key, value in golden().items():
        text = json.dumps(value)
        if isinstance(value, list) and isinstance(value[0], dict):
            text = "[\n" + ",\n".join(json.dumps(case) for case in value) + "\n]"
        sections.append(f'"{key}": {text}')
    PATH.write_text("{\n" + ",\n".join(sections) + "\n}\n")


def _plain(values: dict[str, ArrayLike]) -> dict[str, Any]:
    """Rounds arrays to six digits, as lists; null for NaN, which JSON has not."""
    return {name: _rounded(np.asarray(jax.device_get(value))) for name, value in values.items()}


def _rounded(array: np.ndarray) -> Any:
    if array.ndim:
        return [_rounded(x) for x in array]
    return float(f"{array:.6g}") if np.isfinite(array) else None


if __name__ == "__main__":
    main()
