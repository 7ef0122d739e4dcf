"""The fork server, which runs inside a sandbox and forks once for every program.

The host passes the text of this file and of `values` to a bare interpreter, so they import the
standard library alone. The server never sees a program: it gets file descriptors, which its child
reads. It holds nothing that a program could want, and cannot be traced or opened by one.

Requests and replies are JSON, one to a packet, on the socket given by number in argv[1]; argv[2]
holds the settings. A request names limits and a mode, and brings descriptors: the program, its
standard input, output and error, and for two modes a pipe from and to the host. Replies:

    {"event": "ready"}                 the server has started
    {"event": "usage", "seconds": s, "waited": w, "files": n}  to a request {"do": "usage"}
    {"event": "exit", "code": c, "signal": n, "seconds": s, "peak_bytes": b, "clean": true}

Modes: "script" runs a program as `python FILE` does. "calls" defines it, then answers calls of its
functions. "tests" runs a test program in which the named functions are answered by the host.
Values cross as tagged JSON of plain types (`encode`), never as pickles.
"""

import _sitebuiltins
import atexit
import builtins
import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import types

from experiments.sandbox.values import decode, encode

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER_MODE = 4, 38, 22, 2
_IS_INIT = os.getpid() == 1  # of its own process namespace, in which it may kill everything
_MOST_DESCRIPTORS = 1024


def main() -> None:
    """Serves requests until the host closes the socket; in a child, returns to run a program."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.closerange(3, control.fileno())
    os.closerange(control.fileno() + 1, _MOST_DESCRIPTORS)
    if not os.path.exists("/proc/self/schedstat"):
        raise SystemExit("the kernel has no /proc/self/schedstat")
    for name in settings["preload"]:
        __import__(name)
    for name in ("exit", "quit"):  # of the module site, which is not imported
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))
    install_filter = _filter_installer(libc, bytes.fromhex(settings["filter"]))
    gc.collect()
    gc.freeze()
    _reply(control, event="ready")
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 8)
        if not message:
            return
        request = json.loads(message)
        if request["do"] != "run":
            continue  # about a program that has ended meanwhile
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                control.close()
                code = _run(request, descriptors, install_filter)
            finally:
                os._exit(code)
        for descriptor in descriptors:
            os.close(descriptor)
        _watch(control, pid)


def _reply(control, **event) -> None:
    control.send(json.dumps(event).encode())


def _watch(control, pid: int) -> None:
    """Waits for a program's end, and answers the host meanwhile; leaves no process behind."""
    process = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.register(control, select.POLLIN)
    while all(ready != process for ready, _ in poll.poll()):
        message = control.recv(1 << 16)
        if not message:
            os.kill(pid, signal.SIGKILL)
            os._exit(0)
        if json.loads(message)["do"] == "kill":
            os.kill(pid, signal.SIGKILL)
        else:
            _reply(
                control,
                event="usage",
                seconds=_seconds(pid),
                waited=_waited(pid),
                files=_files() if _IS_INIT else 0,
            )
    os.close(process)
    _, status, usage = os.wait4(pid, 0)
    left = False
    try:
        os.kill(-1 if _IS_INIT else -pid, signal.SIGKILL)
        left = True
    except (ProcessLookupError, PermissionError):
        pass
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass
    _reply(
        control,
        event="exit",
        code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        seconds=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * 1024,
        clean=not left and _has_clean_directory(),
    )


def _has_clean_directory() -> bool:
    """Tells whether the working directory is empty; resets its mode and times."""
    try:
        os.chmod(".", 0o700)
        empty = not os.listdir(".")
        os.utime(".", (0, 0))
    except OSError:
        return False
    return empty


def _seconds(pid: int) -> float:
    """Processor time of a process and all its threads."""
    return time.clock_gettime(~pid << 3 | 2)  # Linux's number for another process's clock


def _waited(pid: int) -> float:
    """Longest time that a thread of a process was ready to run but had no processor, in seconds."""
    longest = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                longest = max(longest, int(file.read().split()[1]))
        except OSError:
            pass  # it has ended
    return longest / 1e9


def _files() -> int:
    """Number of files in the sandbox's own file system."""
    found = os.statvfs(".")
    return found.f_files - found.f_ffree


def _filter_installer(libc, program: bytes):
    """Returns a function that puts the seccomp filter on the calling process, for good."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    pointer = ctypes.create_string_buffer(header, len(header))

    def install() -> None:
        if program and libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, pointer, 0, 0):
            raise OSError(ctypes.get_errno(), "seccomp")

    install.buffer = buffer  # type: ignore[attr-defined]  # alive for as long as the function
    return install


# In the child. Nothing below runs in the server.


def _run(request, descriptors, install_filter) -> int:
    """Prepares the process for a program, and runs it; returns the exit code."""
    try:
        text, streams = _prepare(request, descriptors)
        install_filter()
    except BaseException:  # no fault of the program, which cannot send this signal itself
        os.kill(os.getpid(), signal.SIGKILL)
        raise
    # Functions are imported, as by the judges of the field: `if __name__ == "__main__"` is skipped.
    name = "__main__" if request["mode"] == "script" else "solution"
    module = sys.modules[name] = types.ModuleType(name)
    try:
        if request["mode"] == "script":
            _execute(text, module)
        elif request["mode"] == "calls":
            _serve_calls(text, module)
        else:
            _run_tests(text, module, request["functions"])
        code = 0
    except SystemExit as error:
        code = _exit_code(error)
    except BaseException:
        _print_traceback()
        code = 1
    return _finish(code, streams)


def _prepare(request, descriptors):
    """Sets descriptors, limits and modules; returns (text of the program, standard streams)."""
    os.setsid()
    program, *standard = descriptors
    with os.fdopen(program, "rb") as file:
        text = file.read().decode("utf-8", "surrogatepass")
    # Above the numbers that they get, so that none is closed by another's arrival.
    high = [_moved_up(descriptor) for descriptor in standard]
    for number, descriptor in enumerate(high):
        os.dup2(descriptor, number, inheritable=False)
    os.closerange(len(high), _MOST_DESCRIPTORS)
    streams = []
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        errors = "backslashreplace" if name == "stderr" else "surrogateescape"
        stream = open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115  open to the end
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
        streams.append(stream)
    sys.argv = ["program"]
    for name, value in request["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    return text, streams


def _moved_up(descriptor: int) -> int:
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD, 16)


def _execute(text: str, module) -> None:
    exec(compile(text, "<program>", "exec", dont_inherit=True), module.__dict__)


def _exit_code(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _print_traceback() -> None:
    """Prints the current exception without this file's frames."""
    kind, error, trace = sys.exc_info()
    while trace is not None and trace.tb_frame.f_code.co_filename != "<program>":
        trace = trace.tb_next
    try:
        traceback.print_exception(kind, error, trace, limit=20)
    except BaseException:
        print(getattr(kind, "__name__", "error"), file=sys.stderr)


def _finish(code: int, streams) -> int:
    """Ends as an interpreter does: waits for threads, runs exit functions, flushes."""
    try:
        for thread in threading.enumerate():
            if thread is not threading.main_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr, *streams):
            if stream is not None and not stream.closed:
                stream.flush()
    except BaseException:
        _print_traceback()
        code = code or 1
    return code


def _serve_calls(text: str, module) -> None:
    """Defines the program, then answers calls {"call": path, "args": …, "kwargs": …}."""
    requests, answers = _channel()
    _execute(text, module)
    answers({"ready": True})
    for line in requests:
        request = json.loads(line)
        try:
            function = _find(module, request["call"])
            value = function(*decode(request["args"]), **decode(request["kwargs"]))
            answer = {"value": encode(value)}
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error)[:500]}
        answers(answer)


def _find(module, path: str):
    """Finds `f`, or the method of `Class().f`."""
    owner, _, name = path.rpartition("().")
    found = getattr(module, owner)() if owner else module
    return getattr(found, name)


class _CallError(Exception):
    """The function of the program raised an exception that is not built in."""


def _run_tests(text: str, module, functions) -> None:
    """Runs a test program; calls of `functions` are answered through the host."""
    answers, ask = _channel()

    def proxy(path: str):
        def function(*args, **kwargs):
            ask({"call": path, "args": encode(args), "kwargs": encode(kwargs)})
            answer = json.loads(answers.readline())
            if "error" not in answer:
                return decode(answer["value"])
            kind = getattr(builtins, answer["error"], None)
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                kind = _CallError
            raise kind(answer.get("message", ""))

        return function

    for name, path in functions.items():
        setattr(module, name, proxy(path))
    try:
        _execute(text, module)
        verdict = {"passed": True}
    except Exception as error:
        verdict = {
            "passed": False,
            "error": type(error).__name__,
            "message": str(error)[:500],
            "line": _last_line(error),
        }
    ask(verdict)


def _last_line(error) -> int:
    """Returns the innermost line of the program that an exception passed; 0 for none."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == "<program>"]
    return lines[-1] if lines else 0


def _channel():
    """Returns (lines from the host, a function that sends JSON to it), on descriptors 3 and 4."""
    lines = open(3, encoding="ascii", closefd=False)  # noqa: SIM115  open to the end
    dumps, write = json.dumps, os.write

    def send(value) -> None:
        data = dumps(value).encode() + b"\n"
        while data:
            data = data[write(4, data) :]

    return lines, send
