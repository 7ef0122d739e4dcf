"""The page is a function of results.json; every expected number here is computed by hand."""

import json

import pytest

from experiments.benchmarks import run
from experiments.perf.benchmark import main_table, page, ratios, sweep_table, values

ROLLOUT = {"name": "rollout_x", "kind": "rollout", "title": "rollout, x"}
ROLLOUT |= {"unit": "tokens/s", "amount": 600, "steps": 1}
STEP = {"name": "step_x", "kind": "step", "title": "whole step, x"}
STEP |= {"unit": "s", "amount": 1, "steps": 5}


def entry(work, implementation, seconds, peak, cpu=None, **more):
    return {
        "work": work,
        "implementation": implementation,
        "status": "ok",
        "seconds": seconds,
        "cpu_seconds": cpu or seconds,
        "warm_up_s": 10.0,
        "peak_bytes": peak,
        "versions": {"jax": "1.2.3"},
        "notes": {"device": "cpu"},
    } | more


def absent(work, implementation):
    return {
        "work": work,
        "implementation": implementation,
        "status": "not installed",
        "seconds": [],
        "cpu_seconds": [],
    }


RESULTS = {
    "device": "A processor",
    "machine": {
        "cpu": "A processor",
        "cores": 2,
        "pinned_to": 1,
        "memory_gb": 24.0,
        "system": "Linux",
        "python": "3.11.0",
        "load_at_start": 0.5,
    },
    "when": "2026-01-01T00:00+00:00",
    "command": "python -m experiments.benchmarks.run --peers",
    "repeats": 3,
    "implementations": ["ours", "tunix", "torch"],
    "works": [ROLLOUT, STEP],
    "entries": [
        # 600 tokens in 1, 2 and 3 s: median 300 tokens/s of 600, 300, 200.
        entry("rollout_x", "ours", [1.0, 2.0, 3.0], 500_000_000, cpu=[0.5, 0.5, 0.5]),
        entry("rollout_x", "tunix", [4.0, 6.0, 5.0], 2_000_000_000),
        absent("rollout_x", "torch"),
        # 5 steps in 1 s: 0.2 s each; the best peer takes 0.5 s.
        entry("step_x", "ours", [1.0, 1.0, 1.0], 400_000_000),
        entry("step_x", "tunix", [5.0, 5.0, 5.0], 100_000_000),
        entry("step_x", "torch", [2.5, 2.5, 2.5], 1_600_000_000),
    ],
    "sweep": {
        "runs": 16,
        "steps": 50,
        "step_s": 0.1,
        "modes": [
            {"mode": "vmap", "title": "one program", "seconds": 120.0, "status": "ok"},
            {"mode": "commands", "title": "commands", "seconds": None, "status": "failed, no"},
        ],
    },
}


def of(work):
    return [e for e in RESULTS["entries"] if e["work"] == work]


def test_samples_become_rates_or_seconds_of_a_step():
    assert values(ROLLOUT, of("rollout_x")[0]) == [600, 300, 200]
    assert values(ROLLOUT, of("rollout_x")[0], "cpu") == [1200, 1200, 1200]
    assert values(STEP, of("step_x")[2]) == [0.5, 0.5, 0.5]


def test_ratios_are_to_the_fastest_peer():
    # 300 tokens/s over tunix's 120; 0.5 GB over its 2 GB.
    assert ratios(ROLLOUT, of("rollout_x")) == pytest.approx((2.5, 0.25))
    # torch's 0.5 s over our 0.2 s; 0.4 GB over its 1.6 GB, not over the smallest peer's.
    assert ratios(STEP, of("step_x")) == pytest.approx((2.5, 0.25))
    # By CPU time we are four times as fast as by the wall clock: 1200 over 120.
    assert ratios(ROLLOUT, of("rollout_x"), "cpu") == pytest.approx((10, 0.25))
    assert ratios(ROLLOUT, of("rollout_x")[:1]) is None


def test_rows_of_the_table():
    header, _, rollout, step = main_table(RESULTS).splitlines()
    assert header.startswith("| work | fade_jax | google-tunix | torch |")
    cells = [cell.strip() for cell in rollout.strip("|").split("|")]
    assert cells == [
        "rollout, x, tokens/s",
        "**300** [200, 600]; 0.50 GB; 6 s",  # compiling: 10 s less two repetitions of 2 s
        "**120** [100, 150]; 2.00 GB; 0 s",
        "not installed",
        "2.50",
        "0.25",
    ]
    assert "| **0.2** [0.2, 0.2]; 0.40 GB; 8 s |" in step


def test_sweep_over_its_pure_steps():
    lines = sweep_table(RESULTS["sweep"]).splitlines()
    assert lines[2] == "| pure steps, 100 ms each | 80.0 | 1 | |"
    # 40 s beside the steps are a tenth of 16 x 250 steps of 0.1 s.
    assert lines[3] == "| one program | 120.0 | 1.50 | 250 steps |"
    assert lines[4] == "| commands | failed, no | | |"


def test_fraction_of_the_devices_own_product():
    product = {"name": "product", "kind": "product", "title": "product", "unit": "GFLOP/s"}
    product |= {"amount": 100, "steps": 1}
    ours = of("rollout_x")[0] | {"notes": {"device": "cpu", "flop": 50e9}}
    results = RESULTS | {
        "works": [product, ROLLOUT],
        "entries": [entry("product", "ours", [1.0, 1.0, 1.0], 1), ours],
    }
    # 50 GFLOP in 2 s, where a plain product does 100 GFLOP/s.
    assert "| rollout, x | 25 | 25% of the product of the first row |" in page(results)


def test_fraction_of_a_published_peak():
    ours = of("rollout_x")[0] | {"notes": {"device": "NVIDIA H100 80GB HBM3", "flop": 989.4e12}}
    results = RESULTS | {"works": [ROLLOUT], "entries": [ours]}
    assert "| 494,700 | 50% of the bfloat16 peak of H100 SXM |" in page(results)


def test_page_is_rendered_without_running(tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    run.main([f"--render={tmp_path}"])
    text = (tmp_path / "README.md").read_text()
    assert text == page(RESULTS)
    assert "# Benchmarks on A processor" in text
    assert "| fade_jax | jax 1.2.3 |" in text
    assert str(tmp_path) in capsys.readouterr().out
