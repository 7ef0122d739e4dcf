"""The predictions that the replication registered before training, found again."""

import csv

import numpy as np
import pytest
from scipy.special import roots_jacobi

from fade_jax import transforms
from fade_jax.dynamics import simulate
from tests.notebooks.test_notebooks import DATA


@pytest.mark.slow
@pytest.mark.parametrize(("sweep", "counts"), [("core", "tuning"), ("methods", "methods")])
def test_registered_predictions_are_reproduced(sweep, counts):
    """The rows of prediction.csv follow from h(p) and the counts before training."""
    with np.load(DATA / counts / "counts.npz") as file:
        correct, samples = file["correct"][0, 0].astype(int), int(file["num_samples"])
    with (DATA / sweep / "prediction.csv").open() as file:
        rows = list(csv.DictReader(file))
    a, b = float(rows[0]["prior_a"]), float(rows[0]["prior_b"])
    solve_rates, weights = [], []
    # p given the count is Beta(a + K, b + N - K). The share on solved prompts has a threshold, so
    # that it depends on the number of nodes: 32, as registered.
    for count, prompts in zip(*np.unique(correct, return_counts=True), strict=True):
        nodes, weight = roots_jacobi(32, b + samples - count - 1, a + count - 1)
        solve_rates.append((1 + nodes) / 2)
        weights.append(weight / weight.sum() * prompts / len(correct))
    start = np.clip(np.concatenate(solve_rates), 1e-7, 1 - 1e-7), np.concatenate(weights)
    methods = {"asym0.5": transforms.asym_grpo(delta=0.5), "power3": transforms.power(alpha=3.0)}
    for name, transformation in methods.items():
        row = next(row for row in rows if row["method"] == name)
        path = simulate(
            transformation, *start, group_size=16, step_size=float(row["step_size"]), steps=400
        )
        step = np.interp(float(row["level"]), path.pass_at_1, np.arange(401))
        assert step == pytest.approx(float(row["steps_to_level"]), abs=0.3)
        for column in ("pass_at_100", "solved_share"):
            value = np.interp(step, np.arange(401), getattr(path, column))
            assert value == pytest.approx(float(row[column]), abs=5e-4)
