"""Executes every cell of the notebooks, in their fast mode, and checks what their text says."""

import csv
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.conftest import COMPILATION_CACHE
from tests.experiments.conftest import REPOSITORY
from tests.notebooks.execute import code_cells

NAMES = ("01_decomposition", "02_fade_quickstart", "03_bring_your_own_advantage")
PATHS = {name: REPOSITORY / "notebooks" / f"{name}.ipynb" for name in NAMES}

# What the text says about the figures, from the notebooks' own names.
FIGURES = {
    NAMES[0]: """
import json
print("FIGURES", json.dumps({
    "ratio": curves(mine)[2].tolist(),
    "weight": curves(mine)[3].tolist(),
    "flat": curves(fade_jax.dr_grpo)[3].tolist(),
    "scipy": np.asarray(theirs).tolist(),
    "grpo": np.asarray(ours).tolist(),
}))
""",
    NAMES[1]: """
import json
fade = runs["FADE"][0]
print("FIGURES", json.dumps({name: fade[name].tolist() for name in ("α", "δ", "entropy")}))
""",
    NAMES[2]: """
import json
print("FIGURES", json.dumps({
    "masses": np.asarray(gradient_masses(spare_the_hard, p, 512)).tolist(),
    "weight": expected_weight(spare_the_hard, p, 512).tolist(),
}))
""",
}


@pytest.fixture(scope="module", params=NAMES)
def executed(request, tmp_path_factory):
    """A whole notebook, beside a clone, as on Colab."""
    directory = tmp_path_factory.mktemp("notebook")
    (directory / "fade_jax_clone").symlink_to(REPOSITORY, target_is_directory=True)
    name = request.param
    done = subprocess.run(
        [sys.executable, "-m", "tests.notebooks.execute", PATHS[name], FIGURES[name]],
        cwd=directory,
        env={
            **os.environ,
            "FADE_FAST": "1",
            "JAX_COMPILATION_CACHE_DIR": str(COMPILATION_CACHE),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PLATFORMS": "cpu",
            "MPLBACKEND": "Agg",
            "PYTHONPATH": str(REPOSITORY),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    output, figures = done.stdout.split("FIGURES ")
    return SimpleNamespace(
        name=name, output=output, figures=json.loads(figures), directory=directory
    )


P = [i / 100 for i in range(1, 100)]


@pytest.mark.slow
def test_it_runs_and_says_what_is_so(executed):
    check = (decomposition, fade_quickstart, bring_your_own_advantage)[NAMES.index(executed.name)]
    check(executed)


def decomposition(executed):
    figures = executed.figures
    assert figures["ratio"] == pytest.approx([2.0] * 99, rel=1e-4)
    assert figures["weight"] == pytest.approx([15 / 16 * (1 - x / 2) for x in P], rel=1e-4)
    assert figures["flat"] == pytest.approx([15 / 16] * 99, rel=1e-4)
    for theirs, ours in zip(figures["scipy"], figures["grpo"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)
    assert "advantage_fn must treat groups apart" in executed.output
    lines = re.findall(
        r"p = .*m_S (.*) sampled, (.*) exact; m_F (.*) sampled, (.*) exact", executed.output
    )
    assert len(lines) == 5
    for line in lines:
        sampled_success, success, sampled_failure, failure = map(float, line)
        # 16000 rollouts: a standard error of each mass below 0.25 / √1000.
        assert sampled_success == pytest.approx(success, abs=0.03)
        assert sampled_failure == pytest.approx(failure, abs=0.03)
        assert success == pytest.approx(2 * failure, abs=2e-4)


def fade_quickstart(executed):
    rows = re.findall(r"\[+([^\]]+)\]", executed.output)[:6]
    expected = [
        [1.5, -0.5, -0.5, -0.5],  # (r - 1/4) / (1/2), the standard deviation with n - 1
        [0.5, 0.5, 0.5, -1.5],
        [0.56, -0.19, -0.19, -0.19],  # 3/4 · 3/4 and -3/4 · 1/4
        [0.06, 0.06, 0.06, -0.19],  # 1/4 · 1/4 and -1/4 · 3/4
        [0.56, -0.38, -0.38, -0.38],  # failures twice
        [0.06, 0.06, 0.06, -0.38],
    ]
    assert [[float(x) for x in row.split()] for row in rows] == expected
    alpha, delta, entropy = (executed.figures[name] for name in ("α", "δ", "entropy"))
    assert max(alpha) == 3
    assert alpha[0] < 2
    assert alpha[-1] == 1
    first_suppressed = next(i for i, value in enumerate(delta) if value < 1)
    assert alpha.index(3.0) < first_suppressed
    assert entropy[first_suppressed] < 0.5 * entropy[0]
    assert delta[-1] == pytest.approx(0.3)
    assert "| before training |" in executed.output
    assert executed.output.count("PngImageFile") == 3
    workdir = executed.directory / "runs" / "notebook_fade"
    assert (workdir / "report" / "index.html").exists()
    assert json.loads((workdir / "result.json").read_text())["step"] == 4


def bring_your_own_advantage(executed):
    success, failure = executed.figures["masses"]
    assert success == pytest.approx([x * (1 - x) for x in P], abs=2e-3)
    assert failure == pytest.approx([x**2 * (1 - x) for x in P], abs=2e-3)
    assert executed.figures["weight"] == pytest.approx([1 - x + x**2 for x in P], abs=1e-2)
    workdir = executed.directory / "runs" / "notebook_sweep"
    with (workdir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows if row["step"] == "4"] == ["grpo", "fade", "mine"]
    assert {row["advantage.name"] for row in rows if row["method"] == "mine"} == {
        "my_advantages.spare_the_hard"
    }
    page = (workdir / "report" / "report.md").read_text()
    assert "my_advantages.spare_the_hard(strength=1.0)" in page
    assert "Without exact curves" not in page
    assert executed.output.count("PngImageFile") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_on_colab_it_clones_and_installs(name, tmp_path, monkeypatch):
    setup, asked = code_cells(PATHS[name])[0], []

    def run(command, check):
        asked.append(command)
        (tmp_path / "fade_jax_clone" / "experiments").mkdir(parents=True, exist_ok=True)
        (tmp_path / "fade_jax_clone" / "experiments" / "train.py").touch()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ValueError, match="set REPOSITORY"):
        exec(setup, {})
    assert asked == []
    here = setup.replace('REPOSITORY = ""', 'REPOSITORY = "https://example.org/it.git"')
    exec(here, {})
    clone, install = asked
    assert clone == ["git", "clone", "--depth=1", "https://example.org/it.git", "fade_jax_clone"]
    assert "fade_jax_clone[experiments]" in install
    assert sys.path[0] == str(tmp_path / "fade_jax_clone")
    exec(here, {})  # again, as after a restart: nothing is fetched twice
    assert len(asked) == 2


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_kept_and_small(name):
    assert PATHS[name].stat().st_size < 150_000
    notebook = json.loads(PATHS[name].read_text(encoding="utf-8"))
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert notebook["nbformat"] == 4
