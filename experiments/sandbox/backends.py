"""Backends: the command that starts the fork server with as little around it as possible.

"bubblewrap": namespaces of its own, a read-only file system that holds the interpreter alone,
no capabilities, no network. "sandlock": Landlock, where user namespaces are blocked. Both filter
system calls. "unsafe": a plain process with limits, for programs that one trusts.
"""

import contextlib
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.sandbox.protocol import UnavailableError
from experiments.sandbox.seccomp import compiled_filter

_NOBODY = 65534


class Backend(NamedTuple):
    """How to start a server.

    Attributes:
      command: what to put before the interpreter and its arguments.
      filter: the seccomp filter that a program gets; empty for none.
      environment: of the server.
      directory: where it starts.
    """

    command: list[str]
    filter: bytes
    environment: dict[str, str]
    directory: str


_ENVIRONMENT = {"LANG": "C.UTF-8", "HOME": "/tmp", "PYTHONHASHSEED": "0"}
PYTHON = Path(getattr(sys, "_base_executable", sys.executable)).resolve()


@contextlib.contextmanager
def bubblewrap(disk_bytes: int) -> Iterator[Backend]:
    """Opens the default backend.

    Raises:
      UnavailableError: if bwrap or libseccomp is missing.
    """
    if shutil.which("bwrap") is None:
        raise UnavailableError(
            "the sandbox needs bubblewrap, which is not installed (Debian: apt-get install"
            " bubblewrap); or set the backend to 'sandlock'"
        )
    seccomp = compiled_filter()
    with contextlib.ExitStack() as stack:
        before, moved = stack.enter_context(_without_root())
        binds: list[str] = []
        for path in _needed_paths():
            source = str(path)
            if moved and path.is_relative_to(moved[0]):
                source = str(moved[1] / path.relative_to(moved[0]))
            binds += ["--ro-bind", source, str(path)]
        for name in ("lib", "lib64"):
            link = Path("/", name)
            if link.is_symlink():
                binds += ["--symlink", os.readlink(link), str(link)]
        devices = [
            argument
            for name in ("null", "zero", "full", "random", "urandom")
            for argument in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")
        ]
        command = [
            *before,
            *("bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--as-pid-1"),
            *("--uid", str(_NOBODY), "--gid", str(_NOBODY), "--cap-drop", "ALL"),
            *(
                "--clearenv",
                *(part for item in _ENVIRONMENT.items() for part in ("--setenv", *item)),
            ),
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


def _needed_paths() -> list[Path]:
    """What the interpreter needs: itself, its standard library, shared libraries."""
    paths = {Path(path) for path in ("/usr/lib", "/usr/lib64", "/etc/ld.so.cache")}
    paths |= {path for path in (Path("/lib"), Path("/lib64")) if not path.is_symlink()}
    paths |= {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
    libraries = PYTHON.parents[1] / "lib"
    paths |= {PYTHON, *libraries.glob("libpython*")}
    exist = sorted(path for path in paths if path.exists())
    return [
        path
        for path in exist
        if not any(path != other and path.is_relative_to(other) for other in exist)
    ]


@contextlib.contextmanager
def _without_root() -> Iterator[tuple[list[str], tuple[Path, Path] | None]]:
    """Yields a command prefix that gives up root, since limits on threads do not bind root.

    An interpreter in root's home is out of reach of others: then the prefix mounts it elsewhere,
    in a mount namespace of its own, and (from, to) is yielded too.
    """
    if os.geteuid() != 0:
        yield [], None
        return
    drop = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    if all(path.stat().st_mode & 0o001 for path in PYTHON.parents):
        yield drop, None
        return
    prefix = Path(sys.base_prefix).resolve()
    with tempfile.TemporaryDirectory(prefix="sandbox-") as stage:
        os.chmod(stage, 0o755)
        script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
        mount = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
        yield [*mount, str(prefix), stage, *drop], (prefix, Path(stage))


@contextlib.contextmanager
def sandlock(disk_bytes: int) -> Iterator[Backend]:
    """Opens the backend for machines that block user namespaces; it needs Landlock (Linux 6.12).

    The files of all programs are in one directory on the disk, whose size only Limits bound.

    Raises:
      UnavailableError: if sandlock or libseccomp is missing, or the kernel has no Landlock.
    """
    del disk_bytes
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
    devices = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")]
    with tempfile.TemporaryDirectory(prefix="sandbox-") as directory:
        readable = [str(path) for path in _needed_paths()] + ["/proc", *devices]
        confine = (
            "import os, sys, sandlock\n"
            "sandlock.confine(sandlock.Sandbox("
            f"fs_readable={readable!r}, fs_writable={[directory, '/dev/null']!r}))\n"
            "os.execv(sys.argv[1], sys.argv[1:])\n"
        )
        yield Backend([sys.executable, "-c", confine], seccomp, _ENVIRONMENT, directory)


@contextlib.contextmanager
def unsafe(disk_bytes: int) -> Iterator[Backend]:
    """Opens the backend that contains nothing: limits alone, for programs that one trusts."""
    del disk_bytes
    with tempfile.TemporaryDirectory(prefix="sandbox-") as directory:
        yield Backend([], b"", _ENVIRONMENT, directory)


BACKENDS = {"bubblewrap": bubblewrap, "sandlock": sandlock, "unsafe": unsafe}
