"""The search for a mesh, against all meshes that there are."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.config import ConfigError
from experiments.perf import flops, plan
from experiments.perf.plan_search import Candidate, candidates, meshes, search, search_table
from experiments.perf.plan_tables import Plan
from experiments.perf.seconds import DEVICES
from tests.experiments.perf.test_plan import MODEL, P, abstract_state_of, config

H100 = DEVICES[0]


def build(mesh):
    return plan.abstract_experiment(config(mesh), MODEL)


def toy_plan(seconds):
    empty: Any = {key: {} for key in Plan._fields}
    return Plan(**empty)._replace(samplers=0, seconds={H100.name: {"step": seconds, "learn": 0.0}})


def test_meshes_are_all_factorizations():
    assert meshes(1) == ["data=1,fsdp=1,tensor=1"]
    found = meshes(12)
    sizes = [tuple(int(part.split("=")[1]) for part in mesh.split(",")) for mesh in found]
    brute = {
        (a, b, c)
        for a in range(1, 13)
        for b in range(1, 13)
        for c in range(1, 13)
        if a * b * c == 12
    }
    assert set(sizes) == brute
    assert len(found) == len(brute) == 18


def test_candidates_are_the_meshes_that_can_be():
    """Two heads of keys: no tensor axis of 4 or 8; 16 prompts go over 8 devices."""
    found, refused = candidates(8, H100, build)
    assert {c.mesh for c in found} == {
        f"data={data},fsdp={fsdp},tensor={tensor},learner.microbatches=1"
        for tensor in (1, 2)
        for data in (1, 2, 4, 8)
        if (fsdp := 8 // tensor // data) >= 1
    }
    assert refused.keys() == {m for m in meshes(8) if m.endswith(("tensor=4", "tensor=8"))}
    assert set(refused.values()) == {"the tensor axis must divide the 2 heads of keys"}
    assert all(c.bound > 0 for c in found)


def test_candidates_take_the_fewest_microbatches_that_fit():
    """With half of the memory of a microbatch of all prompts, more than one."""

    def peak(count):
        experiment = build(f"data=1,fsdp=2,tensor=1,learner.microbatches={count}")
        work, state = flops.work_of(experiment), abstract_state_of(experiment)
        step = max(
            sum(flops.learn_bytes(work, state).values()), sum(flops.sample_bytes(work).values())
        )
        return sum(flops.state_bytes(state).values()) + step

    peaks = {count: peak(count) for count in (1, 2, 4, 8)}  # 8 prompts on each of 2 devices
    assert P == 16
    memory = (peaks[1] + min(peaks.values())) / 2
    fewest = min(count for count, size in peaks.items() if size <= memory)
    assert fewest > 1
    found, _ = candidates(2, H100._replace(memory=memory), build)
    by_mesh = {c.mesh: c.peak for c in found}
    mesh = f"data=1,fsdp=2,tensor=1,learner.microbatches={fewest}"
    assert by_mesh[mesh] == pytest.approx(peaks[fewest])


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 10)), min_size=1, max_size=12))
def test_search_finds_the_fastest_and_compiles_no_more_than_it_must(times):
    """(bound, what collectives add) of every mesh."""
    seconds = {f"mesh{i}": bound + more for i, (bound, more) in enumerate(times)}
    found = [Candidate(f"mesh{i}", 1e9, bound) for i, (bound, _) in enumerate(times)]
    compiled = []

    def make(mesh):
        compiled.append(mesh)
        return toy_plan(seconds[mesh])

    best = search(found, {}, H100, make)
    assert seconds[best.best_mesh] == min(seconds.values())
    assert best.best.seconds[H100.name]["step"] == min(seconds.values())
    assert len(set(compiled)) == len(compiled)
    assert {*compiled} | {c.mesh for c in best.bounded} == seconds.keys()
    assert all(c.bound >= min(seconds.values()) for c in best.bounded)
    # None was compiled whose bound is above the best step.
    assert all(times[int(m[4:])][0] <= min(seconds.values()) for m in compiled)


def test_search_without_a_mesh_that_fits_is_one_line():
    tiny = H100._replace(memory=1.0)
    found, refused = candidates(2, tiny, build)
    assert found == []
    with pytest.raises(ConfigError) as error:
        search(found, refused, tiny, toy_plan)
    assert "--search: no mesh fits H100 SXM: data=1,fsdp=1,tensor=2: " in str(error.value)
    assert "\n" not in str(error.value)


def test_search_table_is_sorted_and_ends_with_the_command(capsys):
    slow, fast = toy_plan(3.0), toy_plan(2.0)
    found = search(
        [Candidate("fsdp=2", 1e9, 1.0), Candidate("fsdp=4", 1e9, 1.5), Candidate("no", 3e9, 2.5)],
        {"fsdp=3": "config.prompts must be a multiple"},
        H100,
        {"fsdp=2": slow, "fsdp=4": fast}.__getitem__,
    )
    assert math.isclose(found.best.seconds[H100.name]["step"], 2.0)
    text = search_table(found, H100)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert [row for row in rows if row][2:] == [
        ["fsdp=4", "0", "2"],
        ["fsdp=2", "0", "3"],
        ["no", "3", "at least 2.5"],
        ["fsdp=3", "", "config.prompts must be a multiple"],
    ]
    assert text.endswith("best: --mesh=fsdp=4")
    assert "2 of at most 3: fsdp=4" in capsys.readouterr().err
