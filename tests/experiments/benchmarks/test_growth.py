"""The growth page: fits against closed forms, marks, and a page from handmade figures."""

import json
import re

import numpy as np
import pytest

from experiments.benchmarks import record
from experiments.benchmarks.growth import collect
from experiments.benchmarks.growth.__main__ import main
from experiments.benchmarks.growth.axes import AXES, Sizes
from experiments.benchmarks.growth.fit import exponent, faster_than_work
from experiments.benchmarks.growth.parts import (
    attention_seconds,
    decode_seconds,
    drawing_seconds,
    product_seconds,
)
from experiments.benchmarks.growth.point import measure
from experiments.benchmarks.growth.series import STEPS, series
from experiments.benchmarks.growth.write import NAME

TINY = Sizes(prompts=2, group=2, prompt=4, completion=3, vocabulary=16, layers=1, width=32)
BATCH = next(axis for axis in AXES if axis.name == "batch")


def handmade(sizes, time_exponent):
    """A record whose work is in proportion to the prompts, and whose seconds are a power of it."""
    work = 1e9 * sizes.prompts
    step = {
        "seconds": [9.0, 1e-3 * sizes.prompts**time_exponent, 1e-9],
        "cpu_seconds": [9.0, 1e-3 * sizes.prompts**time_exponent, 1e-9],
        "peak_bytes": 10**7,
        "argument_bytes": 10**6 * sizes.prompts,
        "output_bytes": 10**6 * sizes.prompts,
        "temporary_bytes": 10**6 * sizes.prompts,
        "compile_seconds": 2.0,
        "flops": {"projections": work / 2, "attention": 0.0, "head": work / 2},
    }
    return {"sizes": sizes._asdict(), "idle_bytes": 10**8, "sample": step, "learn": step}


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_exponent_of_a_power_is_that_power(power):
    x = np.array([1, 2, 8, 16, 64])
    assert exponent(x, 3.7 * x**power) == pytest.approx(power, abs=1e-12)


def test_exponent_of_a_sum_of_powers_lies_between_them_and_ends_at_the_larger():
    x = np.array([1, 2, 4, 8])
    assert 1 < exponent(x, x + x**2) < 2
    assert exponent(1e9 * x, 1e9 * x + (1e9 * x) ** 2) == pytest.approx(2)


def test_exponent_against_three_points_by_hand():
    # log2: x 0, 1, 2 and y 0, 1, 3: slope (−1·0 + 0·1 + 1·3) / 2
    assert exponent([1, 2, 4], [1, 2, 8]) == pytest.approx(1.5)


@pytest.mark.parametrize(("x", "y"), [([4, 4], [1, 2]), ([1], [1]), ([1, 2], [0, 1])])
def test_exponent_is_nan_where_there_is_none(x, y):
    assert np.isnan(exponent(x, y))


def test_marks_compare_each_point_with_the_one_before():
    work, cost = [1, 2, 4, 4, 8], [1, 2, 5.3, 5.3, 5.3]
    assert faster_than_work(work, cost, limit=1.3) == [False, False, True, False, False]
    assert faster_than_work(work, cost, limit=1.4) == [False] * 5


def test_marks_where_the_work_stays_the_same():
    assert faster_than_work([5, 5, 5], [1, 1.2, 1.7]) == [False, False, True]
    assert faster_than_work([5], [1]) == [False]


def test_every_point_is_on_its_axis_and_the_mesh_divides_it():
    assert len({axis.name for axis in AXES}) == len(AXES)
    for axis in AXES:
        values = [axis.value(sizes) for sizes in axis.points]
        assert values == sorted(set(values))
        assert values[-1] >= 8 * values[0]
        for sizes in axis.points:
            assert sizes.prompts % (sizes.data * sizes.fsdp * sizes.microbatches) == 0


def test_series_takes_medians_and_fits_against_axis_and_work():
    points = [handmade(sizes, 2) for sizes in BATCH.points]
    found = series(BATCH, points, "learn")
    assert found.seconds == pytest.approx([1e-3 * sizes.prompts**2 for sizes in BATCH.points])
    assert found.program == [3 * 10**6 * sizes.prompts for sizes in BATCH.points]
    assert found.exponents()["time by work"] == pytest.approx(2)
    assert found.exponents()["memory by axis"] == pytest.approx(1)
    assert found.slow == [False, *[True] * (len(points) - 1)]


@pytest.mark.parametrize(("power", "marks"), [(1, 0), (2, 2 * (len(BATCH.points) - 1))])
def test_render_from_handmade_figures(tmp_path, capsys, power, marks):
    record.save(tmp_path / NAME, "batch", [handmade(s, power) for s in BATCH.points], repeats=3)
    main(["--render", f"--out={tmp_path}"])
    assert "README.md" in capsys.readouterr().out
    page = (tmp_path / "README.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert sum(row.count("▲") for row in rows) == marks
    assert "![" in page
    assert (tmp_path / "batch.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "group.png").exists()


def test_command_measures_a_point_once_and_keeps_other_axes(tmp_path, monkeypatch):
    asked = []

    def fake(sizes, repeats):
        asked.append(sizes)
        return handmade(sizes, 1)

    monkeypatch.setattr(collect, "measure_point", fake)
    main(["--axis=batch", "--axis=group", "--repeats=2", f"--out={tmp_path}"])
    main(["--axis=layers", "--repeats=1", f"--out={tmp_path}"])
    saved = json.loads((tmp_path / "growth.json").read_text())
    assert [axis["repeats"] for axis in saved.values()] == [2, 2, 1]
    assert list(saved) == ["batch", "group", "layers"]
    points = [point for axis in saved.values() for point in axis["measured"]]
    assert len(points) - len(asked) == 1  # the base point, measured once in one command
    assert saved["batch"]["versions"]["jax"]
    assert re.fullmatch("[0-9a-f]{7,}|unknown", saved["batch"]["commit"])


def test_parts_are_measured_and_rendered_alone(tmp_path, monkeypatch):
    decode = [{"cache": size, "cpu_seconds": [1e-3 * size] * 2} for size in (32, 64)]
    attention = [{"length": size, "cpu_seconds": [1e-6 * size**2] * 2} for size in (64, 1024)]
    drawing = [{"vocabulary": 1000, "cpu_seconds": {"a": [1e-3], "b": [2e-3], "c": [4e-4]}}]
    products = [{"tokens": 32, "cpu_seconds": {"few": [1e-3], "many": [3e-3]}}]
    measured = {
        "decode": decode,
        "attention": attention,
        "drawing": drawing,
        "products": products,
    }
    monkeypatch.setattr(collect, "measure_parts", lambda repeats: measured)
    main(["--axis=parts", f"--out={tmp_path}"])
    page = (tmp_path / "README.md").read_text()
    # 4 x 8 completions x 4 layers x keys and values x 128 x 4 bytes = 131 kB a token of the cache
    assert re.search(r"\| 32 +\| +32 \| +4.19 \| +0.131 \|", page)
    # 1e-6 · 64² s over 4 prompts x 4 heads x 64² scores
    assert re.search(r"\| 64 +\| +4.1 \| +62.5 \|", page)
    # 1e-3 s over 4 x 8 x 1000 logits
    assert re.search(r"\| 1000 +\| +31.2 \| +62.5 \| +12.5 \| +2 \|", page)
    # 2 x 32 x 576 x 1536 = 56.6 MFLOP in 1 ms and 3 ms
    assert re.search(r"\| 32 +\| +56.6 \| +18.9 \| +3 \|", page)


def test_parts_run():
    assert min(decode_seconds(4, repeats=1)) >= 0
    assert min(attention_seconds(4, repeats=1)) >= 0
    assert min(drawing_seconds(4, "draw", repeats=1)) >= 0
    assert min(product_seconds(4, "few", repeats=1)) >= 0


def test_one_tiny_point_end_to_end():
    found = measure(TINY, repeats=1)
    assert Sizes(**found["sizes"]) == TINY
    for step in STEPS:
        assert min(found[step]["seconds"]) > 0
        assert sum(found[step]["flops"].values()) > 0
        assert found[step]["argument_bytes"] > 0
    json.dumps(found)
