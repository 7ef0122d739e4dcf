"""The cells that every notebook begins with, and what is committed of its outputs."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.experiments.conftest import REPOSITORY
from tests.notebooks.execute import code_cells

PATHS = {path.stem: path for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb"))}
REPLICATION = "04_replication"  # reads data of the repository, and imports nothing of the project
INSTALLED = [name for name in PATHS if name != REPLICATION]
HARDWARE = {
    "jax": (None, []),
    "jax[cuda12]": ("/usr/bin/nvidia-smi", []),
    "jax[tpu]": (None, ["/dev/vfio/0"]),
}


@pytest.mark.parametrize("jax_here", HARDWARE)
def test_setup_cell_installs_where_there_is_nothing(jax_here, tmp_path, monkeypatch, capsys):
    site, asked = tmp_path / "site", []
    nvidia, devices = HARDWARE[jax_here]

    def find_spec(name):
        assert name == "fade_jax"
        origin = site / "fade_jax" / "__init__.py"
        return SimpleNamespace(origin=str(origin)) if origin.exists() else None

    def run(command, check):
        asked.append((command, check))
        for name in ("fade_jax", "fade_jax_experiments"):
            (site / name).mkdir(parents=True)
        (site / "fade_jax" / "__init__.py").touch()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", {"nvidia-smi": nvidia}.get)
    monkeypatch.setattr("glob.glob", lambda pattern: devices if "vfio" in pattern else [])
    setup = code_cells(PATHS["06_read_a_run"])[0]
    exec(setup, {})
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    assert asked == [([*pip, "fade-jax[notebooks]", jax_here], True)]
    assert sys.path[0] == str(site / "fade_jax_experiments")
    assert capsys.readouterr().out.startswith("Restart the session")  # NumPy is loaded here
    exec(setup, {})  # again, as after a restart: nothing is installed twice
    assert len(asked) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("folder", ["", "notebooks"])
def test_setup_cell_finds_the_clone_around_it(folder, tmp_path, monkeypatch):
    (tmp_path / "fade_jax").mkdir()
    (tmp_path / "fade_jax" / "__init__.py").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(subprocess, "run", None)
    exec(code_cells(PATHS["06_read_a_run"])[0], {})
    assert sys.path[0] == str(tmp_path)


@pytest.mark.slow
def test_setup_cell_imports_from_the_wheel(tmp_path):
    """A folder as pip leaves it: the packages of setup.cfg, `experiments` under its other name."""
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    (site / "fade_jax_experiments").mkdir(parents=True)
    elsewhere.mkdir()
    (site / "fade_jax").symlink_to(REPOSITORY / "fade_jax")
    for name in ("configs", "experiments"):
        (site / "fade_jax_experiments" / name).symlink_to(REPOSITORY / name)
    imported = "import configs.fade, experiments.config, fade_jax\n"
    shown = "print(configs.fade.__file__, experiments.config.__file__, fade_jax.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code_cells(PATHS['06_read_a_run'])[0]}\n{imported}{shown}"],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    inside = site / "fade_jax_experiments"
    expected = [inside / "configs/fade.py", inside / "experiments/config.py"]
    expected.append(site / "fade_jax/__init__.py")
    assert done.stdout.split() == [str(path) for path in expected], done.stderr


@pytest.mark.parametrize("name", INSTALLED)
def test_setup_cells_are_the_same(name):
    setup, device = code_cells(PATHS[name])[:2]
    first, other = code_cells(PATHS["06_read_a_run"])[:2]
    assert setup == first
    chosen = "cpu" if name == "05_fade_in_another_trainer" else "auto"
    assert device == other.replace('DEVICE = "auto"', f'DEVICE = "{chosen}"')


@pytest.mark.parametrize(
    ("choice", "platforms"),
    [("auto", None), ("cpu", "cpu"), ("gpu", "cuda,cpu"), ("tpu", "tpu,cpu")],
)
def test_device_cell_chooses_before_the_import(choice, platforms, tmp_path, monkeypatch, capsys):
    """With a jax that reads the variable when it is imported, as JAX does."""
    (tmp_path / "jax.py").write_text(
        "import os\n"
        "from types import SimpleNamespace\n"
        "__version__ = '9.9'\n"
        "platforms = os.environ.get('JAX_PLATFORMS')\n"
        "name = (platforms or 'cpu').split(',')[0]\n"
        "devices = lambda: [SimpleNamespace(platform=name, device_kind='its kind')] * 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.delitem(sys.modules, "jax")
    device = code_cells(PATHS["06_read_a_run"])[1]
    namespace = {"os": os, "sys": sys}
    exec(device.replace('DEVICE = "auto"', f'DEVICE = "{choice}"'), namespace)
    assert namespace["jax"].platforms == platforms
    name = "cpu" if choice == "auto" else platforms.split(",")[0]
    assert capsys.readouterr().out == f"JAX 9.9 on 2 device(s): {name}, its kind\n"
    exec(device, namespace)
    assert capsys.readouterr().out.startswith("JAX is imported already")


@pytest.mark.slow
def test_replication_is_cloned_on_colab(tmp_path, monkeypatch):
    setup, asked = code_cells(PATHS[REPLICATION])[0], []

    def run(command, check):
        asked.append(command)
        data = tmp_path / "fade_jax_clone" / "docs" / "replication" / "data"
        data.mkdir(parents=True, exist_ok=True)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ValueError, match="set REPOSITORY"):
        exec(setup, {})
    assert asked == []
    here = setup.replace('REPOSITORY = ""', 'REPOSITORY = "https://example.org/it.git"')
    namespace = {}
    exec(here, namespace)
    clone = ["git", "clone", "--depth=1", "https://example.org/it.git", "fade_jax_clone"]
    assert asked == [clone]
    assert tmp_path / "fade_jax_clone" / "docs" / "replication" == namespace["REPLICATION"]
    exec(here, {})  # again, as after a restart: nothing is fetched twice
    assert asked == [clone]


@pytest.mark.parametrize("name", PATHS)
def test_first_cell_opens_the_notebook_in_colab(name):
    first = json.loads(PATHS[name].read_text(encoding="utf-8"))["cells"][0]
    title, badge, *_ = "".join(first["source"]).split("\n\n")
    assert title.startswith("# ")
    place = f"github/OWNER/fade_jax/blob/main/notebooks/{name}.ipynb"
    assert badge.endswith(f"(https://colab.research.google.com/{place})")


@pytest.mark.parametrize("name", PATHS)
def test_committed_outputs(name):
    assert PATHS[name].stat().st_size < 300_000
    notebook = json.loads(PATHS[name].read_text(encoding="utf-8"))
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    has_pictures = any("image/png" in output.get("data", {}) for output in outputs)
    assert has_pictures == (name < "05")  # later ones print what their pictures show
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert notebook["nbformat"] == 4
