"""A sandbox: one fork server behind a wall, which runs one program at a time.

Below: running, backends; server is what runs behind the wall. Above: pool.
"""

import contextlib
import inspect
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping

from experiments.sandbox import server, values
from experiments.sandbox.backends import BACKENDS, PYTHON
from experiments.sandbox.protocol import Limits, Result, SandboxError, UnavailableError
from experiments.sandbox.running import Control, Running

_START_SECONDS = 60.0
_MAX_FAILED_STARTS = 3

# Imported before programs run, so that they need not each do it.
PRELOAD = """
    bisect cmath collections collections.abc copy dataclasses datetime decimal enum fractions
    functools heapq itertools json math operator queue random re statistics string typing
""".split()  # noqa: SIM905  one word a line is longer to read


class Sandbox:
    """Runs programs that nobody trusts, one at a time; a context manager.

    Whatever a program does, it ends here: with a status, in bounded time, and with nothing left of
    it for the next one. A sandbox in which anything is left is thrown away and replaced. It ends
    with the thread that started it, as with the process.
    """

    def __init__(self, backend: str = "bubblewrap", *, disk_bytes: int = Limits().disk_bytes):
        """Starts the server.

        Args:
          backend: "bubblewrap", "sandlock" or "unsafe"; see backends.
          disk_bytes: of the file system in memory that programs can write to.

        Raises:
          ValueError: for an unknown backend.
          UnavailableError: if the backend is not on this machine.
          SandboxError: if it does not start.
        """
        if backend not in BACKENDS:
            raise ValueError(f"the backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        self._backend, self._disk_bytes = backend, disk_bytes
        self._server: _Server | None = None
        self._stopped = False
        self.replaced = -1  # the first start replaces nothing
        self._started()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """Kills what runs; another thread's `run` then raises SandboxError. Close it afterwards."""
        self._stopped = True
        if (server := self._server) is not None:
            server.kill()

    def close(self) -> None:
        """Ends the server and all that is in the sandbox."""
        self._stopped = True
        self._discard()

    def run(self, program: str, stdin: str = "", limits: Limits | None = None) -> Result:
        """Runs a program to its end.

        Args:
          program: source text of Python.
          stdin: its standard input.
          limits: of this program.

        Returns:
          Its result; "unknown" if the sandbox failed twice.

        Raises:
          SandboxError: if the sandbox cannot be replaced.
        """
        result = self._run_once(program, stdin, limits or Limits())
        if result.status == "unknown":
            result = self._run_once(program, stdin, limits or Limits())
        return result

    def _run_once(self, program: str, stdin: str, limits: Limits) -> Result:
        with self.start("script", program, limits, stdin=stdin) as running:
            return running.result()

    @contextlib.contextmanager
    def start(
        self,
        mode: str,
        program: str,
        limits: Limits,
        *,
        stdin: str = "",
        functions: Mapping[str, str] | None = None,
    ) -> "Iterator[Running]":
        """Starts a program, to be talked to; ends it on leaving.

        Args:
          mode: of the server: "script", "calls" or "tests".
          program: source text of Python.
          limits: of this program.
          stdin: its standard input.
          functions: for "tests", the names that the host answers, and what it calls them.
        """
        server = self._started()
        clean = False
        try:
            running = Running(
                server.control,
                mode,
                program,
                stdin,
                limits,
                functions or {},
                counts_threads=server.counts_threads,
            )
            try:
                yield running
            finally:
                running.end()
                clean = running.clean
        finally:
            if not clean:
                self._discard()

    def _started(self) -> "_Server":
        if self._server is not None and self._server.process.poll() is not None:
            self._discard()
        problem: object = None
        for _ in range(_MAX_FAILED_STARTS):
            if self._stopped:
                raise SandboxError("the sandbox is closed")
            if self._server is not None:
                return self._server
            try:
                self._server = _Server(self._backend, self._disk_bytes)
            except UnavailableError:
                raise
            except SandboxError as error:
                problem = error
            else:
                self.replaced += 1
                return self._server
        raise SandboxError(f"the sandbox does not start: {problem} (see docs/sandbox.md)")

    def _discard(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


class _Server:
    """The process of a server, and the socket to it."""

    def __init__(self, backend: str, disk_bytes: int):
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(BACKENDS[backend](disk_bytes))
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.control = Control(stack.enter_context(ours))
            self.counts_threads = opened.counts_threads
            settings = json.dumps({"filter": opened.filter.hex(), "preload": PRELOAD})
            # Without the host's packages, variables and bytecode; PYTHONHASHSEED is kept.
            python = [str(PYTHON), "-P", "-s", "-S", "-B", "-X", "utf8", "-c", _server_text()]
            with theirs:
                try:
                    self.process = subprocess.Popen(
                        [*opened.command, *python, str(theirs.fileno()), settings],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE,
                        cwd=opened.directory,
                        env=opened.environment | {"PATH": os.environ.get("PATH", "")},
                        pass_fds=[theirs.fileno()],
                        start_new_session=True,  # a Ctrl-C at the terminal is the host's to handle
                    )
                except OSError as error:
                    raise SandboxError(str(error)) from error
            assert self.process.stderr is not None
            stack.enter_context(self.process.stderr)
            stack.callback(self._end)
            event = self.control.receive(_START_SECONDS)
            if event != {"event": "ready"}:
                self._end()
                raise SandboxError(self._last_line() or "its server says nothing")
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Kills the server; what is in its process namespace dies with it."""
        self._stack.close()

    def kill(self) -> None:
        """Kills the server, from any thread."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _end(self) -> None:
        self.kill()
        self.process.wait()

    def _last_line(self) -> str:
        """Returns the last line that the dead server wrote on standard error."""
        assert self.process.stderr is not None
        descriptor = self.process.stderr.fileno()
        os.set_blocking(descriptor, False)
        with contextlib.suppress(BlockingIOError):
            lines = os.read(descriptor, 1 << 16).decode(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""


def _server_text() -> str:
    """Returns a program that brings the modules of the server along as text, and starts it."""
    modules = {module.__name__: inspect.getsource(module) for module in (values, server)}
    return f"""
import sys, types
modules = {modules!r}
for name in ("experiments", "experiments.sandbox", *modules):
    sys.modules[name] = types.ModuleType(name)
for name, text in modules.items():
    exec(compile(text, name, "exec"), sys.modules[name].__dict__)
sys.modules[{server.__name__!r}].main()
"""
