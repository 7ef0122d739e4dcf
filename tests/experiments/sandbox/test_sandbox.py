import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.sandbox import Limits, Result, Sandbox, SandboxError, server
from experiments.sandbox import sandbox as sandbox_module
from experiments.sandbox.selftest import descendants
from experiments.sandbox.values import encode

REPOSITORY = Path(__file__).resolve().parents[3]
ENDLESS = "while True: pass"


@pytest.fixture(name="own")
def own_fixture(sandbox):
    """A sandbox that a test may spoil."""
    del sandbox  # skips where there is none
    with Sandbox() as own:
        yield own


@pytest.mark.parametrize(
    ("program", "status", "output"),
    [
        ("print(6 * 7)", "ok", "42\n"),
        ("", "ok", ""),
        ("import sys\nprint(1)\nsys.exit(0)", "ok", "1\n"),
        ("import sys\nsys.exit('no')", "error", ""),
        ("import sys\nsys.exit(256 + 3)", "error", ""),
        ("print(1)\n1 / 0", "error", "1\n"),
        ("1 +", "error", ""),
        ("if __name__ == '__main__': print(__name__)", "ok", "__main__\n"),
        ("import asyncio\nasync def f(): return 3\nprint(asyncio.run(f()))", "ok", "3\n"),
        ("import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\nprint(A(1))", "ok", "A(x=1)\n"),
        (
            "from concurrent.futures import ThreadPoolExecutor as E\nwith E(8) as e: print(sum(e.map(abs, range(9))))",
            "ok",
            "36\n",
        ),
        ("import threading\nthreading.Thread(target=print, args=('late',)).start()", "ok", "late\n"),
        ("import atexit\natexit.register(print, 'end')\nprint('x', end='')", "ok", "xend\n"),
        ("import io, sys\nprint('kept')\nsys.stdout = io.StringIO()\nprint('lost')", "ok", "kept\n"),
        ("import sys\nprint('kept')\nsys.stdout = None", "ok", "kept\n"),
        ("import tempfile\nwith tempfile.TemporaryFile('w+') as f: print(f.write('abc'))", "ok", "3\n"),
        ("bytearray(1 << 40)", "memory", ""),
        ("while True: print('x' * 99)", "output", None),
        ("import ctypes\nctypes.string_at(0)", "killed", ""),
        (ENDLESS, "timeout", ""),
        ("import time\nprint('a', flush=True)\ntime.sleep(60)", "timeout", "a\n"),
    ],
)  # fmt: skip
def test_run_tells_status_and_output(sandbox, program, status, output):
    result = sandbox.run(program, limits=Limits(seconds=1.0 if status != "timeout" else 0.2))
    assert result.status == status, result
    assert output is None or result.output == output
    assert bool(result.detail) == (status != "ok")


def test_run_gives_standard_input(sandbox):
    text = "é\0\n" * 100_000
    result = sandbox.run(
        "import sys\nprint(hash(sys.stdin.read()))\nprint(ascii(input.__name__))", text
    )
    assert result.status == "ok"
    program = "import sys\nt = sys.stdin.read()\nprint(len(t), t[:3] == 'é\\0\\n', t.count('é'))"
    assert sandbox.run(program, text).output == "300000 True 100000\n"
    assert sandbox.run("print(input())", "one\ntwo\n").output == "one\n"
    assert sandbox.run("print(input())").detail.endswith("EOFError: EOF when reading a line")
    assert sandbox.run("print(1)", "never read" * 10**6).output == "1\n"


def test_run_gives_detail_without_frames_of_the_server(sandbox):
    detail = sandbox.run("def f():\n    raise KeyError('x')\nf()").detail
    assert detail.split("\n")[1:] == [
        '  File "<program>", line 3, in <module>',
        '  File "<program>", line 2, in f',
        "KeyError: 'x'",
    ]


def test_run_measures_time_and_memory(sandbox):
    bare = sandbox.run("pass")
    busy = sandbox.run(
        "import time\nx = bytes(bytearray(b'1' * (100 << 20)))\nwhile time.process_time() < 0.3: pass"
    )
    assert busy.status == "ok", busy
    assert 0.25 < busy.seconds < 2
    assert 100 << 20 < busy.peak_bytes < 600 << 20
    assert bare.peak_bytes < 50 << 20


def test_run_gives_every_program_the_same_hashes_and_random_numbers_of_its_own(sandbox, own):
    program = "import random\nprint(hash('a'), random.random())"
    one, two = (sandbox.run(program).output.split() for _ in range(2))
    other = own.run(program).output.split()
    assert one[0] == two[0] == other[0]
    assert len({one[1], two[1], other[1]}) == 3


@pytest.mark.parametrize(
    ("limits", "program", "status"),
    [
        (Limits(memory_bytes=1 << 27), "bytearray(1 << 27)", "memory"),
        (Limits(output_bytes=10), "print('x' * 10)", "output"),
        (Limits(output_bytes=10), "print('x' * 9)", "ok"),
        (Limits(file_bytes=10), "with open('f', 'w') as f: f.write('x' * 11)", "error"),
        (Limits(open_files=20), "x = [open('/dev/null') for _ in range(20)]", "error"),
        (Limits(files=10), "import time\nfor i in range(20): open(str(i), 'w')\ntime.sleep(9)", "memory"),
        (Limits(threads=3), "import threading\ne = threading.Event()\nfor _ in range(4):"
         " threading.Thread(target=e.wait, daemon=True).start()", "error"),
        (Limits(threads=4), "import threading\ne = threading.Event()\nfor _ in range(3):"
         " threading.Thread(target=e.wait, daemon=True).start()", "ok"),
    ],
)  # fmt: skip
def test_run_keeps_limits(own, limits, program, status):
    assert own.run(program, limits=limits).status == status


def test_run_ends_a_sleeper_at_its_limit_and_no_program_for_waiting(sandbox):
    began = time.monotonic()
    result = sandbox.run("import time\nwhile True: time.sleep(0.01)", limits=Limits(seconds=0.3))
    assert result.status == "timeout"
    assert 0.3 <= time.monotonic() - began < 3
    # More busy threads than processors, beside: it waits for longer than its limit of 0.5 s.
    stop = "import time\nuntil = time.monotonic() + 4\nwhile time.monotonic() < until: pass"
    beside = [
        subprocess.Popen([sys.executable, "-c", stop]) for _ in range(6 * (os.cpu_count() or 1))
    ]
    try:
        program = "import time\nwhile time.process_time() < 0.4: pass\nprint('done')"
        result = sandbox.run(program, limits=Limits(seconds=0.6))
    finally:
        for process in beside:
            process.kill()
            process.wait()
    assert (result.status, result.output) == ("ok", "done\n"), result


@pytest.mark.parametrize("field", ["seconds", "memory_bytes", "threads"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True])
def test_limits_name_a_bad_field(field, value):
    with pytest.raises(ValueError, match=field):
        Limits(**{field: value})


def test_limits_refuse_less_memory_than_the_interpreter_takes():
    with pytest.raises(ValueError, match="memory_bytes must be at least 67108864"):
        Limits(memory_bytes=1 << 20)
    with pytest.raises(ValueError, match=r"files must be a whole number, got 1\.5"):
        Limits(files=1.5)  # pyright: ignore


def _call(running, path, *args):
    running.send(json.dumps({"call": path, "args": encode(args), "kwargs": encode({})}).encode())
    return json.loads(running.receive())


def test_start_answers_calls(sandbox):
    program = (
        "def swap(a, b): return b, a\nclass S:\n    def f(self, x): return x[::-1]\nn = 0\n"
        "def count():\n    global n\n    n += 1\n    return n\ndef bad(): raise KeyError('k')\n"
    )
    with sandbox.start("calls", program, Limits()) as running:
        assert json.loads(running.receive()) == {"ready": True}
        assert _call(running, "swap", 1, [2]) == {"value": {"tuple": [[2], 1]}}
        assert _call(running, "S().f", "abc") == {"value": "cba"}
        assert _call(running, "count") == {"value": 1}
        assert _call(running, "count") == {"value": 2}
        assert _call(running, "bad") == {"error": "KeyError", "message": "'k'"}
        assert _call(running, "nothing")["error"] == "AttributeError"


def test_start_runs_tests_whose_calls_the_host_answers(sandbox):
    tests = "assert add(2, 3) == 5\ntry:\n    add('', 1)\nexcept TypeError:\n    pass\nelse:\n    assert False\n"

    def verdict(add):
        with sandbox.start("tests", tests, Limits(), functions={"add": "add"}) as running:
            while isinstance(line := running.receive(), bytes):
                message = json.loads(line)
                if "passed" in message:
                    return message
                a, b = message["args"]["tuple"]
                running.send(json.dumps(add(a, b)).encode())
            return line

    right = verdict(lambda a, b: {"value": a + b} if a else {"error": "TypeError"})
    assert right == {"passed": True}
    assert verdict(lambda a, b: {"value": 6})["error"] == "AssertionError"
    assert verdict(lambda a, b: {"value": {"set": 6}})["error"] == "NotPlainError"
    assert verdict(lambda a, b: ["value"])["passed"] is False


def test_start_does_not_count_the_time_of_the_host(sandbox):
    with sandbox.start("calls", "def f(): return 1", Limits(seconds=0.3)) as running:
        running.receive()
        for _ in range(3):
            time.sleep(0.4)
            assert _call(running, "f") == {"value": 1}


def test_start_ends_a_program_that_the_host_leaves(sandbox):
    replaced = sandbox.replaced
    with pytest.raises(KeyboardInterrupt), sandbox.start("script", ENDLESS, Limits()):
        raise KeyboardInterrupt
    assert sandbox.run("print(1)").output == "1\n"
    assert sandbox.replaced == replaced


def test_run_replaces_a_sandbox_in_which_files_are_left(own):
    assert own.run("open('left', 'w').write('x')").status == "ok"
    assert own.run("import os\nprint(os.listdir())").output == "[]\n"
    assert own.replaced == 1


def _server_pid(own) -> int:
    return own._server.process.pid


@pytest.mark.parametrize("when", ["before", "while it runs"])
def test_run_survives_the_death_of_the_server(own, when):
    program = "import time\ntime.sleep(0.3)\nprint(1)"
    if when == "before":
        os.kill(_server_pid(own), signal.SIGKILL)
    else:
        threading.Timer(0.1, os.kill, (_server_pid(own), signal.SIGKILL)).start()
    assert own.run(program).output == "1\n"
    assert own.replaced == 1


def test_run_is_unknown_if_the_server_dies_twice(own, monkeypatch):
    started = own._started

    def dying():
        found = started()
        threading.Timer(0.1, found.kill).start()
        return found

    monkeypatch.setattr(own, "_started", dying)
    result = own.run("import time\ntime.sleep(9)\nprint(1)", limits=Limits(seconds=10))
    assert (result.status, result.output) == ("unknown", "")
    assert result.detail
    monkeypatch.undo()
    assert own.run("print(1)").output == "1\n"


def test_run_is_unknown_if_the_program_is_killed_from_outside(own):
    def kill():
        time.sleep(0.2)
        below = descendants(own._server.process.pid)
        (program,) = [pid for pid in below if not descendants(pid)]
        os.kill(program, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with own.start("script", ENDLESS, Limits()) as running:
        result = running.result()
    thread.join()
    assert result.status == "unknown", result


def test_run_ends_if_the_server_hangs(own, monkeypatch):
    monkeypatch.setattr("experiments.sandbox.running._ANSWER_SECONDS", 0.5)
    servers = [pid for pid in descendants(_server_pid(own)) if not descendants(pid)]
    for pid in servers:
        os.kill(pid, signal.SIGSTOP)
    assert own.run("print(1)", limits=Limits(seconds=0.1)).output == "1\n"
    assert own.replaced == 1


RUBBISH = """
import socket, sys
control = socket.socket(fileno=int(sys.argv[1]))
control.send(b'{"event": "ready"}')
while control.recv(1 << 16):
    control.send(RUBBISH)
"""


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\xff",
        b"[" * 50_000,
        b"[]",
        b"{}",
        b'{"event": "usage"}',
        b'{"event": "usage", "seconds": "x", "waited": 0, "files": 0}',
        b'{"event": "exit"}',
        b'{"event": "exit", "code": null, "signal": "9", "seconds": 0, "peak_bytes": 0, "clean": 1}',
        b'{"event": "exit", "code": 0, "signal": null, "seconds": [], "peak_bytes": 0, "clean": true}',
    ],
)
def test_run_is_unknown_if_the_server_sends_rubbish(monkeypatch, rubbish):
    text = RUBBISH.replace("RUBBISH", repr(rubbish))
    with Sandbox("unsafe") as own:
        own._discard()
        monkeypatch.setattr(sandbox_module, "_server_text", lambda: text)
        result = own.run("print(1)")
        assert result.status == "unknown"
        monkeypatch.undo()
        own._discard()
        assert own.run("print(1)").output == "1\n"


def test_run_raises_in_one_line_if_the_sandbox_cannot_be_replaced(monkeypatch):
    with Sandbox("unsafe") as own:
        own._discard()
        monkeypatch.setattr(sandbox_module, "_server_text", lambda: "raise ValueError('broken')")
        with pytest.raises(
            SandboxError, match=r"^the sandbox does not start: ValueError: broken"
        ) as error:
            own.run("print(1)")
        assert "\n" not in str(error.value)
        monkeypatch.setattr(sandbox_module, "PYTHON", Path("/nothing/python"))
        with pytest.raises(SandboxError, match="No such file or directory"):
            own.run("print(1)")


def test_run_after_close_raises(own):
    own.close()
    with pytest.raises(SandboxError, match="the sandbox is closed"):
        own.run("print(1)")


def test_sandbox_leaves_no_descriptor_and_no_process(sandbox):
    del sandbox
    descriptors, processes = len(os.listdir("/proc/self/fd")), descendants(os.getpid())
    for _ in range(3):
        with Sandbox() as own:
            own.run(ENDLESS, limits=Limits(seconds=0.05))
            own.run("open('left', 'w')")
            own.run("print(1)")
            with own.start("calls", "1 / 0", Limits()) as running:
                assert isinstance(running.receive(), Result)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    until = time.monotonic() + 10
    while descendants(os.getpid()) - processes and time.monotonic() < until:
        time.sleep(0.01)
    assert not descendants(os.getpid()) - processes


HOST = """
import sys, threading
from experiments.sandbox import Limits, Sandbox
sandbox = Sandbox()
if sys.argv[1] == "busy":
    threading.Timer(0.2, print, ("ready",), {"flush": True}).start()
    sandbox.run("import time\\nwhile True: time.sleep(0.1)", limits=Limits(seconds=60))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_sandbox_ends_with_a_killed_host(sandbox, state):
    del sandbox
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, state],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with host:
        assert host.stdout is not None
        host.stdout.readline()
        below = descendants(host.pid)
        assert len(below) >= (3 if state == "busy" else 2)
        host.kill()
        host.wait()
        until = time.monotonic() + 10
        while (left := {pid for pid in below if _is_alive(pid)}) and time.monotonic() < until:
            time.sleep(0.01)
    assert not left


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def test_server_text_brings_its_modules_along():
    text = sandbox_module._server_text()
    assert len(text) < 100_000  # Linux takes 128 KiB in one argument
    assert server.__name__ in text
