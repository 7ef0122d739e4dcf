"""Where the real data sets are, for tests that use them where they exist."""

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[4] / "shared" / "data"
ROOT = Path(os.environ.get("FADE_JAX_DATA", _BESIDE))


def needs(name):
    """Skips a test unless the folder `name` of the data exists."""
    return pytest.mark.skipif(
        not (ROOT / name).is_dir(),
        reason=f"needs {name}/ in FADE_JAX_DATA or in {_BESIDE}",
    )
