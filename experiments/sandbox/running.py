"""A program under way in a sandbox: its pipes, its time, its end.

Below: protocol. Above: sandbox.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from experiments.sandbox.protocol import Limits, Result, SandboxError

_ANSWER_SECONDS = 30.0  # for which a server may be silent when it is asked something
_PATIENCE = 20.0  # times its limit that a program may take on a busy machine
_IDLE_LOOKS = 3  # times in a row that a program is found asleep before that counts
_LEAST_LOOK, _MOST_LOOK = 0.02, 0.5  # seconds between two looks at what a program has used
_KEPT_ERROR = 2000  # bytes of standard error
_CHUNK = 1 << 16
# Numbers of Linux that Python's fcntl lacks before 3.13 or on old builds.
_ADD_SEALS, _SEAL_ALL = 1033, 0xF


class Control:
    """The host's end of the socket to a server: one JSON object to a packet."""

    def __init__(self, connection: socket.socket):
        self.connection = connection

    def send(self, request: Mapping[str, object], descriptors: list[int] | None = None) -> bool:
        """Sends a request; returns whether it went out."""
        try:
            socket.send_fds(self.connection, [json.dumps(request).encode()], descriptors or [])
        except OSError:
            return False
        return True

    def receive(self, seconds: float) -> dict | None:
        """Returns the next event; None if none comes in time, or the server is gone."""
        try:
            self.connection.settimeout(max(seconds, 0.001))
            event = json.loads(self.connection.recv(_CHUNK))
        except (OSError, ValueError, RecursionError):
            return None
        return event if isinstance(event, dict) else None


class _Exit(NamedTuple):
    """How a program ended: with an exit code or by a signal."""

    code: int | None
    signal: int | None
    seconds: float
    peak_bytes: int
    clean: bool


class Running:
    """A program under way.

    Attributes:
      clean: after its end, whether the sandbox is as it was before; False while it runs.
    """

    def __init__(
        self,
        control: Control,
        mode: str,
        program: str,
        stdin: str,
        limits: Limits,
        functions: Mapping[str, str],
        *,
        counts_threads: bool = True,
    ):
        self.clean = False
        self._control, self._limits = control, limits
        self._output, self._error, self._answers = bytearray(), bytearray(), bytearray()
        self._status = self._detail = ""
        self._exit: _Exit | None = None
        self._ended = False
        self._open: set[int] = set()
        theirs: list[int] = []
        try:
            theirs.append(_sealed(program))
            theirs.append(_sealed(stdin))
            self._stdout, self._stderr, self._from = self._pipe(theirs), self._pipe(theirs), -1
            self._to = -1
            if mode != "script":
                self._to = self._pipe(theirs, host_writes=True)
                self._from = self._pipe(theirs)
            request = {
                "do": "run",
                "mode": mode,
                "functions": dict(functions),
                "limits": {
                    "CPU": int(limits.seconds) + 1,
                    "AS": limits.memory_bytes,
                    "FSIZE": limits.file_bytes,
                    "NOFILE": limits.open_files,
                    **({"NPROC": limits.threads + 1} if counts_threads else {}),
                },
            }
            if not control.send(request, theirs):
                self._finish("unknown", "the sandbox ended")
        except BaseException as error:
            self._close()
            if isinstance(error, OSError):
                raise SandboxError(f"the host cannot start a program: {error}") from error
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self._started = self._called = time.monotonic()
        self._idle = 0
        self._look_at = self._started + min(limits.seconds, _MOST_LOOK)
        self._asked_at: float | None = None
        self._paused_at: float | None = None

    def result(self) -> Result:
        """Waits for the end of the program."""
        self._wait(lambda: False, [self._stdout, self._stderr])
        self.end()
        return self._result()

    def send(self, data: bytes) -> None:
        """Sends a line to the program; it ends with a timeout if the program does not read it."""
        self._resume()
        self._called, self._idle = time.monotonic(), 0
        data += b"\n"
        while data and not self._over():
            try:
                data = data[os.write(self._to, data) :]
            except BlockingIOError:
                self._step([self._stdout, self._stderr], writing=True)
            except OSError:  # it closed the channel, or it or its server is dead: receive tells
                return

    def receive(self) -> bytes | Result:
        """Waits for a line from the program.

        Returns:
          The line; or the program's result, if it ends before or has reached a limit.
        """
        self._resume()
        self._wait(lambda: b"\n" in self._answers, [self._stdout, self._stderr, self._from])
        if self._status or b"\n" not in self._answers:
            self.end()
        if self._status or b"\n" not in self._answers:
            return self._result()
        end = self._answers.index(b"\n")
        line = bytes(self._answers[:end])
        del self._answers[: end + 1]
        self._paused_at = time.monotonic()
        return line

    def end(self) -> None:
        """Ends the program if it runs, and takes what it has written."""
        if self._ended:
            return
        self._ended = True
        try:
            if self._exit is None and self._control.send({"do": "kill"}):
                until = time.monotonic() + _ANSWER_SECONDS
                while self._exit is None:
                    if not self._take(self._control.receive(until - time.monotonic())):
                        break
            if self._exit is None:
                self._finish("unknown", "the sandbox does not answer")
            self.clean = self._exit is not None and self._exit.clean
            for descriptor in list(self._open - {self._to}):
                self._read(descriptor)
        finally:
            self._close()

    def _over(self) -> bool:
        return self._exit is not None or bool(self._status)

    def _wait(self, done: Callable[[], bool], reading: list[int]) -> None:
        while not done() and not self._over():
            self._step(reading)

    def _resume(self) -> None:
        """Ends a pause: what the host takes between two lines is not the program's time."""
        if self._paused_at is not None:
            pause = time.monotonic() - self._paused_at
            self._started, self._called = self._started + pause, self._called + pause
            self._look_at += pause
            self._paused_at = None

    def _pipe(self, theirs: list[int], host_writes: bool = False) -> int:
        """Opens a pipe; appends the program's end to `theirs` and returns the host's."""
        read, write = os.pipe()
        ours, other = (write, read) if host_writes else (read, write)
        theirs.append(other)
        self._open.add(ours)
        os.set_blocking(ours, False)
        return ours

    def _close(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def _step(self, reading: list[int], writing: bool = False) -> None:
        """Waits until something can be read, or the program has to be looked at."""
        control = self._control.connection.fileno()
        if control < 0:  # closed by another thread
            self._finish("unknown", "the sandbox is closed")
            return
        poll = select.poll()
        poll.register(control, select.POLLIN)
        for descriptor in self._open.intersection(reading):
            poll.register(descriptor, select.POLLIN)
        if writing:
            poll.register(self._to, select.POLLOUT)
        until = self._look_at if self._asked_at is None else self._asked_at + _ANSWER_SECONDS
        for descriptor, _ in poll.poll(max(until - time.monotonic(), 0) * 1000 + 1):
            if descriptor == control:
                self._take(self._control.receive(_ANSWER_SECONDS))
            elif descriptor != self._to:
                self._read(descriptor)
        now = time.monotonic()
        if self._over() or now < until:
            return
        if self._asked_at is not None:
            self._finish("unknown", "the sandbox does not answer")
        elif self._control.send({"do": "usage"}):
            self._asked_at = now
        else:
            self._finish("unknown", "the sandbox ended")

    def _read(self, descriptor: int) -> None:
        buffers = {self._stdout: self._output, self._stderr: self._error, self._from: self._answers}
        kept = buffers[descriptor]
        while descriptor in self._open:
            try:
                data = os.read(descriptor, _CHUNK)
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

    def _take(self, event: dict | None) -> bool:
        """Takes an event of the server; returns whether it was one."""
        if event is None:
            self._finish("unknown", "the sandbox ended")
            return False
        try:
            kind = event.pop("event")
            if kind == "exit":
                self._exit = _exit(**event)
            elif kind == "usage":
                self._asked_at = None
                self._take_usage(**event)
            else:
                raise ValueError(kind)
        except (KeyError, TypeError, ValueError):
            self._finish("unknown", "the sandbox answers what nobody understands")
            return False
        return True

    def _take_usage(self, seconds: float, waited: float, idle: bool, files: int) -> None:
        """Ends a program that has used up its time, at work, or asleep in this call of it."""
        limit, now = self._limits.seconds, time.monotonic()
        elapsed, asleep = now - self._started, now - self._called - waited
        self._idle = self._idle + 1 if idle else 0
        late = elapsed > _PATIENCE * limit
        sleeps = asleep > limit and self._idle >= _IDLE_LOOKS
        if seconds > limit or sleeps or (late and waited < elapsed / 2):
            self._finish("timeout", f"more than {limit:g} s, {seconds:.1f} of them at work")
        elif files > self._limits.files:
            self._finish("memory", f"more than {self._limits.files} files")
        elif late:
            self._finish("unknown", "the machine is too busy")
        else:
            left = limit - max(seconds, asleep)
            self._look_at = now + min(max(left, _LEAST_LOOK), _MOST_LOOK)

    def _finish(self, status: str, detail: str) -> None:
        if not self._status:
            self._status, self._detail = status, detail

    def _result(self) -> Result:
        error = bytes(self._error[-_KEPT_ERROR:]).decode(errors="replace").strip()
        status, detail = self._status, self._detail
        ended = self._exit or _Exit(None, None, 0.0, 0, False)
        code, number, seconds = ended.code, ended.signal, ended.seconds
        if not status:
            if code is not None:
                last = error.rpartition("\n")[2]
                status = "ok" if code == 0 else "memory" if last == "MemoryError" else "error"
                detail = (error or f"exit code {code}") if code else ""
            elif number is None:
                status, detail = "unknown", "the sandbox does not answer"
            elif number == signal.SIGXCPU or seconds > self._limits.seconds:
                status = "timeout"
                detail = f"more than {self._limits.seconds:g} s, {seconds:.1f} of them at work"
            elif number == signal.SIGKILL:  # not ours, and no program can send one
                status, detail = "unknown", "killed from outside, perhaps for want of memory"
            else:
                status, detail = "killed", f"by signal {signal.Signals(number).name}"
        output = bytes(self._output[: self._limits.output_bytes]).decode(errors="replace")
        return Result(status, output, seconds, ended.peak_bytes, detail)


def _exit(code: int | None, signal: int | None, seconds: float, peak_bytes: int, clean: bool):
    """Reads what the server says of a program's end; raises for what cannot be."""
    if (code is None) == (signal is None) or not isinstance(code or signal or 0, int):
        raise ValueError("an exit code or a signal")
    return _Exit(code, signal, float(seconds), int(peak_bytes), clean is True)


def _sealed(text: str) -> int:
    """Writes a text to a file in memory that nobody can change any more; returns its descriptor."""
    descriptor = os.memfd_create("text", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, descriptor)
        data = memoryview(text.encode("utf-8", "surrogatepass"))
        while data:
            data = data[os.write(descriptor, data) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        fcntl.fcntl(descriptor, _ADD_SEALS, _SEAL_ALL)
        undo.pop_all()
    return descriptor
