"""Runs the hostile programs, and tells by what the host sees whether they were contained.

Below: sandbox, hostile. Above: the command, tests.
"""

import contextlib
import ctypes
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.sandbox.hostile import Hostile, all_programs
from experiments.sandbox.protocol import Limits, Result
from experiments.sandbox.sandbox import Sandbox
from experiments.sandbox.values import NotPlainError, decode, encode

LIMITS = Limits(seconds=0.5, memory_bytes=1 << 28, disk_bytes=1 << 24)
_VARIABLE = "SANDBOX_CANARY"
_WATCHED = 0x00000FFF  # every event of inotify: open, read, write, move, …
_MOST_SECONDS = 30.0  # by the clock, on a busy machine


class Witness:
    """Things of the host that a program in a sandbox must not reach; a context manager."""

    def __init__(self):
        self.secret = f"canary-{secrets.token_hex(16)}"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Witness":
        stack = self._stack
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.home())))
        self._canary = folder / "canary"
        self._canary.write_text(self.secret)
        self._watch = _watched(self._canary)
        stack.callback(os.close, self._watch)
        os.environ[_VARIABLE] = self.secret
        stack.callback(os.environ.pop, _VARIABLE, None)
        self._sleeper = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1e6)"])
        )
        stack.callback(self._sleeper.kill)
        name = secrets.token_hex(8)
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{name}-stream"),
            (socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{name}-datagram"),
            (socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket")),
        ]
        self._sockets = []
        for family, kind, address in addresses:
            listener = stack.enter_context(socket.socket(family, kind))
            listener.bind(address)
            if kind == socket.SOCK_STREAM:
                listener.listen()
            listener.setblocking(False)
            self._sockets.append(listener)
        self._words = {
            "CANARY": str(self._canary),
            "SOCKET": str(folder / "socket"),
            "PROJECT": __file__,
            "HOME": str(Path.home()),
            "SLEEPER": str(self._sleeper.pid),
            "HOST": str(os.getpid()),
            "TCP": str(self._sockets[0].getsockname()[1]),
            "UDP": str(self._sockets[1].getsockname()[1]),
            "STREAM": f"{name}-stream",
            "DATAGRAM": f"{name}-datagram",
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fill(self, program: str, **words: str) -> str:
        """Puts what the host keeps watch over into a program."""
        for word, value in {**self._words, **words}.items():
            program = program.replace(f"@{word}@", value)
        return program

    def complaints(self, said: str) -> list[str]:
        """Tells what a program reached, given all that it said."""
        found = []
        if self.secret in said:
            found.append("it read the canary or the variables")
        if "class Witness" in said:
            found.append("it read the project")
        if "ESCAPED" in said:
            found.append("it says that it escaped")
        with contextlib.suppress(BlockingIOError):
            os.read(self._watch, 1 << 16)
            found.append("the canary was opened or changed")
        if self._sleeper.poll() is not None:
            found.append("a process of the host died")
        for listener in self._sockets:
            with contextlib.suppress(BlockingIOError):
                if listener.type == socket.SOCK_STREAM:
                    listener.accept()[0].close()
                else:
                    listener.recv(1)
                found.append(f"it reached {listener.getsockname()}")
        return found


def _watched(path: Path) -> int:
    """Returns a descriptor that can be read once anybody touches the file."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(path), _WATCHED) < 0:
        raise OSError(ctypes.get_errno(), "inotify", str(path))
    return watch


def descendants(pid: int) -> set[int]:
    """Returns all processes that descend from a process of this machine."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            stat = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
            if stat[0] != b"Z":
                children.setdefault(int(stat[1]), []).append(int(name))
    found, waiting = set(), [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found


def add_is_right(sandbox: Sandbox, program: str, limits: Limits) -> tuple[bool, Result]:
    """Checks that a program's `add` gives sums of numbers that the host draws.

    Returns:
      (whether it does, its result); the result's status is "wrong" where an answer is not the sum.
    """
    with sandbox.start("calls", program, limits) as running:
        line = running.receive()
        for _ in range(3):
            if isinstance(line, Result):
                return False, line
            numbers = [random.getrandbits(48), random.getrandbits(48)]
            request = {"call": "add", "args": encode(numbers), "kwargs": encode({})}
            running.send(json.dumps(request).encode())
            line = running.receive()
            if isinstance(line, Result):
                return False, line
            try:
                answer = json.loads(line)
                value = decode(answer["value"])
            except (NotPlainError, LookupError, RecursionError, TypeError, ValueError) as error:
                return False, Result("wrong", detail=str(error)[:200])
            if type(value) is not int or value != sum(numbers):
                return False, Result("wrong", detail=f"a {type(value).__name__}")
    return True, Result("ok")


def judge(sandbox: Sandbox, witness: Witness, hostile: Hostile) -> tuple[Result, list[str]]:
    """Runs one hostile program.

    Returns:
      (its result, what is wrong with how it was contained: nothing, if all is well).
    """
    processes = len(descendants(os.getpid()))
    mark = f"MARKED-{secrets.token_hex(16)}"
    if hostile.before:
        sandbox.run(witness.fill(hostile.before, SECRET=mark), limits=LIMITS)
    program = witness.fill(hostile.program)
    began = time.monotonic()
    if hostile.mode == "calls":
        passed, result = add_is_right(sandbox, program, LIMITS)
    else:
        result = sandbox.run(program, limits=LIMITS)
        passed = result.status == "ok" and result.output.strip() == mark
    took = time.monotonic() - began
    wrong = witness.complaints(result.output + result.detail)
    if passed:
        wrong.append("it passed")
    if mark in result.output + result.detail:
        wrong.append("it read what the program before left")
    if result.status not in hostile.statuses:
        wrong.append(f"its status is not {' or '.join(hostile.statuses)}: {result.detail[-200:]}")
    if took > _MOST_SECONDS:
        wrong.append(f"it took {took:.0f} s")
    if result.peak_bytes > LIMITS.memory_bytes:
        wrong.append(f"it had {result.peak_bytes >> 20} MiB")
    a, b = random.getrandbits(48), random.getrandbits(48)
    after = sandbox.run(f"import os\nprint({a} * {b}, os.listdir('.'))", limits=LIMITS)
    if (after.status, after.output) != ("ok", f"{a * b} []\n"):
        wrong.append(
            f"the next program was {after.status}: {after.output[:50]} {after.detail[-50:]}"
        )
    until = time.monotonic() + _MOST_SECONDS
    while (left := len(descendants(os.getpid())) - processes) > 0 and time.monotonic() < until:
        time.sleep(0.01)
    if left:
        wrong.append(f"{left:+d} processes")
    return result, wrong


def lines(backend: str = "bubblewrap") -> Iterator[tuple[str, bool]]:
    """Runs every hostile program; yields (a line of text, whether it was contained)."""
    with Sandbox(backend, disk_bytes=LIMITS.disk_bytes) as sandbox, Witness() as witness:
        for hostile in all_programs():
            began = time.monotonic()
            result, wrong = judge(sandbox, witness, hostile)
            verdict = f"NOT CONTAINED: {'; '.join(wrong)}" if wrong else "contained"
            took = time.monotonic() - began
            said = (
                f"{hostile.name:16} {hostile.tries:48} {result.status:8} {took:5.2f} s  {verdict}"
            )
            yield said, not wrong
