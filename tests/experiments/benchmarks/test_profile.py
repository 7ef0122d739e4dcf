"""Operations are counted from their text; a trace finds the products that the formula counts."""

import json

import pytest

from experiments.benchmarks import processes, record
from experiments.benchmarks.profile.__main__ import main
from experiments.benchmarks.profile.operations import (
    ATTENTION,
    MOVED,
    REST,
    WEIGHTS,
    operations,
)
from experiments.benchmarks.profile.page import NAME, floor_text, kinds_table, longest_table
from experiments.benchmarks.works import Shape, Work
from tests.conftest import QUICKLY

TEXT = """\
HloModule m, entry_computation_layout={(f32[5,7]{1,0})->f32[5,3]{1,0}}

%fused (p.0: f32[5,7], p.1: f32[7,3]) -> f32[5,3] {
  %p.0 = f32[5,7]{1,0} parameter(0)
  %p.1 = f32[7,3]{1,0} parameter(1)
  ROOT %d.0 = f32[5,3]{1,0} dot(%p.0, %p.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%turn (p.2: f32[7,3]) -> f32[3,7] {
  %p.2 = f32[7,3]{1,0} parameter(0)
  ROOT %t.0 = f32[3,7]{1,0} transpose(%p.2), dimensions={1,0}
}

%add (p.3: f32[5,3]) -> f32[5,3] {
  %p.3 = f32[5,3]{1,0} parameter(0)
  ROOT %a.0 = f32[5,3]{1,0} add(%p.3, %p.3)
}

ENTRY %main (x: f32[5,7]) -> f32[5,3] {
  %x = f32[5,7]{1,0} parameter(0)
  %c = f32[7,3]{1,0} constant({...})
  %turned = f32[3,7]{1,0} fusion(%c), kind=kLoop, calls=%turn
  %h = f32[2,4,6]{2,1,0} constant({...})
  %scores = f32[2,4,4]{2,1,0} dot(%h, %h), lhs_batch_dims={0}, lhs_contracting_dims={2}, \
rhs_batch_dims={0}, rhs_contracting_dims={2}
  %product = f32[5,3]{1,0} fusion(%x, %c), kind=kCustom, calls=%fused
  %called = f32[5,3]{1,0} call(%product), to_apply=%add
  ROOT %sum = f32[5,3]{1,0} fusion(%called), kind=kLoop, calls=%add
}
"""


def test_kinds_and_flop_of_a_text():
    found = operations(TEXT)
    assert found["product"] == (WEIGHTS, "f32[5,3] of f32[5,7], f32[7,3]", 2 * 5 * 7 * 3)
    assert found["scores"] == (ATTENTION, "f32[2,4,4] of f32[2,4,6], f32[2,4,6]", 2 * 2 * 4 * 4 * 6)
    assert found["turned"] == (MOVED, "f32[3,7] of f32[7,3]", 0)
    assert "called" not in found  # its time is that of what it calls
    assert found["sum"] == (REST, "f32[5,3] of f32[5,3]", 0)


# Sizes of which no two are equal, and none is 1.
SHAPE = Shape(layers=3, width=24, heads=2, kv_heads=2, hidden=40, vocabulary=50)


@pytest.mark.parametrize("kind", ["rollout", "update"])
def test_a_trace_has_the_products_of_the_formula(kind):
    work = Work("x", kind, SHAPE, prompts=4, group=2, prompt=7, completion=6)
    measured = processes.report_of(
        "profile.measure",
        json.dumps(work._asdict()),
        "1",
        core=None,
        environment={QUICKLY: "0"},  # which products there are is up to the compiler
    )
    found = measured["operations"]
    model = SHAPE.layers * 2 * SHAPE.width * (4 * SHAPE.width + 3 * SHAPE.hidden)
    scores, head = 4 * SHAPE.layers * SHAPE.width, 2 * SHAPE.width * SHAPE.vocabulary
    # The prompts, then five of six tokens of each completion.
    once = model * (4 * 7 + 8 * 5)
    if kind == "rollout":  # over a cache with room for 7 + 6
        expected = once + scores * (4 * 7 * 7 + 8 * 5 * 13) + head * (4 + 8 * 5)
    else:  # forward, again for the backward pass but for `down`, and two products for each
        down = SHAPE.layers * 2 * SHAPE.width * SHAPE.hidden * (4 * 7 + 8 * 5)
        expected = 4 * once - down + 4 * scores * (4 * 7 * 7 + 8 * 5 * 12)
        # All of this vocabulary fits one block of the head, whose logits are kept; two sums over
        # it are products too. The rank-one fraction of the head's update, which would be another,
        # is off in what is timed.
        expected += 3 * head * 8 * 6 + 2 * 2 * SHAPE.vocabulary * 8 * 6
    assert sum(one["flop"] * one["times"] for one in found) == expected
    assert sum(one["seconds"] for one in found) <= measured["traced_seconds"]
    assert {one["kind"] for one in found} == {WEIGHTS, ATTENTION, MOVED, REST}


MEASURED = {
    "seconds": [2.0, 4.0, 3.0],
    "product_seconds": [2 * 2048**3 / 1e10] * 3,  # 10 GFLOP/s
    "traced_seconds": 4.0,
    "operations": [
        {"kind": WEIGHTS, "what": "a of b", "flop": 10**9, "times": 5, "seconds": 1.0},
        {"kind": ATTENTION, "what": "c of d", "flop": 10**9, "times": 1, "seconds": 0.5},
        {"kind": REST, "what": "e of f", "flop": 0, "times": 7, "seconds": 2.0},
    ],
}


def test_page_of_handmade_figures():
    text = floor_text(MEASURED)
    assert text.startswith("3 s without a trace, 4 s with it.")
    assert "6 GFLOP; at the 10 GFLOP/s" in text
    assert "they take 0.6 s, which is 20% of" in text
    rows = kinds_table(MEASURED).rows
    assert rows[0] == (WEIGHTS, "5", "1", "25%", "5", "5", "0.5")
    assert rows[2] == (MOVED, "0", "0", "0%", "", "", "0")
    assert rows[-1][:4] == ("between operations", "", "0.5", "12%")
    assert longest_table(MEASURED).rows[0] == ("e of f", "7", "2", "50.0%", "")


def test_command_keeps_other_works_and_renders(tmp_path, monkeypatch, capsys):
    asked = []

    def fake(module, sizes, repeats, core):
        asked.append((module, json.loads(sizes)["name"], repeats))
        return MEASURED

    monkeypatch.setattr(processes, "report_of", fake)
    main(["--only=update_tiny", f"--out={tmp_path}"])
    main(["--only=rollout_tiny", "--repeats=2", f"--out={tmp_path}"])
    assert asked == [
        ("profile.measure", "update_tiny", "3"),
        ("profile.measure", "rollout_tiny", "2"),
    ]
    assert list(record.load(tmp_path / NAME)) == ["update_tiny", "rollout_tiny"]
    page = (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").unlink()
    main(["--render", f"--out={tmp_path}"])
    assert (tmp_path / "README.md").read_text() == page
    assert "## rollout, tiny, 32 prompts, 32 + 64 tokens" in page
    assert "README.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only=head"], "--only: there is no 'head'; there are rollout_smollm2"),
        (["--repeats=0"], "--repeats must be at least 1, got 0"),
        (["--render", "--out=/nowhere"], "--render: there is no /nowhere/profile.json"),
    ],
)
def test_wrong_flags_say_so(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
