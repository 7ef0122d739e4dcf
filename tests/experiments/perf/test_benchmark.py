"""The benchmark from its flags to its tables, at the smallest sizes; no time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.config import ConfigError
from experiments.perf import benchmark
from experiments.perf.benchmark import Implementation, run_interleaved, select_workloads
from experiments.perf.fade_jax_worker import call_of
from experiments.perf.worker import (
    WORKLOADS,
    Shape,
    Worker,
    Workload,
    cpu_model,
    workload_from_json,
)

REPOSITORY = Path(__file__).resolve().parents[3]
SHAPE = Shape(num_layers=1, d_model=8, num_heads=2, num_kv_heads=1, d_ff=8, vocab_size=11)
HEAD = Workload("head_x", "head", SHAPE, 2, 1, 3, 2)
OURS = Implementation("fade_jax", sys.executable, "fade_jax_worker")
TORCH = Implementation("torch", None, "torch_peer")


def silent(text):
    """Shows nothing."""


@pytest.mark.parametrize(
    ("names", "vary", "message"),
    [
        ("nothing", [], "--workload: no 'nothing'; there are product, rollout, rollout_smollm2"),
        ("", ["size=2"], "--vary must be like group_size=4,8"),
        ("", ["group_size=2,x"], "--vary must be like group_size=4,8"),
        ("", ["group_size=0"], "--vary must be like group_size=4,8"),
        ("step", ["d_model=130"], "needs num_heads that divides d_model = 130"),
    ],
)
def test_select_workloads_rejects_bad_flags(names, vary, message):
    with pytest.raises(ConfigError) as error:
        select_workloads(names, vary)
    assert message in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--sweep_steps=15", "error: --sweep_steps must be a multiple of 10, got 15"),
        ("--out=/", "error: --out must be a file in a directory that is there, got '/'"),
    ],
)
def test_command_refuses_bad_flags_before_work(command, flag, message):
    process = command("experiments.perf.benchmark", flag)
    assert process.communicate(timeout=100)[1].strip().splitlines()[-1] == message
    assert process.returncode == 2


def test_select_workloads_by_name_kind_and_size():
    assert select_workloads("") == list(WORKLOADS)
    assert select_workloads("sweep") == []
    assert [w.name for w in select_workloads("head,product")] == [
        *("product", "head", "head_rows", "head_logits")
    ]
    four, eight = select_workloads("step", ["group_size=4,8", "d_model=64"])
    assert (four.name, four.group_size) == ("step_tiny group_size=4 d_model=64", 4)
    assert (eight.group_size, eight.shape.d_model, eight.prompts) == (8, 64, 8)


def test_workload_json_roundtrip():
    for workload in WORKLOADS:
        assert workload_from_json(json.loads(json.dumps(workload._asdict()))) == workload
    assert len({workload.name for workload in WORKLOADS}) == len(WORKLOADS)


def test_workload_amounts_and_baselines():
    by_name = {workload.name: workload for workload in WORKLOADS}
    assert by_name["rollout_smollm2"].amount == 32 * 64
    assert by_name["update_tiny_grouped"].amount == 16 * 128
    assert by_name["step_tiny"].sequences == 64
    for name in ("rollout_tiny", "update_smollm2"):
        distinct = by_name[name]
        assert by_name[f"{name}_grouped"].baseline == distinct._replace(name="")
    assert by_name["step_tiny"].baseline == by_name["step_tiny"]._replace(name="")
    for name in ("update_tiny_kept", "update_tiny_grouped_kept"):
        assert by_name[name].baseline == by_name["update_tiny"]._replace(name="")
    sizes = [len(group) for group in benchmark.families(WORKLOADS)]
    assert sizes == [1, 2, 2, 1, 1, 2, 4, 4, 2, 2, 3, 1]  # the slots beside the groups


def test_workload_lengths_are_geometric_and_the_same_for_baselines():
    workload = next(w for w in WORKLOADS if w.name == "update_tiny_real_lengths")
    lengths = workload.completion_lengths()
    drawn = np.random.default_rng(0).geometric(1 / 64, 32)
    assert lengths == [min(int(n), 256) for n in drawn]
    assert workload.amount == sum(lengths) + 32 * 32
    assert workload.baseline.completion_lengths() == lengths
    assert "32 + up to 256 tokens" in workload.title()


def test_completion_lengths_are_geometric_with_a_cap():
    workload = Workload("x", "rollout", SHAPE, 1000, 8, 3, 256, lengths="geometric")
    lengths = workload.completion_lengths()
    assert workload.amount == sum(lengths)
    assert len(lengths) == 8000
    assert (min(lengths), max(lengths)) == (1, 256)
    # Of min(X, 256) with P(X > n) = (63/64)^n: the mean is 64 (1 - (63/64)^256) = 62.9.
    assert sum(lengths) / 8000 == pytest.approx(62.9, abs=3)
    assert sum(n > 64 for n in lengths) / 8000 == pytest.approx((63 / 64) ** 64, abs=0.03)
    # A baseline has the same sequences, without groups.
    assert workload.baseline.completion_lengths() == lengths


def test_call_of_each_kind_does_what_it_is_named_for():
    cases = (
        ("rollout", "", "geometric"),
        ("rollout", "slots", "geometric"),
        ("update", "", "geometric"),
        ("update", "kept", "fixed"),
    )
    for kind, variant, lengths in cases:
        workload = Workload("x", kind, SHAPE, 8, 1, 3, 8, variant=variant, lengths=lengths)
        call = call_of(workload)
        before = [np.array(x) for x in jax.tree.leaves(call.arguments[0].params)]
        results = call.function(*call.arguments)
        if kind == "rollout":
            expected = workload.completion_lengths()
            np.testing.assert_array_equal(results.token_mask.sum(-1).ravel(), expected)
        else:
            after = jax.tree.leaves(results[0].params)
            assert any(np.any(a != np.asarray(b)) for a, b in zip(before, after))


@pytest.mark.slow
def test_measure_runs_every_kind():
    workloads = [
        Workload("rollout_y", "rollout", SHAPE, 2, 2, 3, 4, lengths="geometric"),
        Workload("update_y", "update", SHAPE, 4, 1, 3, 6, lengths="geometric"),
        *(HEAD._replace(name=f"head_{v}", variant=v) for v in ("", "rows", "logits")),
        Workload("step_x", "step", SHAPE, 2, 2, 3, 2, steps=2),
    ]
    results = json.loads(json.dumps(benchmark.measure(workloads, [OURS, TORCH], 1, None, silent)))
    assert len(results["entries"]) == 2 * len(workloads)
    for entry in results["entries"]:
        if entry["implementation"] == "fade_jax":
            assert (entry["status"], len(entry["seconds"])) == ("ok", 1)
            assert entry["peak_bytes"] > 1e7
        else:
            assert entry["status"] == "not installed"
    assert len(results["workloads"]) == len(workloads)
    assert benchmark.report(results | {"device": "cpu"}).count("| not installed ") == len(workloads)


def test_run_interleaved_reports_a_failed_process():
    wrong = Workload("rollout_x", "rollout", SHAPE._replace(num_kv_heads=3), 1, 1, 3, 2)
    (entry,) = run_interleaved([wrong], [OURS], 1, None, silent)
    assert entry["status"].startswith("failed, exit code 1: ValueError")
    assert entry["seconds"] == []


@pytest.mark.slow
def test_run_interleaved_repeats_a_killed_process_alone(tmp_path):
    (tmp_path / "python").write_text(
        "#!/bin/sh\n"
        f"if mkdir {tmp_path}/seen 2>/dev/null; then kill -9 $$; fi\n"
        f'exec {sys.executable} "$@"\n'
    )
    (tmp_path / "python").chmod(0o755)
    logged = []
    killed = OURS._replace(python=str(tmp_path / "python"))
    (entry,) = run_interleaved([HEAD], [killed], 1, None, logged.append)
    assert entry["status"] == "ok"
    assert entry["alone"]
    assert "head_x: fade_jax was killed; once more, alone" in logged


def test_worker_result_has_the_last_line_of_a_failed_process():
    worker = Worker(sys.executable, "nothing", HEAD, core=None)
    worker.request()
    assert "No module named experiments.perf.nothing" in worker.result["status"]
    worker.stop()


def test_cpu_model_of_cpuinfo():
    text = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n"
    text += "model name\t: AMD EPYC\nflags\t\t: fpu avx512f\n"
    assert cpu_model(text) == "AMD EPYC (family 25, model 17)"
    assert cpu_model("") == ""


ROLLOUT = {"name": "rollout_x", "title": "rollout_x: 8 prompts", "unit": "tokens/s"}
ROLLOUT |= {"amount": 600, "steps": 1}
STEP = {"name": "step_x", "title": "step_x: 8 prompts", "unit": "s", "amount": 1, "steps": 5}


def entry(workload, implementation, seconds, peak, **more):
    fields = {"workload": workload, "implementation": implementation, "status": "ok"}
    fields |= {"seconds": seconds, "cpu_seconds": seconds, "warm_up_s": 10.0, "peak_bytes": peak}
    return fields | {"versions": {"jax": "1.2.3"}, "notes": {"device": "cpu"}} | more


ABSENT = {"workload": "rollout_x", "implementation": "torch", "status": "not installed"}
RESULTS = {
    "device": "cpu",
    "machine": {"cpu": "A processor"},
    "repeats": 3,
    "implementations": ["fade_jax", "google-tunix", "torch"],
    "workloads": [ROLLOUT, STEP],
    "entries": [
        # 600 tokens in 1, 2 and 3 s: median 300 tokens/s of 600, 300, 200.
        entry("rollout_x", "fade_jax", [1.0, 2.0, 3.0], 500_000_000, cpu_seconds=[0.5, 0.5, 0.5]),
        entry("rollout_x", "google-tunix", [4.0, 6.0, 5.0], 2_000_000_000),
        ABSENT | {"seconds": [], "cpu_seconds": []},
        # 5 steps in 1 s: 0.2 s each; the best baseline takes 0.5 s.
        entry("step_x", "fade_jax", [1.0, 1.0, 1.0], 400_000_000),
        entry("step_x", "google-tunix", [5.0, 5.0, 5.0], 100_000_000),
        entry("step_x", "torch", [2.5, 2.5, 2.5], 1_600_000_000),
    ],
}
ROLLOUTS, STEPS = RESULTS["entries"][:3], RESULTS["entries"][3:]


def test_values_are_rates_or_seconds_per_step():
    assert benchmark.values(ROLLOUT, ROLLOUTS[0]) == [600, 300, 200]
    assert benchmark.values(ROLLOUT, ROLLOUTS[0], "cpu") == [1200, 1200, 1200]
    assert benchmark.values(STEP, STEPS[2]) == [0.5, 0.5, 0.5]


def test_ratios_to_the_fastest_baseline():
    # 300 tokens/s over tunix's 120; 0.5 GB over its 2 GB.
    assert benchmark.ratios(ROLLOUT, ROLLOUTS) == pytest.approx((2.5, 0.25))
    # torch's 0.5 s over our 0.2 s; 0.4 GB over its 1.6 GB, not over the smallest peak.
    assert benchmark.ratios(STEP, STEPS) == pytest.approx((2.5, 0.25))
    # By CPU time we are four times as fast as by the wall clock: 1200 over 120.
    assert benchmark.ratios(ROLLOUT, ROLLOUTS, "cpu") == pytest.approx((10, 0.25))
    assert benchmark.ratios(ROLLOUT, ROLLOUTS[:1]) is None


def test_main_table_values():
    table = benchmark.main_table(RESULTS)
    assert list(table)[:4] == ["workload", "fade_jax", "google-tunix", "torch"]
    assert list(table.loc[0]) == [
        "rollout_x: 8 prompts, tokens/s",
        "**300** [200, 600]; 0.50 GB; 6 s",  # compiling: 10 s less two repetitions of 2 s
        "**120** [100, 150]; 2.00 GB; 0 s",
        "not installed",
        *("2.50", "0.25", ""),
    ]
    assert table["fade_jax"][1] == "**0.2** [0.2, 0.2]; 0.40 GB; 8 s"
    assert "fade_jax: jax 1.2.3" in benchmark.report(RESULTS)


def test_main_table_flops_relative_to_a_product_or_a_published_peak():
    product = {"name": "product", "title": "product", "unit": "GFLOP/s", "amount": 100, "steps": 1}
    ours = ROLLOUTS[0] | {"notes": {"device": "cpu", "flop": 50e9}}
    entries = [entry("product", "fade_jax", [1.0, 1.0, 1.0], 1), ours]
    results = {"implementations": ["fade_jax"], "workloads": [product, ROLLOUT]}
    # 50 GFLOP in 2 s, where a plain product does 100 GFLOP/s.
    table = benchmark.main_table(results | {"entries": entries})
    assert table["GFLOP/s"][1] == "25, 25% of the plain product"
    ours["notes"] = {"device": "NVIDIA H100 80GB HBM3", "flop": 989.4e12}
    table = benchmark.main_table(results | {"workloads": [ROLLOUT], "entries": [ours]})
    assert table["GFLOP/s"][0] == "494,700, 50% of the bfloat16 peak of H100 SXM"


def test_sweep_table_values():
    modes = [{"title": "one program", "seconds": 120.0}]
    modes.append({"title": "commands", "seconds": None, "status": "failed, no"})
    table = benchmark.sweep_table({"runs": 16, "steps": 50, "step_s": 0.1, "modes": modes})
    assert list(table.loc[0]) == ["pure steps, 100 ms each", "80.0", "1", ""]
    # 40 s beside the steps are a tenth of 16 x 250 steps of 0.1 s.
    assert list(table.loc[1]) == ["one program", "120.0", "1.50", "250"]
    assert list(table.loc[2]) == ["commands", "failed, no", "", ""]


def test_worker_imports_the_standard_library_only():
    code = "import experiments.perf.worker"  # -S: without site-packages
    subprocess.run([sys.executable, "-S", "-c", code], cwd=REPOSITORY, check=True)
