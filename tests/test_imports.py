"""The import contracts of setup.cfg: configs -> experiments -> fade_jax, and the floors between."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LINT = (
    "from importlinter.cli import lint_imports\n"
    "raise SystemExit(lint_imports(config_filename='setup.cfg', no_cache=True, no_logo=True))"
)


def test_import_contracts_are_kept():
    done = subprocess.run(
        [sys.executable, "-c", LINT], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
