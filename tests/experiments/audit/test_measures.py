"""The audit's measures of estimators whose masses, objective and faults are known."""

import json
from math import comb

import numpy as np
import pytest

from experiments.audit import measures
from experiments.audit.estimators import Estimator
from experiments.audit.page import cases, pass_at_k, summary, write_page
from tests.fade_jax import reference

G = measures.GROUP_SIZE


def by_rows(fn):
    """Applies a reference to the rows of each group id."""

    def advantages(rewards, index, lengths):
        del lengths
        found = np.zeros(len(rewards))
        for label in np.unique(index):
            found[index == label] = fn(rewards[index == label].astype(np.float64))
        return found

    return advantages


RLOO = Estimator("rloo", "p", by_rows(lambda r: reference.rloo(r) if len(r) > 1 else r), True)
BEST = Estimator("best", "pass@G", by_rows(reference.leave_one_out_pass_at_g), by_index=True)


def test_measure_curves_rloo():
    curves = measures.measure_curves(RLOO)
    p = measures.SOLVE_RATES
    np.testing.assert_allclose(curves["success_mass"], p * (1 - p), atol=1e-5)
    np.testing.assert_allclose(curves["failure_mass"], p * (1 - p), atol=1e-5)
    np.testing.assert_allclose(curves["weight"], np.ones_like(p), atol=1e-5)
    np.testing.assert_allclose(curves["objective"], p, atol=1e-5)
    assert curves["gap"] < 1e-5


def test_measure_curves_pass_at_g():
    curves = measures.measure_curves(BEST)
    q = 1 - measures.SOLVE_RATES
    np.testing.assert_allclose(curves["weight"], q ** (G - 1), atol=1e-5)
    np.testing.assert_allclose(curves["objective"], (1 - q**G) / G, atol=1e-5)
    assert curves["gap"] < 1e-5
    # Claimed to ascend p, it would be furthest off where d/dp (1 - q^G) = 1.
    p = 1 - G ** (-1 / (G - 1))
    wrong = measures.measure_curves(BEST._replace(claim="p"))["gap"]
    np.testing.assert_allclose(wrong, 1 - (1 - p) ** G - p, atol=1e-3)


def test_measure_curves_whole_batch():
    def advantages(rewards, index, lengths):
        return (rewards - rewards.mean()) / rewards.std()

    batch = Estimator("whitened", "p", advantages, whole_batch=True)
    # At a mean of 1/2 the deviation is 1/2 too, and both masses of a batch of mean 1/2 are p, q.
    curves = measures.measure_curves(batch)
    np.testing.assert_allclose(curves["weight"], 2 * np.ones(101), rtol=0.02)


def test_measure_cases_finds_faults():
    found = measures.measure_cases(RLOO)
    assert found["r̄ = 0"] == found["r̄ = 1"] == 0
    assert found["G = 1: success, failure"] == [1, 0]
    assert found["unequal groups"] == found["padding"] == 0
    assert found["one NaN"] == 8
    np.testing.assert_allclose(found["rewards + 1"], 0, atol=1e-6)
    np.testing.assert_allclose(found["spread 0.001"], 0.001, rtol=1e-3)
    np.testing.assert_allclose(found["ties"][0], 0.9 - 1.1 / 7, rtol=1e-6)

    def breaks(rewards, index, lengths):
        raise ValueError("groups of 8 only\nmore")

    found = measures.measure_cases(Estimator("breaks", "p", breaks, by_index=True))
    assert set(found.values()) == {"ValueError: groups of 8 only"}


def test_measure_pass_at_k_bias():
    def unbiased(rewards, k):
        missed = comb(int((1 - rewards).sum()), k) / comb(len(rewards), k)
        return 1 - missed

    for row in measures.measure_pass_at_k(unbiased):
        assert row["estimate"] == pytest.approx(row["pass_at_k"], abs=1e-12)
    plug_in = measures.measure_pass_at_k(lambda rewards, k: 1 - (1 - rewards.mean()) ** k)
    # E[(1-c/n)²] = q² + pq/n.
    row = next(row for row in plug_in if (row["p"], row["k"]) == (0.1, 2))
    assert row["pass_at_k"] - row["estimate"] == pytest.approx(0.1 * 0.9 / 16, abs=1e-12)


def test_write_page_has_the_measurements(tmp_path):
    estimators = [
        {
            "name": each.name,
            "claim": each.claim,
            "curves": measures.measure_curves(each),
            "cases": measures.measure_cases(each),
        }
        for each in (RLOO, BEST)
    ]
    rows = [{"p": 0.1, "k": 2, "pass_at_k": 0.19, "estimate": 0.18}]
    measured = {
        "framework": "loops",
        "version": "1",
        "estimators": estimators,
        "pass_at_k": {"best@k": rows},
        "statements": [["says one", "gives another"]],
    }
    (tmp_path / "loops.json").write_text(json.dumps(measured))
    page = write_page(tmp_path).read_text()
    assert "loops 1" in page
    assert (tmp_path / "audit.png").exists()
    assert (tmp_path / "audit.pdf").exists()
    table = summary([measured])
    assert table.loc[0, "h(0.9)"] == pytest.approx(1, abs=1e-5)
    assert cases([measured]).loc[0, "G = 1: success, failure"] == "1, 0"
    assert pass_at_k([measured]).loc[0, "bias"] == pytest.approx(-0.01)


def test_page_without_measurements_is_one_line(command, tmp_path):
    process = command("experiments.audit", f"--out={tmp_path}", "--page")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1].startswith("--out must have measurements")
    assert "Traceback" not in errors
