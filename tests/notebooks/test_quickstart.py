"""Executes the notebook's code cells as a script, in its fast mode."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NOTEBOOK = json.loads((REPOSITORY / "notebooks" / "quickstart.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]

# What the text says about the figures, from the notebook's own names.
FIGURES = """
import json
masses = gradient_masses(mine, p, GROUP)
fade = runs["FADE"][0]
print("FIGURES", json.dumps({
    "ratio": (masses.success / masses.failure).tolist(),
    "weight": expected_weight(mine, p, GROUP).tolist(),
    "alpha": fade["α"].tolist(),
    "delta": fade["δ"].tolist(),
    "entropy": fade["entropy"].tolist(),
}))
"""


def _run(source, directory):
    (directory / "notebook.py").write_text(source, encoding="utf-8")
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "notebook.py"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The whole notebook, beside a clone, as on Colab; a notebook brings `display` with it."""
    directory = tmp_path_factory.mktemp("notebook")
    (directory / "fade_jax_clone").symlink_to(REPOSITORY, target_is_directory=True)
    cells = "\n\n".join(CODE)
    assert cells.count("FAST = False") == 1
    source = "display = print\n" + cells.replace("FAST = False", "FAST = True") + FIGURES
    done = _run(source, directory)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, directory


def test_it_trains_and_reports(executed):
    output, directory = executed
    assert "| before training |" in output
    assert (directory / "runs" / "notebook" / "report" / "report.html").exists()
    assert output.count("PngImageFile") == 3
    assert json.loads((directory / "runs" / "notebook" / "result.json").read_text())["step"] == 4


def test_the_first_advantages_are_those_of_their_formulas(executed):
    rows = re.findall(r"\[+([^\]]+)\]", executed[0])[:6]
    expected = [
        [1.5, -0.5, -0.5, -0.5],  # (r - 1/4) / (1/2), the standard deviation with n - 1
        [0.5, 0.5, 0.5, -1.5],
        [0.56, -0.19, -0.19, -0.19],  # 3/4 · 3/4 and -3/4 · 1/4
        [0.06, 0.06, 0.06, -0.19],  # 1/4 · 1/4 and -1/4 · 3/4
        [0.56, -0.38, -0.38, -0.38],  # failures twice
        [0.06, 0.06, 0.06, -0.38],
    ]
    assert [[float(x) for x in row.split()] for row in rows] == expected


def test_the_figures_are_as_the_text_says(executed):
    figures = json.loads(executed[0].split("FIGURES ")[1])
    assert figures["ratio"] == pytest.approx([2.0] * 99, rel=1e-4)
    p = [i / 100 for i in range(1, 100)]
    weight = [15 / 16 * (1 - x / 2) for x in p]  # (1 - 1/G)(q + p/2)
    assert figures["weight"] == pytest.approx(weight, rel=1e-4)
    alpha, delta, entropy = figures["alpha"], figures["delta"], figures["entropy"]
    assert max(alpha) == 3
    assert alpha[0] < 2
    assert alpha[-1] == 1
    first_suppressed = next(i for i, value in enumerate(delta) if value < 1)
    assert alpha.index(3.0) < first_suppressed
    assert entropy[first_suppressed] < 0.5 * entropy[0]
    assert delta[-1] == pytest.approx(0.3)


def test_without_a_clone_it_asks_for_an_address(tmp_path):
    done = _run(CODE[0], tmp_path)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith("ValueError: no clone here")


def test_outputs_are_stripped_and_cells_are_named_once():
    cells = NOTEBOOK["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert NOTEBOOK["nbformat"] == 4
