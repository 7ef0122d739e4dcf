"""The library's tests are compiled as its users compile it: they hold its last digits."""

import os

import jax
import pytest

from tests.conftest import QUICKLY


@pytest.fixture(scope="module", autouse=True)
def compiled_fully():
    """Undoes, for the tests of a module, what tests/conftest.py does for all."""
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # of what other tests have compiled
    yield
    jax.config.update("jax_disable_most_optimizations", os.environ[QUICKLY] == "1")
