"""Commands that are gone say what replaces them."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.moved import MOVED

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", MOVED)
def test_moved_command_prints_one_line_and_exits_2(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--workdir=x"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {module} is replaced by {MOVED[module]}\n"
    assert done.stdout == ""
