import ctypes
import os
import struct
import subprocess
import sys
import types

import pytest

from experiments.sandbox import Sandbox, SandboxError, UnavailableError, backends, seccomp
from experiments.sandbox.protocol import Limits


def test_bubblewrap_missing_names_what_to_install(monkeypatch):
    monkeypatch.setattr(backends.shutil, "which", lambda _: None)
    with pytest.raises(UnavailableError) as error:
        Sandbox()
    assert "apt-get install bubblewrap" in str(error.value)
    assert "\n" not in str(error.value)


def test_libseccomp_missing_names_what_to_install(monkeypatch):
    def refuse(name):
        raise OSError(f"{name}: cannot open")

    monkeypatch.setattr(seccomp.ctypes.util, "find_library", lambda _: None)
    monkeypatch.setattr(seccomp.ctypes, "CDLL", refuse)
    with pytest.raises(UnavailableError, match=r"apt-get install libseccomp2.*libseccomp\.so\.2"):
        seccomp.compiled_filter.__wrapped__()


def test_sandbox_refuses_an_unknown_backend():
    with pytest.raises(ValueError, match="must be one of bubblewrap, sandlock, unsafe, got 'none'"):
        Sandbox("none")


def test_sandlock_refuses_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(UnavailableError, match="needs a user other than root; root can use 'bubb"):
        Sandbox("sandlock")


def test_sandlock_missing_names_the_package(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setitem(sys.modules, "sandlock", None)
    with pytest.raises(UnavailableError, match="pip install sandlock"):
        Sandbox("sandlock")


def test_sandlock_names_the_kernel_that_it_needs(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    package = types.ModuleType("sandlock")
    package.landlock_abi_version = lambda: -1  # pyright: ignore
    package.min_landlock_abi = lambda: 6  # pyright: ignore
    monkeypatch.setitem(sys.modules, "sandlock", package)
    with pytest.raises(UnavailableError, match=r"Landlock ABI 6 \(Linux 6\.12\), got -1"):
        Sandbox("sandlock")


def test_bubblewrap_that_fails_is_told_in_one_line(monkeypatch, tmp_path):
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No permissions' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setattr(backends, "_without_root", lambda: ([], None))
    monkeypatch.setattr(backends, "compiled_filter", lambda: b"")
    monkeypatch.setattr(backends, "_bubblewrap_version", lambda: "bubblewrap 0.8.0")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxError, match="does not start: bwrap: No permissions") as error:
        Sandbox()
    assert "\n" not in str(error.value)


def test_bubblewrap_that_is_old_is_told(monkeypatch):
    monkeypatch.setattr(backends.shutil, "which", lambda name: name)
    monkeypatch.setattr(backends, "_bubblewrap_version", lambda: "bubblewrap 0.6.1")
    with pytest.raises(UnavailableError, match=r"0\.8 or newer, got 'bubblewrap 0\.6\.1'"):
        Sandbox()


def test_unsafe_runs_programs_within_limits():
    with Sandbox("unsafe") as sandbox:
        assert sandbox.run("print(1)").output == "1\n"
        assert sandbox.run("while True: pass", limits=Limits(seconds=0.1)).status == "timeout"
        assert sandbox.run("bytearray(1 << 40)").status == "memory"
        assert sandbox.run("open('left', 'w')").status == "ok"
        assert sandbox.run("import os\nprint(os.listdir())").output == "[]\n"


def test_needed_paths_hold_no_packages_of_a_virtual_environment():
    paths = backends._needed_paths()
    assert all(path.is_absolute() for path in paths)
    assert not any(
        path.is_relative_to(sys.prefix) for path in paths if sys.prefix != sys.base_prefix
    )


CALL = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.prctl(38, 1, 0, 0, 0)
data = bytes.fromhex(sys.argv[1])
import struct
text = ctypes.create_string_buffer(data, len(data))
head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(data) // 8, ctypes.addressof(text)))
assert libc.prctl(22, 2, head, 0, 0) == 0
for call in eval(sys.argv[2]):
    ctypes.set_errno(0)
    libc.syscall(*map(ctypes.c_long, call))
    print(ctypes.get_errno())
"""
# x86-64's numbers, and whether the filter refuses them with EPERM (1) or ENOSYS (38).
CALLS = {
    "getpid": ((39,), 0),
    "fork": ((57,), 1),
    "clone of a process": ((56, 17, 0, 0, 0, 0), 1),
    "clone3": ((435, 0, 0), 38),
    "execve": ((59, 0, 0, 0), 1),
    "kill": ((62, 0, 0), 1),
    "tgkill": ((234, 0, 0, 0), 1),
    "socket": ((41, 1, 1, 0), 1),
    "socketpair of datagrams": ((53, 1, 2, 0, 0), 1),
    "socketpair of streams to nowhere": ((53, 1, 1, 0, 0), 14),
    "F_SETOWN": ((72, 0, 8, 1), 1),
    "F_SETSIG": ((72, 0, 10, 9), 1),
    "F_GETFD": ((72, 0, 1, 0), 0),
    "TIOCSTI": ((16, 0, 0x5412, 0), 1),
    "limit of another": ((302, 1, 7, 0, 0), 1),
    "limit of its own": ((302, 0, 7, 0, 0), 0),
    "lower processor time": ((302, 0, 0, 1, 0), 1),
    "ptrace": ((101, 0, 0, 0, 0), 1),
    "unshare": ((272, 0), 1),
    "memfd_create": ((319, 0, 0), 1),
    "io_uring_setup": ((425, 0, 0), 1),
    "a call of the future": ((999,), 1),
    "x32": ((0x40000000 + 39,), None),
}


@pytest.fixture(name="program")
def program_fixture():
    try:
        return seccomp.compiled_filter()
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
def test_compiled_filter_refuses_calls(program):
    ended = {name: call for name, (call, error) in CALLS.items() if error is not None}
    command = [sys.executable, "-c", CALL, program.hex()]
    done = subprocess.run([*command, repr(list(ended.values()))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = dict(zip(ended, map(int, done.stdout.split())))
    assert found == {name: CALLS[name][1] for name in ended}
    done = subprocess.run([*command, repr([CALLS["x32"][0]])], capture_output=True, text=True)
    assert done.returncode < 0


def test_compiled_filter_is_a_program_of_the_kernels_form(program):
    assert len(program) % 8 == 0
    assert 8 * 10 < len(program) < 8 * 4096
    code, _, _, offset = struct.unpack("HBBI", program[:8])
    assert (code, offset) == (0x20, 4)  # loads the architecture first
    assert ctypes.sizeof(ctypes.c_void_p) == 8
