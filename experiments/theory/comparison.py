"""Prediction beside measurement: the same quantities, and how far their orders agree."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.theory.prediction import QUANTITIES, crossing

# (predicted, measured, sign with which the first should order the second)
_ORDERS = (
    ("steps_to_level", "steps_to_level", 1),
    ("steps_to_level", "way_to_level", 1),
    ("pass_at_100", "pass_at_100", 1),
    ("solved_share", "pass_at_100", -1),
)


def read_prediction(path: Path) -> list[dict]:
    """The rows of prediction.csv, numbers as numbers."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    texts = ("method", "sweep", "counts_sha256", "anchor")
    return [{k: v if k in texts else float(v) for k, v in row.items()} for row in rows]


def read_results(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The evaluations of every run of results.csv: by method and run `[evaluations, 4]`.

    The columns are step, pass@1, pass@100 and step times learning rate, in the order of the steps.
    The last is the model's time: Adam's step is its rate, whatever the gradient. Where the table
    has no rate, all runs have one, and it is the step.

    Raises:
      ValueError: if the table lacks one of them.
    """
    needed = ("step", "pass@1", "pass@100")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = [column for column in needed if not rows or column not in rows[0]]
    if missing:
        raise ValueError(f"{path} must have the columns {needed}, it lacks {missing}")
    lines: dict[str, dict[str, list]] = {}
    for row in rows:
        runs = lines.setdefault(row["method"], {})
        way = float(row["step"]) * float(row.get("optimizer.learning_rate") or 1)
        values = [*(float(row[column]) for column in needed), way]
        runs.setdefault(row["run"], []).append(values)
    return {m: {r: np.array(sorted(v)) for r, v in runs.items()} for m, runs in lines.items()}


def measure(evaluations: np.ndarray, level: float) -> dict[str, float]:
    """Where a run first reaches a pass@1, interpolated between evaluations.

    Args:
      evaluations: `[evaluations, 4]`: step, pass@1, pass@100, step times learning rate.
      level: of pass@1.

    Returns:
      steps_to_level, way_to_level (steps times learning rate) and pass_at_100 there; all NaN for a
      run that does not reach the level.
    """
    steps, ones, hundreds, way = evaluations.T
    time = crossing(steps, ones, level)
    return {
        "steps_to_level": time,
        "way_to_level": float(np.interp(time, steps, way)),
        "pass_at_100": float(np.interp(time, steps, hundreds)),
    }


def compare(
    predicted: Sequence[Mapping],
    results: Mapping[str, Mapping[str, np.ndarray]],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[list[dict], list[dict]]:
    """The measured quantities of every predicted method, and the agreement of the two orders.

    Args:
      predicted: rows of prediction.csv.
      results: of `read_results`.
      resamples: of the bootstrap, which draws the seeds of each method again with replacement.
      seed: of the bootstrap.

    Returns:
      a row for each level and method that some run reached, with the seeds' own values; and for
      each level and pair of orders Kendall's τ_b with its 95% interval over the seeds.

    Raises:
      ValueError: if fewer than two methods are in both.
    """
    random = np.random.default_rng(seed)
    rows = []
    for row in predicted:
        values = [measure(v, row["level"]) for v in results.get(row["method"], {}).values()]
        reached = [v for v in values if not np.isnan(v["steps_to_level"])]
        if reached:
            seeds = {name: np.array([v[name] for v in reached]) for name in reached[0]}
            rows.append(
                {"level": row["level"], "method": row["method"]}
                | {f"predicted_{name}": row[name] for name in QUANTITIES}
                | {f"measured_{name}": float(v.mean()) for name, v in seeds.items()}
                | {"runs": len(values), "runs_at_level": len(reached)}
                | {f"seeds_{name}": v for name, v in seeds.items()}
            )
    orders = []
    for level in dict.fromkeys(row["level"] for row in rows):
        here = [row for row in rows if row["level"] == level]
        if len(here) < 2:
            continue
        for x, y, sign in _ORDERS:
            theory = sign * np.array([row[f"predicted_{x}"] for row in here])
            seeds = [row[f"seeds_{y}"] for row in here]
            drawn = [
                kendall_tau(theory, [random.choice(s, len(s)).mean() for s in seeds])
                for _ in range(resamples)
            ]
            drawn = [tau for tau in drawn if not np.isnan(tau)] or [np.nan]
            low, high = np.quantile(drawn, (0.025, 0.975))
            orders.append(
                {
                    "level": level,
                    "predicted": x if sign > 0 else f"-{x}",
                    "measured": y,
                    "kendall_tau": kendall_tau(theory, [s.mean() for s in seeds]),
                    "low": float(low),
                    "high": float(high),
                    "methods": len(here),
                }
            )
    if not orders:
        raise ValueError(
            f"need two methods of {sorted({row['method'] for row in predicted})} that reach a "
            f"level in the results, which have {sorted(results)}"
        )
    return rows, orders


def kendall_tau(x, y) -> float:
    """Kendall's τ_b, the agreement of two orders from -1 to 1 with ties taken out.

        τ_b = Σ_{i<j} sgn(x_i-x_j) sgn(y_i-y_j) / √(pairs untied in x · pairs untied in y)

    Args:
      x: `[methods]`.
      y: `[methods]`.

    Returns:
      NaN where all of one are tied.
    """
    a, b = (np.sign(np.subtract.outer(np.asarray(v), np.asarray(v))) for v in (x, y))
    untied = np.sum(a != 0) * np.sum(b != 0)
    return float(np.sum(a * b) / np.sqrt(untied)) if untied else float("nan")
