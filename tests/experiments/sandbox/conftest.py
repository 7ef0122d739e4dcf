"""One sandbox for all tests of this folder that spoil nothing; skipped where there can be none."""

import pytest

from experiments.sandbox import Sandbox, SandboxError
from experiments.sandbox.selftest import LIMITS


@pytest.fixture(name="sandbox", scope="session")
def sandbox_fixture():
    try:
        sandbox = Sandbox(disk_bytes=LIMITS.disk_bytes)
    except SandboxError as error:
        pytest.skip(str(error))
    with sandbox:
        yield sandbox
