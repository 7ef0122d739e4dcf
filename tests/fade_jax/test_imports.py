"""What the library imports and exports."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import fade_jax

PACKAGE = Path(fade_jax.__file__).parent
ALLOWED = {"fade_jax", "jax", "chex", "optax", "numpy"} | set(sys.stdlib_module_names)
# What a framework is built on, for its module of integrations beside the framework itself.
BASES = {"trl": {"torch", "transformers"}}


def imported_names():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                yield from ((path, f"{node.module}.{alias.name}") for alias in node.names)


def test_imports_are_allowed_and_public():
    names = list(imported_names())
    assert len(names) > 50
    for path, name in names:
        # integrations/X.py may import X.
        peer = set()
        if path.parent.name == "integrations":
            peer = {path.stem} | BASES.get(path.stem, set())
        assert name.split(".")[0] in ALLOWED | peer, f"{path} imports {name}"
        assert not any(part.startswith("_") for part in name.split(".") if part != "__future__"), (
            f"{path} imports {name}"
        )
        assert "._src" not in path.read_text(), path


def test_import_loads_no_other_package():
    code = (
        "import sys, fade_jax; "
        "print([m for m in ('flax', 'orbax', 'tensorflow', 'tensorflow_datasets', 'torch', "
        "'ml_collections', 'experiments', 'matplotlib', 'scipy.stats', 'fade_jax.integrations') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_version_is_that_of_the_citation():
    citation = (PACKAGE.parent / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == fade_jax.__version__


def test_signatures_name_types_and_parameters():
    modules = [module for _, module in inspect.getmembers(fade_jax, inspect.ismodule)]
    functions = {
        f for m in (fade_jax, *modules) for _, f in inspect.getmembers(m, inspect.isfunction)
    }
    assert len(functions) > 80
    for function in (f for f in functions if f.__module__.startswith("fade_jax")):
        signature = inspect.signature(function)
        assert not {"args", "kwargs"} & signature.parameters.keys(), function
        assert "Union" not in str(signature), function
