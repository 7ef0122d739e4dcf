"""Compiles the library's tests with all optimizations, since they check the last digits."""

import os

import jax
import pytest

from tests.conftest import QUICKLY


@pytest.fixture(scope="module", autouse=True)
def compiled_fully():
    """Turns on the optimizations that tests/conftest.py turns off."""
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", os.environ[QUICKLY] == "1")
