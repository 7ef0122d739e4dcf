import json
import shutil

import numpy as np
import pytest

from experiments.claims import store
from experiments.claims.sweep_data import POINTS, summary, thin
from experiments.report.runs import Run, setting
from tests.experiments.claims.synthetic import Truth, write_sweep


def test_what_is_read_back_is_what_the_runs_logged(tmp_path):
    truths = {"a": Truth(), "b": Truth(rate=0.3, suppressed=40, advantage=("fade", {"rate": 0.5}))}
    workdir = write_sweep(tmp_path / "core", truths, seeds=(0, 1), unfinished=("a-seed1",))
    store.write_tidy(workdir, tmp_path / "data" / "core")
    data = store.read_tidy(tmp_path / "data" / "core")

    assert data.name == "core"
    assert data.num_samples == 128
    assert data.ks == [1, 10, 100]
    assert [run.name for run in data.runs] == ["a-seed0", "a-seed1", "b-seed0", "b-seed1"]
    assert {m: list(runs) for m, runs in data.methods.items()} == {"a": [0], "b": [0, 1]}
    assert data.seeds(["a", "b"]) == [0]
    run = data.methods["b"][1]
    assert setting(run.config, "advantage.kwargs.rate") == 0.5
    assert setting(run.config, "advantage.name") == "fade"
    assert setting(run.config, "seed") == 1
    assert setting(run.config, "steps") == 100
    assert run.last_step == 100
    assert setting(run.config, "warm_start.workdir") is None  # of one machine
    assert run.result is not None
    assert run.result["first_suppressed"] == 40
    for step in (0, 25, 100):
        with np.load(workdir / f"runs/b-seed1/evaluations/{step}.npz") as file:
            np.testing.assert_array_equal(data.counts["b-seed1"][step], file["num_correct"])
    logged = [json.loads(x) for x in (workdir / "runs/b-seed1/metrics.jsonl").open()]
    ends = [line for line in logged if "eval/pass@1" in line]
    for key in ("eval/pass@1", "eval/pass@100", "eval/entropy"):
        read = [line[key] for line in run.evaluations]
        assert read == pytest.approx([line[key] for line in ends], rel=1e-3)


def test_writing_twice_gives_the_same_bytes(tmp_path):
    workdir = write_sweep(tmp_path / "x", {"a": Truth()}, seeds=(0, 1))
    for out in ("one", "two"):
        store.write_tidy(workdir, tmp_path / out)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_finished_run_without_its_counts_is_an_error(tmp_path):
    workdir = write_sweep(tmp_path / "x", {"a": Truth()}, seeds=(0,))
    (workdir / "runs/a-seed0/evaluations/50.npz").unlink()
    with pytest.raises(ValueError, match=r"a-seed0 finished.*50\.npz"):
        store.write_tidy(workdir, tmp_path / "out")


def test_a_sweep_of_which_nothing_finished_is_read_as_planned(tmp_path):
    workdir = write_sweep(tmp_path / "x", {"a": Truth()}, seeds=(0,), unfinished=("a-seed0",))
    store.write_tidy(workdir, tmp_path / "out")
    data = store.read_tidy(tmp_path / "out")
    assert data.methods == {"a": {}}
    assert len(data.runs) == 1


def test_a_planned_run_is_taken_from_a_sweep_that_has_made_it(tmp_path):
    a, b = ("power", {"alpha": 2.0}), ("asym_grpo", {"delta": 2.0})
    other = write_sweep(tmp_path / "core", {"p": Truth(advantage=a, suppressed=7)}, seeds=(0, 1))
    store.write_tidy(other, tmp_path / "data/core")
    core = store.read_tidy(tmp_path / "data/core")
    delta = write_sweep(tmp_path / "delta", {"p": Truth(advantage=a)}, seeds=(0, 1))
    store.write_tidy(delta, tmp_path / "data/delta")  # the same, with three of five counts
    delta = store.read_tidy(tmp_path / "data/delta")
    truths = {"power2": Truth(advantage=a), "asym2": Truth(advantage=b)}
    workdir = write_sweep(tmp_path / "methods", truths, seeds=(0, 1, 2))
    for seed in range(3):
        shutil.rmtree(workdir / f"runs/power2-seed{seed}")
    planned = [
        {"name": f"{method}-seed{seed}", "overrides": {"advantage": advantage, "seed": seed}}
        for method, advantage in (
            ("power2", {"name": "power", "kwargs": {"alpha": 2.0}}),
            ("asym2", {"name": "asym_grpo", "kwargs": {"delta": 2.0}}),
        )
        for seed in range(3)
    ]
    (workdir / "sweep.json").write_text(json.dumps({"runs": planned}))
    store.write_tidy(workdir, tmp_path / "data/methods", [delta, core])
    data = store.read_tidy(tmp_path / "data/methods")

    assert {m: list(runs) for m, runs in data.methods.items()} == {
        "power2": [0, 1],  # seed 2 is nowhere
        "asym2": [0, 1, 2],
    }
    taken, source = data.methods["power2"][1], core.methods["p"][1]
    assert taken.name == "power2-seed1"
    assert taken.result["made_by"] == "core"
    assert data.methods["asym2"][1].result["made_by"] == ""
    assert taken.config == source.config
    assert taken.train == source.train
    assert taken.evaluations == source.evaluations
    assert taken.result | {"made_by": ""} == source.result
    assert taken.result["first_suppressed"] == 7
    for step, counts in core.counts["p-seed1"].items():
        np.testing.assert_array_equal(data.counts["power2-seed1"][step], counts)

    # Written again without its workdir's neighbours: it stays, under the name of who made it.
    store.write_tidy(workdir, tmp_path / "data/methods", [data])
    again = store.read_tidy(tmp_path / "data/methods")
    assert again.methods["power2"][1].result["made_by"] == "core"


def test_a_run_of_another_config_or_without_every_count_is_not_taken(tmp_path):
    a = ("power", {"alpha": 2.0})
    planned = {"name": "p-seed0", "overrides": {"advantage": {"name": "power", "kwargs": {}}}}
    for name, steps, kwargs in (("core", 200, {"alpha": 2.0}), ("delta", 100, {"alpha": 2.0})):
        other = write_sweep(tmp_path / name, {"p": Truth(advantage=a)}, seeds=(0,), steps=steps)
        store.write_tidy(other, tmp_path / "data" / name)
        known = store.read_tidy(tmp_path / "data" / name)
        workdir = write_sweep(tmp_path / name / "methods", {"q": Truth()}, seeds=(0,))
        planned["overrides"]["advantage"]["kwargs"] = kwargs
        runs = json.loads((workdir / "sweep.json").read_text())["runs"]
        runs[0]["overrides"] = {"advantage": {"name": "dr_grpo", "kwargs": {}}}
        (workdir / "sweep.json").write_text(json.dumps({"runs": [*runs, planned]}))
        store.write_tidy(workdir, tmp_path / "out", [known])  # delta keeps three counts of five
        assert store.read_tidy(tmp_path / "out").methods["p"] == {}


def test_of_other_sweeps_the_counts_of_the_first_two_and_the_last_evaluation(tmp_path):
    workdir = write_sweep(tmp_path / "alpha", {"a": Truth()}, seeds=(0,))
    store.write_tidy(workdir, tmp_path / "out")
    data = store.read_tidy(tmp_path / "out")
    assert list(data.counts["a-seed0"]) == [0, 25, 100]
    assert [line["step"] for line in data.runs[0].evaluations] == [0, 25, 50, 75, 100]


def test_thinning_takes_means_of_parts_and_keeps_where_alpha_begins():
    lines = [
        {"step": s, "entropy": float(s), "alpha": 2.0 + (s == 1), "solve_rate_histogram": [1, s]}
        for s in range(1, 191)
    ]
    start, *means = thin(lines)
    assert start == {"step": 1, "alpha": 3.0}
    assert len(means) == POINTS - 1  # of 10 lines each
    assert means[1]["entropy"] == 15.5
    assert means[1]["alpha"] == 2
    assert means[1]["solve_rate_histogram"] == [10, 155]


def test_thinning_leaves_out_what_was_not_logged():
    assert thin([{"step": 1, "entropy": None}, {"step": 2, "alpha": 1.5}]) == [
        {"step": 1},
        {"step": 2, "alpha": 1.5},
    ]


def test_the_last_rank_is_kept_as_logged():
    lines = ({"step": 9, "rank_one_fraction": 0.5}, {"step": 10, "rank_one_fraction": 0.25})
    assert summary(Run("a", "a", {}, lines, (), {}))["rank_one_fraction"] == 0.25
