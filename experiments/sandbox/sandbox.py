"""A sandbox: one fork server behind a wall, which runs one program at a time.

Below: backends, protocol; server is what runs behind the wall. Above: pool, programs.
"""

import contextlib
import inspect
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.sandbox import server
from experiments.sandbox.backends import BACKENDS, PYTHON, Backend
from experiments.sandbox.protocol import Limits, Result, SandboxError

_START_SECONDS = 60.0
_KILL_SECONDS = 10.0
_MAX_FAILED_STARTS = 3
_PATIENCE = 20.0  # times its limit that a program may take on a busy machine
_IDLE_LOOKS = 3  # times in a row that a program is found asleep before it counts as such
_KEPT_ERROR = 2000  # bytes of standard error

# Imported before programs run, so that they need not each do it.
PRELOAD = """
    bisect cmath collections collections.abc copy dataclasses datetime decimal enum fractions
    functools heapq itertools json math operator queue random re statistics string typing
""".split()  # noqa: SIM905  one word a line is longer to read


class Sandbox:
    """Runs programs that nobody trusts, one at a time; a context manager.

    Whatever a program does, it ends here: with a status, in bounded time, and with nothing left of
    it for the next one. A sandbox in which anything is left is thrown away and replaced.
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
        self._stack = contextlib.ExitStack()
        self._backend = self._stack.enter_context(BACKENDS[backend](disk_bytes))
        self._server: _Server | None = None
        self._stopped = False
        self.replaced = -1  # the first start replaces nothing
        try:
            self._started()
        except BaseException:
            self.close()
            raise

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
        self._stack.close()

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
        running = Running(self._started(), mode, program, stdin, limits, functions or {})
        try:
            yield running
        finally:
            running.end()
            if not running.clean:
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
                self._server = _Server(self._backend)
            except SandboxError as error:
                problem = error
            else:
                self.replaced += 1
                return self._server
        raise SandboxError(f"the sandbox does not start: {problem}")

    def _discard(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


class _Server:
    """The process of a server, and the socket to it."""

    def __init__(self, backend: Backend):
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        settings = json.dumps({"filter": backend.filter.hex(), "preload": PRELOAD})
        python = [str(PYTHON), "-I", "-S", "-B", "-X", "utf8", "-c", inspect.getsource(server)]
        with theirs:
            self.process = subprocess.Popen(
                [*backend.command, *python, str(theirs.fileno()), settings],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=backend.directory,
                env=backend.environment | {"PATH": os.environ.get("PATH", "")},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a Ctrl-C at the terminal is the host's to handle
            )
        if self.receive(_START_SECONDS) != {"event": "ready"}:
            self.close()
            assert self.process.stderr is not None
            with self.process.stderr as stderr:
                lines = stderr.read(1 << 16).decode(errors="replace").split("\n")
            said = [line for line in lines if line.strip()][-1:]
            raise SandboxError(said[0] if said else f"no answer in {_START_SECONDS:.0f} s")

    def send(self, **request: Any) -> None:
        """Sends a request; a dead server shows when its answer is awaited."""
        with contextlib.suppress(OSError):
            self.control.send(json.dumps(request).encode())

    def receive(self, seconds: float) -> dict | None:
        """Returns the next event; None if none comes in time, or the server is gone."""
        try:
            self.control.settimeout(max(seconds, 0.001))
            message = self.control.recv(1 << 16)
            event = json.loads(message)
        except (OSError, ValueError):
            return None
        return event if isinstance(event, dict) else None

    def close(self) -> None:
        """Kills the server; what is in its process namespace dies with it."""
        self.control.close()
        self.kill()
        self.process.wait()

    def kill(self) -> None:
        """Kills the server, from any thread."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Running:
    """A program under way.

    Attributes:
      clean: after its end, whether the sandbox is as it was before; False while it runs.
    """

    def __init__(
        self,
        server: _Server,
        mode: str,
        program: str,
        stdin: str,
        limits: Limits,
        functions: Mapping[str, str],
    ):
        self.clean = False
        self._server, self._limits = server, limits
        self._output, self._error = bytearray(), bytearray()
        self._status = self._detail = ""
        self._exit: dict | None = None
        self._idle, self._ended = 0, False
        self._answers = bytearray()
        self._open: set[int] = set()
        talks = mode != "script"
        ours, theirs = [], []
        for content in (program, stdin):
            file = os.memfd_create("text")
            with os.fdopen(os.dup(file), "wb") as writer:
                writer.write(content.encode("utf-8", "surrogatepass"))
            os.lseek(file, 0, os.SEEK_SET)
            theirs.append(file)
        for host_reads in (True, True, *((False, True) if talks else ())):
            read, write = os.pipe()
            ours.append(read if host_reads else write)
            theirs.append(write if host_reads else read)
        for descriptor in ours:
            os.set_blocking(descriptor, False)
        self._stdout, self._stderr, *channel = ours
        self._to, self._from = channel if talks else (-1, -1)
        self._open.update(ours)
        request = {
            "do": "run",
            "mode": mode,
            "functions": dict(functions),
            "limits": {
                "CPU": int(limits.seconds) + 1,
                "AS": limits.memory_bytes,
                "FSIZE": limits.file_bytes,
                "NOFILE": limits.open_files,
                "NPROC": limits.threads + 1,
            },
        }
        with contextlib.suppress(OSError):
            socket.send_fds(server.control, [json.dumps(request).encode()], theirs)
        for descriptor in theirs:
            os.close(descriptor)
        self._started = self._look_at = time.monotonic()
        self._look_at += limits.seconds

    def result(self) -> Result:
        """Waits for the end of the program."""
        while self._exit is None and not self._status:
            self._step([self._stdout, self._stderr])
        self.end()
        return self._result()

    def send(self, data: bytes) -> None:
        """Sends a line to the program; it ends with a timeout if the program does not read it."""
        data += b"\n"
        self._idle, self._started = 0, time.monotonic()
        self._look_at = self._started + self._limits.seconds
        while data and self._exit is None and not self._status:
            try:
                data = data[os.write(self._to, data) :]
            except BlockingIOError:
                self._step([self._stdout, self._stderr], writing=True)
            except OSError:  # the program closed it
                self._finish("error", "it closed the channel of its calls")

    def receive(self) -> bytes | Result:
        """Waits for a line from the program; returns its result instead if it ends before."""
        while b"\n" not in self._answers:
            if self._exit is not None or self._status:
                self.end()
                if b"\n" not in self._answers:
                    return self._result()
                break
            self._step([self._stdout, self._stderr, self._from])
        line, _, self._answers = self._answers.partition(b"\n")
        return bytes(line)

    def end(self) -> None:
        """Ends the program if it runs, and takes what it has written."""
        if self._ended:
            return
        self._ended = True
        if self._exit is None:
            self._server.send(do="kill")
            until = time.monotonic() + _KILL_SECONDS
            while self._exit is None and time.monotonic() < until:
                event = self._server.receive(until - time.monotonic())
                if event is None:
                    break
                self._take(event)
        if self._exit is None:
            self._status = "unknown"
            self._detail = self._detail or "the sandbox does not answer"
        self.clean = self._exit is not None and self._exit.get("clean") is True
        for descriptor in list(self._open - {self._to}):
            self._read(descriptor)
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()

    def _step(self, reading: list[int], writing: bool = False) -> None:
        """Waits until something can be read, or the program has to be looked at."""
        poll = select.poll()
        for descriptor in {*reading, self._server.control.fileno()} & (
            self._open | {self._server.control.fileno()}
        ):
            poll.register(descriptor, select.POLLIN)
        if writing:
            poll.register(self._to, select.POLLOUT)
        left = self._look_at - time.monotonic()
        for descriptor, _ in poll.poll(max(left, 0) * 1000 + 1):
            if descriptor == self._server.control.fileno():
                event = self._server.receive(_KILL_SECONDS)
                if event is None:
                    self._finish("unknown", "the sandbox ended")
                else:
                    self._take(event)
            elif descriptor != self._to:
                self._read(descriptor)
        if time.monotonic() >= self._look_at and self._exit is None:
            self._server.send(do="usage")
            self._look_at = time.monotonic() + max(self._limits.seconds / 10, 0.05)

    def _read(self, descriptor: int) -> None:
        buffers = {self._stdout: self._output, self._stderr: self._error, self._from: self._answers}
        kept = buffers[descriptor]
        while descriptor in self._open:
            try:
                data = os.read(descriptor, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                self._open.remove(descriptor)
                os.close(descriptor)
                return
            kept += data
            if len(kept) > self._limits.output_bytes:
                self._finish("output", f"more than {self._limits.output_bytes} bytes of output")
                return

    def _take(self, event: dict) -> None:
        """Takes an event of the server."""
        if event.get("event") == "exit":
            self._exit = event
        elif event.get("event") == "usage":
            seconds = event["seconds"]
            self._idle = self._idle + 1 if event["idle"] else 0
            left = self._limits.seconds - seconds
            if left <= 0:
                self._finish("timeout", f"more than {self._limits.seconds:g} s of processor time")
            elif self._idle >= _IDLE_LOOKS:
                self._finish("timeout", f"nothing done for {self._limits.seconds:g} s")
            elif time.monotonic() - self._started > _PATIENCE * self._limits.seconds:
                self._finish("unknown", "the machine is too busy")
            elif not event["idle"]:
                self._look_at = time.monotonic() + left

    def _finish(self, status: str, detail: str) -> None:
        if not self._status:
            self._status, self._detail = status, detail

    def _result(self) -> Result:
        exit = self._exit or {}
        error = bytes(self._error[-_KEPT_ERROR:]).decode(errors="replace").strip()
        status, detail = self._status, self._detail
        seconds = float(exit.get("seconds", 0.0))
        if not status:
            code, number = exit.get("code"), exit.get("signal")
            if code is not None:
                last = error.rpartition("\n")[2]
                status = "ok" if code == 0 else "memory" if last == "MemoryError" else "error"
                detail = error if code else ""
            elif number == signal.SIGXCPU or seconds > self._limits.seconds:
                status = "timeout"
                detail = f"more than {self._limits.seconds:g} s of processor time"
            elif number == signal.SIGKILL:  # not ours, and no program can send one
                status, detail = "unknown", "killed from outside, perhaps for want of memory"
            else:
                status, detail = "killed", signal.Signals(number).name if number else ""
        output = bytes(self._output[: self._limits.output_bytes]).decode(errors="replace")
        return Result(status, output, seconds, int(exit.get("peak_bytes", 0)), detail)
