"""What the wheel holds and what its commands are called; `make dist` builds, installs and runs it."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import fade_jax
from experiments.installed import COMMANDS, with_installed_configs

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(name="setup", scope="module")
def setup_fixture():
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str
    parser.read(REPOSITORY / "setup.cfg")
    return parser


def name_in_wheel(path):
    name = ".".join(path.relative_to(REPOSITORY).parts)
    return name if name.startswith("fade_jax") else f"fade_jax_experiments.{name}"


def test_packages_are_all_that_are_there(setup):
    found = {
        name_in_wheel(path.parent)
        for top in ("configs", "experiments", "fade_jax")
        for path in (REPOSITORY / top).rglob("__init__.py")
    }
    assert set(setup["options"]["packages"].split()) == found


def test_package_data_has_every_other_file(setup):
    declared = set()
    for package, patterns in setup["options.package_data"].items():
        directory = REPOSITORY / Path(*package.removeprefix("fade_jax_experiments.").split("."))
        for pattern in patterns.split():
            declared |= set(directory.glob(pattern))
    found = {
        path
        for top in ("configs", "experiments", "fade_jax")
        for path in (REPOSITORY / top).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert declared == found


def test_commands_are_entry_points_and_modules(setup):
    lines = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    assert {line.split(" = ")[0] for line in lines} == COMMANDS.keys()
    for module in COMMANDS.values():
        path = REPOSITORY / Path(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def test_version_of_citation_is_that_of_the_package(setup):
    assert setup["metadata"]["version"] == "attr: fade_jax.__version__"
    lines = (REPOSITORY / "CITATION.cff").read_text().splitlines()
    assert f"version: {fade_jax.__version__}" in lines


def test_with_installed_configs_completes_what_is_not_here(tmp_path, monkeypatch):
    root, here = tmp_path / "root", tmp_path / "here"
    for directory in (root / "configs", here / "configs"):
        directory.mkdir(parents=True)
    (root / "configs" / "fade.py").touch()
    (root / "configs" / "both.py").touch()
    (here / "configs" / "both.py").touch()
    monkeypatch.chdir(here)
    given = ["--config=configs/fade.py:smoke", "--config=configs/both.py", "--config=no.py", "--x"]
    assert with_installed_configs(given, root) == [
        f"--config={root}/configs/fade.py:smoke",
        "--config=configs/both.py",
        "--config=no.py",
        "--x",
    ]


def test_installed_command_without_the_extra_is_one_line(tmp_path):
    script = tmp_path / "fade-run"
    code = "from experiments.installed import main\nmain()\n"
    script.write_text(f"import sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n{code}")
    # -S: no installed package is found.
    done = subprocess.run(
        [sys.executable, "-S", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: fade-run needs pip install 'fade-jax[experiments]': there is no absl\n"
    )
