"""Sandboxes for tests: two a module, where the machine can make them."""

import pytest

from experiments.sandbox import Sandbox, UnavailableError


@pytest.fixture(scope="module", name="boxes")
def boxes_fixture():
    try:
        with Sandbox() as first, Sandbox() as second:
            yield first, second
    except UnavailableError as error:
        pytest.skip(str(error))
