import os
import signal
import threading
import time

import pytest

from experiments.sandbox import Limits, Sandbox, SandboxError, SandboxPool
from experiments.sandbox import sandbox as sandbox_module
from experiments.sandbox.benchmark import case, is_right, run_benchmark
from experiments.sandbox.protocol import Result
from experiments.sandbox.selftest import descendants


@pytest.fixture(name="processes", autouse=True)
def processes_fixture(sandbox):
    """Checks that nothing is left."""
    del sandbox
    before = descendants(os.getpid())
    yield
    until = time.monotonic() + 10
    while descendants(os.getpid()) - before and time.monotonic() < until:
        time.sleep(0.01)
    assert not descendants(os.getpid()) - before


def test_map_keeps_the_order_and_gives_each_worker_its_own_sandboxes():
    seen = []
    with SandboxPool(3, sandboxes=2) as pool:

        def run(sandboxes, number):
            first, second = sandboxes
            seen.append((threading.get_ident(), first, second))
            delay = 0.05 * (number % 3 == 0)
            return [
                box.run(f"import time\ntime.sleep({delay})\nprint({number})").output
                for box in (first, second)
            ]

        assert pool.map(run, range(30)) == [[f"{n}\n", f"{n}\n"] for n in range(30)]
        assert pool.map(run, []) == []
        assert len({first for _, first, _ in seen}) == 3
        assert not {first for _, first, _ in seen} & {second for _, _, second in seen}
        assert pool.replaced == 0


def test_map_raises_the_first_exception_and_can_be_used_again():
    with SandboxPool(2) as pool:
        calls = []

        def fail(_, number):
            calls.append(number)
            if number == 5:
                raise ValueError("number 5")
            return number

        with pytest.raises(ValueError, match="number 5"):
            pool.map(fail, range(10**5))
        assert len(calls) < 10**5
        assert pool.map(lambda boxes, n: boxes[0].run(f"print({n})").output, [7]) == ["7\n"]


def test_map_raises_in_one_line_if_a_sandbox_cannot_be_replaced(monkeypatch):
    with SandboxPool(2) as pool:
        monkeypatch.setattr(sandbox_module, "_server_text", lambda: "raise ValueError('broken')")
        with pytest.raises(SandboxError, match="ValueError: broken") as error:
            pool.map(lambda boxes, n: boxes[0].run("open('left', 'w')"), range(10))
        assert "\n" not in str(error.value)


def test_map_ends_all_at_ctrl_c():
    began = time.monotonic()
    endless = Limits(seconds=60)
    with SandboxPool(2) as pool:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            pool.map(lambda boxes, _: boxes[0].run("while True: pass", limits=endless), range(9))
    assert time.monotonic() - began < 20


def test_pool_refuses_bad_numbers_and_backends():
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        SandboxPool(0)
    with pytest.raises(ValueError, match="sandboxes must be at least 1, got 0"):
        SandboxPool(1, sandboxes=0)
    with pytest.raises(ValueError, match=r"the backend must be one of .* got 'docker'"):
        SandboxPool(1, "docker")


def test_stop_ends_a_run_of_another_thread():
    with Sandbox() as own:
        threading.Timer(0.2, own.stop).start()
        with pytest.raises(SandboxError, match="closed"):
            own.run("while True: pass", limits=Limits(seconds=60))


def test_case_fails_for_one_in_a_hundred():
    cases = [case(number) for number in range(1200)]
    assert sum(todo.status != "ok" for todo in cases) == 12
    assert {todo.status for todo in cases} == {
        "ok",
        "error",
        "timeout",
        "killed",
        "memory",
        "output",
    }
    assert cases[3].output == "23757\n"
    assert is_right(cases[3], Result("ok", "23757\n"))
    assert not is_right(cases[3], Result("ok", "23758\n"))
    assert not is_right(cases[99], Result("ok"))


def test_run_benchmark_counts_statuses():
    rows, good = run_benchmark(200, 2, "bubblewrap")
    table = {str(name): value for name, *values in rows for value in values}
    assert good, rows
    assert table["ok (expected)"] == "198 (198)"
    assert table["wrong"] == table["processes left"] == 0
