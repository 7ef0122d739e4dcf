"""Backends: the command that starts the fork server with as little around it as possible.

"bubblewrap": namespaces of its own, a read-only file system that holds the interpreter alone,
no capabilities, no network. "sandlock": Landlock, where user namespaces are blocked. Both filter
system calls. "unsafe": a plain process with limits, for programs that one trusts.
"""

import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.sandbox.protocol import UnavailableError
from experiments.sandbox.seccomp import compiled_filter

_NOBODY = 65534
_OLDEST = [0, 8]  # has --size and --disable-userns
_STAGE = Path("/mnt")
_DEVICES = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")]


class Backend(NamedTuple):
    """How to start a server.

    Attributes:
      command: what to put before the interpreter and its arguments.
      filter: the seccomp filter that a program gets; empty for none.
      environment: of the server.
      directory: where it starts.
      counts_threads: whether its user runs nothing else, so that a limit on threads means it.
    """

    command: list[str]
    filter: bytes
    environment: dict[str, str]
    directory: str
    counts_threads: bool = True


_ENVIRONMENT = {"LANG": "C.UTF-8", "HOME": "/tmp", "PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "2"}
PYTHON = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
_LIBRARIES = PYTHON.parents[1] / "lib"


@contextlib.contextmanager
def bubblewrap(disk_bytes: int) -> Iterator[Backend]:
    """Opens the default backend, for one server.

    Raises:
      UnavailableError: if bwrap or libseccomp is missing.
    """
    if shutil.which("bwrap") is None:
        raise UnavailableError(
            "the sandbox needs bubblewrap, which is not installed (Debian: apt-get install"
            " bubblewrap); or set the backend to 'sandlock'"
        )
    said = _bubblewrap_version()
    if [int(part) for part in re.findall(r"\d+", said)[:2]] < _OLDEST:
        raise UnavailableError(f"the sandbox needs bubblewrap 0.8 or newer, got {said!r}")
    seccomp = compiled_filter()
    before, moved = _without_root()
    binds: list[str] = []
    for path in _needed_paths():
        source = str(path)
        if moved and path.is_relative_to(moved):
            source = str(_STAGE / path.relative_to(moved))
        binds += ["--ro-bind", source, str(path)]
    for name in ("lib", "lib64"):
        link = Path("/", name)
        if link.is_symlink():
            binds += ["--symlink", os.readlink(link), str(link)]
    for path in _packages():
        binds += ["--size", "4096", "--tmpfs", str(path), "--remount-ro", str(path)]
    devices = [argument for path in _DEVICES for argument in ("--dev-bind", path, path)]
    environment = [part for item in _ENVIRONMENT.items() for part in ("--setenv", *item)]
    # Where memory runs out, the kernel ends programs before the process that trains.
    first = ["choom", "--adjust", "1000", "--"] if shutil.which("choom") else []
    command = [
        *first,
        *before,
        *("bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--as-pid-1"),
        *("--uid", str(_NOBODY), "--gid", str(_NOBODY), "--cap-drop", "ALL"),
        *("--clearenv", *environment),
        *("--die-with-parent", "--new-session", "--hostname", "sandbox"),
        *("--size", "4096", "--tmpfs", "/dev", *devices),
        *("--symlink", "/proc/self/fd/0", "/dev/stdin"),
        *("--symlink", "/proc/self/fd/1", "/dev/stdout"),
        *("--symlink", "/proc/self/fd/2", "/dev/stderr"),
        *("--remount-ro", "/dev"),
        *binds,
        *("--proc", "/proc", "--remount-ro", "/proc"),
        *("--size", str(disk_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"),
        *("--remount-ro", "/", "--"),
    ]
    yield Backend(command, seccomp, _ENVIRONMENT, "/")


@functools.cache
def _bubblewrap_version() -> str:
    done = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip()


def _needed_paths() -> list[Path]:
    """What the interpreter needs: itself, its standard library, shared libraries."""
    paths = {Path(path) for path in ("/usr/lib", "/usr/lib64", "/etc/ld.so.cache")}
    paths |= {path for path in (Path("/lib"), Path("/lib64")) if not path.is_symlink()}
    base = {"installed_platbase": sys.base_exec_prefix, "platbase": sys.base_exec_prefix}
    paths |= {  # of the interpreter, not of a virtual environment
        Path(sysconfig.get_path(name, vars=base)).resolve() for name in ("stdlib", "platstdlib")
    }
    paths |= {PYTHON, _LIBRARIES}
    exist = sorted(path for path in paths if path.exists())
    return [
        path
        for path in exist
        if not any(path != other and path.is_relative_to(other) for other in exist)
    ]


def _packages() -> list[Path]:
    """Installed packages beside the standard library, which programs need not read."""
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    found = {*standard.glob("*-packages")}
    for libraries in (_LIBRARIES, Path("/usr/lib")):
        found |= {*libraries.glob("python3*/*-packages")}
    return sorted(folder for folder in found if folder.is_dir() and not folder.is_symlink())


def _without_root() -> tuple[list[str], Path | None]:
    """Returns a command prefix that gives up root, since limits on threads do not bind root.

    An interpreter in root's home is out of reach of others: then the prefix mounts its folder,
    which is returned too, on _STAGE in a mount namespace of its own.
    """
    if os.geteuid() != 0:
        return [], None
    drop = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    if all(path.stat().st_mode & 0o001 for path in PYTHON.parents):
        return drop, None
    folder = Path(sys.base_prefix).resolve()
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    mount = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    return [*mount, str(folder), str(_STAGE), *drop], folder


@contextlib.contextmanager
def sandlock(disk_bytes: int) -> Iterator[Backend]:
    """Opens the backend for machines that block user namespaces; it needs Landlock (Linux 6.12).

    Landlock keeps programs from the host's files, its processes' memory and its sockets; the
    filter of system calls does the rest. Weaker than bubblewrap: programs see which files there
    are, and /proc with the command lines of the host's processes; their files are on the host's
    disk, each bounded by `Limits.file_bytes` but not all together; threads are not counted.

    Raises:
      UnavailableError: if sandlock or libseccomp is missing, the kernel has no Landlock, or the
        user is root, whom nothing here would keep from being root.
    """
    del disk_bytes
    if os.geteuid() == 0:
        raise UnavailableError(
            "the backend 'sandlock' needs a user other than root; root can use 'bubblewrap', which"
            " then needs no user namespaces"
        )
    try:
        import sandlock as package  # type: ignore[import-not-found]
    except ImportError as error:
        raise UnavailableError(
            "the backend 'sandlock' needs the package: pip install sandlock"
        ) from error
    version, least = package.landlock_abi_version(), package.min_landlock_abi()
    if version < least:
        raise UnavailableError(
            f"the backend 'sandlock' needs a kernel with Landlock ABI {least} (Linux 6.12),"
            f" got {version}"
        )
    seccomp = compiled_filter()
    with _directory() as directory:
        readable = [str(path) for path in _needed_paths()] + ["/proc", *_DEVICES]
        confine = (
            "import os, sys, sandlock\n"
            "sandlock.confine(sandlock.Sandbox("
            f"fs_readable={readable!r}, fs_writable={[directory, '/dev/null']!r}))\n"
            "os.execv(sys.argv[1], sys.argv[1:])\n"
        )
        yield Backend([sys.executable, "-c", confine], seccomp, _ENVIRONMENT, directory, False)


@contextlib.contextmanager
def unsafe(disk_bytes: int) -> Iterator[Backend]:
    """Opens the backend that contains nothing: limits alone, for programs that one trusts."""
    del disk_bytes
    with _directory() as directory:
        yield Backend([], b"", _ENVIRONMENT, directory, False)


@contextlib.contextmanager
def _directory() -> Iterator[str]:
    """Makes a temporary directory of a sandbox, removed whatever a program leaves there.

    By rm: shutil.rmtree raises RecursionError in a tree of a thousand levels.
    """
    directory = tempfile.mkdtemp(prefix="sandbox-")
    try:
        yield directory
    finally:
        subprocess.run(["rm", "-rf", "--", directory], stderr=subprocess.DEVNULL, check=False)


BACKENDS = {"bubblewrap": bubblewrap, "sandlock": sandlock, "unsafe": unsafe}
