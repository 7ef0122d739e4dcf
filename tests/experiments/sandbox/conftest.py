"""One sandbox for all tests of this folder that spoil nothing; skipped where there can be none."""

import pytest

from experiments.sandbox import Sandbox, SandboxError, UnavailableError
from experiments.sandbox.selftest import LIMITS


@pytest.fixture(name="sandbox", scope="session")
def sandbox_fixture():
    try:
        sandbox = Sandbox(disk_bytes=LIMITS.disk_bytes)
    except SandboxError as error:
        refused = any(tool in str(error) for tool in ("bwrap:", "unshare:", "setpriv:"))
        if refused or isinstance(error, UnavailableError):
            pytest.skip(str(error))
        raise
    with sandbox:
        yield sandbox
