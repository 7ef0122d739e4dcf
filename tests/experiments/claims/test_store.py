import json

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
