"""The library stands on jax, chex, optax and numpy alone, and on nothing private of jax."""

import ast
import subprocess
import sys
from pathlib import Path

import fade_jax

PACKAGE = Path(fade_jax.__file__).parent
ALLOWED = {"fade_jax", "jax", "chex", "optax", "numpy"} | set(sys.stdlib_module_names)


def imported_names():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                yield from ((path, f"{node.module}.{alias.name}") for alias in node.names)


def test_no_file_imports_more_than_the_four():
    names = list(imported_names())
    assert len(names) > 50
    for path, name in names:
        # integrations/tunix.py, and it alone, may import tunix.
        own = {path.stem} if path.parent.name == "integrations" else set()
        assert name.split(".")[0] in ALLOWED | own, f"{path} imports {name}"


def test_nothing_private_is_imported_or_reached():
    for path, name in imported_names():
        assert not any(part.startswith("_") for part in name.split(".") if part != "__future__"), (
            f"{path} imports {name}"
        )
    for path in PACKAGE.rglob("*.py"):
        assert "._src" not in path.read_text(), path


def test_importing_the_library_loads_neither_the_training_system_nor_its_packages():
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


def test_every_advantage_is_exported_and_takes_a_mask():
    import inspect

    for name in fade_jax.advantages.__all__:
        assert getattr(fade_jax, name) is getattr(fade_jax.advantages, name)
        if name not in ("focal_weight", "suppress_negatives"):
            assert "where" in inspect.signature(getattr(fade_jax, name)).parameters


def test_no_file_is_long():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 350, path
