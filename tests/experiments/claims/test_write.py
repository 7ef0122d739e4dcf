import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from experiments.claims import is_study, write_claims
from experiments.claims.pictures.front import front
from tests.experiments.claims.synthetic import Truth, write_sweep

REPOSITORY = Path(__file__).parents[3]
BASE = Truth()
CORE = {
    "reinforce": replace(BASE, entropy=0.3, share=0.6, advantage=("reinforce", {})),
    "grpo_no_std": BASE,
    "asym0.5": replace(BASE, rank=0.8, advantage=("asym_grpo", {"delta": 0.5})),
    "asym2": replace(BASE, entropy=0.3, share=0.6, advantage=("asym_grpo", {"delta": 2.0})),
    "power2": replace(BASE, advantage=("power", {"alpha": 2.0})),
    "power3": replace(BASE, advantage=("power", {"alpha": 3.0})),
    "fade": replace(BASE, rate=0.6, suppressed=50, advantage=("fade", {})),
    "fade_no_focal": replace(BASE, rate=0.3, suppressed=50, advantage=("fade", {})),
}


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sweeps")
    write_sweep(workdir / "core", CORE)
    cells = {f"alpha1-delta{d}": BASE for d in ("0.5", "1", "2")}
    write_sweep(workdir / "delta", cells, seeds=(0, 1), unfinished=("alpha1-delta2-seed1",))
    return workdir


@pytest.fixture(scope="module")
def page(sweeps, tmp_path_factory):
    """With the prediction beside it, as in docs/replication."""
    out = tmp_path_factory.mktemp("page")
    shutil.copy(REPOSITORY / "docs/replication/prediction.csv", out)
    write_claims(sweeps, out)
    return out


def test_the_page_drawn_from_the_data_is_that_from_the_sweeps(page, tmp_path):
    shutil.copy(page / "prediction.csv", tmp_path)
    shutil.copytree(page / "data", tmp_path / "data")
    write_claims(tmp_path / "data", tmp_path)
    names = sorted(path.name for path in page.iterdir() if path.is_file())
    assert names == sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    for name in names:
        one, two = (directory / name for directory in (page, tmp_path))
        if name.endswith((".md", ".html")):  # they name their directory
            texts = (path.read_text().replace(str(path.parent), "OUT") for path in (one, two))
            assert len(set(texts)) == 1, name
        else:
            assert one.read_bytes() == two.read_bytes(), name


def test_a_sweep_that_comes_later_joins_those_that_are_there(page, sweeps, tmp_path):
    for name in ("core", "delta"):
        (tmp_path / "one").mkdir(exist_ok=True)
        shutil.copytree(page / "data" / name, tmp_path / "out/data" / name)
    write_sweep(tmp_path / "one/alpha", {"start140-power1": BASE}, seeds=(0,))
    write_claims(tmp_path / "one", tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert "## Sweep alpha" in text
    assert "## Sweep core" in text


def test_verdicts_and_what_was_not_run_are_on_the_page(page):
    text = (page / "README.md").read_text()
    verdicts = text.split("## Verdicts")[1].split("\n## ")[0]
    row = next(line for line in verdicts.splitlines() if line.startswith("| 1 ") and "core" in line)
    assert "| reproduces" in row
    assert "Sweep methods: not run." in verdicts
    coverage = text.split("## What was run, and what was not")[1]
    assert re.search(r"\| delta +\| incomplete, 1 runs not finished: 5 of 6 runs", coverage)
    assert re.search(r"\| countdown +\| not run", coverage)
    assert "configs/sweeps/isolate_delta.py" in coverage


def test_every_picture_is_there_and_small_and_none_is_left_over(page):
    text, html = ((page / name).read_text() for name in ("README.md", "index.html"))
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert sorted(shown) == sorted(re.findall(r'<img loading="lazy" src="([^"]+)"', html))
    assert sorted(shown) == sorted(path.name for path in page.glob("*.png"))
    for name in shown:
        assert (page / name).stat().st_size < 80_000, name
        colours = Image.open(page / name).convert("RGB").getcolors(1 << 24)
        assert len(colours or ()) > 5, name


def test_the_front_of_hand_made_points():
    points = [(1, 5), (2, 4), (1.5, 3), (3, 1), (3, 0.5), (2, 4)]
    assert front(points) == [(1, 5), (2, 4), (3, 1)]


def test_what_is_a_study(sweeps, page):
    assert is_study(sweeps)
    assert is_study(page / "data")
    assert not is_study(sweeps / "core")  # one sweep, which the other report is of


def test_the_command_says_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "experiments.report", f"--workdir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode
    assert "no metrics in" in done.stderr
