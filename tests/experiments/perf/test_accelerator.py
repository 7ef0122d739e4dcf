"""The page of an accelerator: its time, what fails, what it says, and a rehearsal on the CPU."""

import contextlib
import json
import os
import sys
import time

import pytest

from experiments.perf import accelerator_sections
from experiments.perf.accelerator import Section, run_process, run_sections, sections
from experiments.perf.accelerator_page import page, table


def section(name, needs=0.0, limit=100.0):
    return Section(name, name.title(), {}, needs, limit)


def test_run_sections_writes_after_each_and_survives_failures():
    written = []

    def run(chosen, seconds):
        if chosen.name == "second":
            raise OSError("no such\ndevice")
        return [{"work": chosen.name}], "ok"

    chosen = [section(name) for name in ("first", "second", "third")]
    results = run_sections(chosen, 60, run, lambda found: written.append(len(found)))
    assert written == [1, 2, 3]
    assert [r["status"] for r in results] == ["ok", "failed: OSError: no such device", "ok"]
    assert [r["rows"] for r in results] == [[{"work": "first"}], [], [{"work": "third"}]]


def test_run_sections_keeps_to_the_time():
    asked = []

    def run(chosen, seconds):
        asked.append(seconds)
        time.sleep(0.3)
        return [], "ok"

    chosen = [section("short", limit=7), section("long", 50, 300), section("small", 0.1, 300)]
    results = run_sections(chosen, 20, run, lambda found: None)
    assert asked[0] == 7  # its own limit
    assert 19 < asked[1] < 20  # all that is left
    assert results[1]["status"] == "left out: 20 s left, 50 s needed"
    assert results[2]["status"] == "ok"


def test_run_process_returns_rows_of_a_command_that_fails():
    code = "import sys; print('{\"a\": 1}', flush=True); print('half', flush=True); sys.exit('why')"
    assert run_process([sys.executable, "-c", code], 60) == ([{"a": 1}], "failed, exit code 1: why")


def test_run_process_stops_children_in_time(tmp_path):
    """The command starts another; both are gone when the time is over."""
    code = (
        "import subprocess, sys, time; print('{\"a\": 1}', flush=True);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    start = time.monotonic()
    rows, status = run_process([sys.executable, "-c", code], 3)
    assert time.monotonic() - start < 30
    assert (rows, status) == ([{"a": 1}], "stopped after 3 s")
    stat = f"/proc/{(tmp_path / 'pid').read_text()}/stat"
    for _ in range(50):  # the system may take a moment to collect it
        if not os.path.exists(stat) or open(stat).read().split()[2] == "Z":  # noqa: SIM115
            return
        time.sleep(0.1)
    pytest.fail("the child is still there")


def test_sections_come_in_the_order_of_the_page():
    kinds = [section.name for section in sections(rehearse=False)]
    assert kinds[:2] == ["roofline", "numerics"]
    assert kinds[2:8] == [
        f"{kind}:{shape}"
        for shape in ("SmolLM2-135M", "Qwen2.5-0.5B")
        for kind in ("rollout", "update", "head")
    ]
    assert kinds[8:] == ["attention", "sweep", "quickstart"]
    assert {s.name.partition(":")[0] for s in sections(True)} == {
        s.partition(":")[0] for s in kinds
    }


RESULTS = [
    {
        "name": "roofline",
        "title": "A product",
        "status": "ok",
        "seconds": 2.0,
        "rows": [
            {"work": "product", "tflops": 500.0, "seconds": 0.1},
            {"work": "copy", "gbps": 1675.0, "seconds": 0.1},
        ],
    },
    {
        "name": "update:Qwen",
        "title": "Update",
        "status": "ok",
        "seconds": 3.0,
        "rows": [
            {"work": "update", "implementation": "fade_jax", "seconds": 2.0, "flop": 200e12},
            {"work": "update", "implementation": "torch", "seconds": 3.0, "memory_gb": 1.0},
        ],
    },
    {
        "name": "attention",
        "title": "Attention",
        "status": "stopped after 9 s",
        "seconds": 9.0,
        "rows": [
            {"work": "1k", "implementation": "plain", "seconds": 0.5},
            {"work": "1k", "implementation": "cudnn", "seconds": 0.1},
            {"work": "8k", "implementation": "cudnn", "status": "no | kernel"},
        ],
    },
    {"name": "sweep", "title": "Sweep", "status": "left out: 1 s", "seconds": 0.0, "rows": []},
]


def cells(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def test_page_states_fractions_ratios_and_failures():
    text = page({"device": "NVIDIA H100 80GB HBM3", "driver": ""}, RESULTS)
    assert text.startswith("# NVIDIA H100 80GB HBM3\n")
    assert "driver" not in text
    rows = cells(text)
    # 500 of 989.4 TFLOP/s, 1675 of 3350 GB/s; the update at 100 TFLOP/s is a fifth of the product.
    assert ["product", "500", "0.1", "0.505", ""] in rows
    assert ["copy", "", "0.1", "0.5", "1,675"] in rows
    assert ["update", "fade_jax", "2", "100", "0.2", "0.101", ""] in rows
    assert "- update: fade_jax is 1.50 times as fast as torch." in text
    assert "- 1k: cudnn is 5.00 times as fast as plain." in text
    assert "Stopped after 9 s." in text
    assert "Left out: 1 s." in text
    assert ["8k", "cudnn", "", "no / kernel"] in rows


def test_table_has_a_column_for_every_field():
    rows = cells(table([{"a_b": 1, "flop": 2.0}, {"seconds": 1234.0}]))
    assert rows == [["a b", "s"], ["---:", "---"], ["1", ""], ["", "1,234"]]


def test_command_refuses_unknown_sections(command, tmp_path):
    process = command(
        "experiments.perf.accelerator", f"--out={tmp_path / 'page'}", "--sections=roof"
    )
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert err.strip().splitlines()[-1] == (
        "error: --sections must be of roofline, numerics, rollout, update, head, attention, sweep,"
        " quickstart, got 'roof'"
    )


def rehearse(command, folder, *arguments):
    process = command("experiments.perf.accelerator", "--rehearse", f"--out={folder}", *arguments)
    out, err = process.communicate(timeout=1500)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == str(folder / "accelerator.md")
    return json.loads((folder / "accelerator.json").read_text())


def test_rehearsal_of_two_sections(command, tmp_path):
    found = rehearse(command, tmp_path, "--sections=roofline,head", "--torch_python=/nowhere")
    assert [s["status"] for s in found["sections"]] == ["ok", "ok"]
    assert found["about"]["device"] == "cpu"
    assert len(found["about"]["commit"].split()[0]) in (7, 40)
    product, copy = found["sections"][0]["rows"]
    assert product["tflops"] == pytest.approx(2 * 256**3 / product["seconds"] / 1e12)
    assert copy["gbps"] == pytest.approx(2 * 1024 * 256 * 2 / copy["seconds"] / 1e9)
    (head,) = found["sections"][1]["rows"]
    assert head["flop"] == 4 * 2 * 16 * 32 * 64  # 16 tokens, width 32, 64 ids
    text = (tmp_path / "accelerator.md").read_text()
    assert "A rehearsal: sizes are tiny" in text


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_rehearsal_of_further_sections(command, tmp_path):
    """All but the quickstart, whose command has tests of its own, and attention, tested below."""
    names = "numerics", "rollout", "update", "sweep"
    flags = f"--sections={','.join(names)}", "--torch_python=/nowhere", "--minutes=20"
    found = rehearse(command, tmp_path, *flags)
    assert {s["name"].partition(":")[0]: s["status"] for s in found["sections"]} == dict.fromkeys(
        names, "ok"
    )
    rows = {s["name"].partition(":")[0]: s["rows"] for s in found["sections"]}
    assert rows["numerics"][0]["failed"] == 0
    assert rows["numerics"][0]["passed"] > 10
    for name in ("rollout", "update"):
        assert all(row["tokens_per_s"] > 0 for row in rows[name])
    assert {row["implementation"] for row in rows["sweep"]} == {
        "one vmapped program",
        "run after run",
    }


@pytest.mark.parity
@pytest.mark.timeout(1600)
def test_rehearsal_beside_torch(command, tmp_path):
    found = rehearse(command, tmp_path, "--sections=rollout,update", "--minutes=20")
    for section in found["sections"]:
        assert section["status"] == "ok"
        ours, theirs = section["rows"]
        assert ours["implementation"] == "fade_jax"
        assert theirs["largest_difference"] < 1e-4


def test_attention_of_every_implementation_is_that_of_float32():
    rows = []
    accelerator_sections.attention_by_length(rows.append, [64], 64)
    assert [row["implementation"] for row in rows] == ["plain", "blocks"]
    for row in rows:
        assert row["largest_error"] < 0.02


def test_quickstart_reports_the_scores_of_its_runs(monkeypatch, tmp_path):
    """One row for the command, and one for each run that was evaluated."""
    results = {"fade": {"step": 4, "pass@1": 0.1, "eval/pass@1": 0.25}, "warm_start": {"step": 2}}
    for name, result in results.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    started = []

    @contextlib.contextmanager
    def finished(*arguments):
        started.append(arguments)
        yield 12.5, tmp_path

    monkeypatch.setattr(accelerator_sections, "_command", finished)
    rows = []
    accelerator_sections.quickstart(rows.append, ":smoke")
    assert started == [("--config=configs/quickstart.py:smoke", "--noreport")]
    assert rows == [
        {"work": "warm start and all runs", "seconds": 12.5},
        {"work": "fade", "eval/pass@1": 0.25},
    ]
