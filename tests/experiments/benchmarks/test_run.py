"""The suite from its flags to its results, at the smallest sizes; no time is asserted."""

import json
import sys

import pytest

from experiments.benchmarks import machine, run
from experiments.benchmarks.compare import Contender, compare, families
from experiments.benchmarks.processes import Worker, WorkerError
from experiments.benchmarks.works import WORKS, Shape, Work, from_json

SHAPE = Shape(layers=1, width=8, heads=2, kv_heads=1, hidden=8, vocabulary=11)
TINIEST = (
    Work("rollout_x_grouped", "rollout", SHAPE, 2, 2, 3, 2),
    Work("update_x", "update", SHAPE, 4, 1, 3, 2, keeps="products"),
    Work("head", "head", SHAPE, 2, 1, 3, 2),
    Work("step_x", "step", SHAPE, 2, 2, 3, 2, steps=2),
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only=nothing"], "--only: there is no 'nothing'; there are product, rollout_smollm2"),
        (["--repeats=0"], "--repeats must be at least 1, got 0"),
        (["--sweep_steps=15"], "--sweep_steps must be a multiple of 10, got 15"),
        (["--render=/nowhere"], "--render: there is no /nowhere/results.json"),
        (["--clock=sun"], "invalid choice: 'sun'"),
    ],
)
def test_wrong_flags_say_so(arguments, message, capsys):
    with pytest.raises(SystemExit):
        run.parse(arguments)
    assert message in capsys.readouterr().err


def test_works_survive_json():
    for work in WORKS:
        assert from_json(json.loads(json.dumps(work._asdict()))) == work
    assert len({work.name for work in WORKS}) == len(WORKS)


def test_amounts_and_what_peers_share():
    by_name = {work.name: work for work in WORKS}
    assert by_name["rollout_smollm2"].amount == 32 * 64
    assert by_name["update_tiny_grouped"].amount == 16 * 128
    assert by_name["step_tiny"].sequences == 64
    for name in ("rollout_tiny", "update_smollm2"):
        assert by_name[f"{name}_grouped"].peers_work == by_name[name]
    assert by_name["step_tiny"].peers_work == by_name["step_tiny"]
    for name in ("update_tiny", "update_tiny_grouped"):
        kept = by_name[f"{name}_kept"]
        assert kept == by_name[name]._replace(name=kept.name, keeps="products")
        assert kept.peers_work == by_name["update_tiny"]
    assert [len(group) for group in families(WORKS)] == [1, 2, 2, 4, 4, 1, 1]


@pytest.mark.slow
def test_from_flags_to_results(tmp_path):
    flags = run.parse(
        ["--peers", "--repeats=1", "--torch_python=/none/python", "--tunix_python=/none/python"]
    )
    flags.only, flags.command = [work.name for work in TINIEST], ["--peers"]
    results = run.measure(flags, TINIEST)
    text = run.write(results, tmp_path, "wall").read_text()

    assert results["implementations"] == ["ours", "tunix", "torch"]
    for entry in results["entries"]:
        if entry["implementation"] == "ours":
            assert entry["status"] == "ok"
            assert len(entry["seconds"]) == 1
            assert entry["peak_bytes"] > 1e7
        else:
            assert entry["status"] == "not installed"
    assert "sweep" not in results
    rows = [line for line in text.splitlines() if line.startswith(("| rollout", "| whole"))]
    assert sum(row.count("| not installed |") >= 1 for row in rows) == 2
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))


def test_a_process_that_fails_is_a_row_not_an_end():
    wrong = Work("rollout_x", "rollout", SHAPE._replace(kv_heads=3), 1, 1, 3, 2)
    ours = Contender("ours", sys.executable, "fade_jax_worker")
    (entry,) = compare([wrong], [ours], 1, None, lambda text: None)
    assert entry["status"].startswith("failed, exit code 1: ValueError")
    assert entry["seconds"] == []


@pytest.mark.slow
def test_a_process_that_is_killed_is_tried_once_more_alone(tmp_path):
    (tmp_path / "python").write_text(
        "#!/bin/sh\n"
        f"if mkdir {tmp_path}/seen 2>/dev/null; then kill -9 $$; fi\n"
        f'exec {sys.executable} "$@"\n'
    )
    (tmp_path / "python").chmod(0o755)
    ours = Contender("ours", str(tmp_path / "python"), "fade_jax_worker")
    told = []
    (entry,) = compare([Work("head", "head", SHAPE, 2, 1, 3, 2)], [ours], 1, None, told.append)
    assert entry["status"] == "ok"
    assert entry["alone"]
    assert "head: ours was killed; once more, alone" in told


def test_last_words_of_a_process():
    worker = Worker(sys.executable, "nothing", TINIEST[0], core=None, environment={})
    with pytest.raises(WorkerError, match=r"No module named experiments\.perf\.nothing"):
        worker.answer()
    worker.stop()


def test_machine_of_cpuinfo():
    text = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n"
    text += "model name\t: AMD EPYC\nflags\t\t: fpu avx512f\n"
    assert machine.cpu_model(text) == "AMD EPYC (family 25, model 17)"
    assert machine.slug("AMD EPYC (family 25, model 17)") == "amd_epyc_family_25_model_17"
    assert machine.cpu_model("") == ""
