"""The side of a timed process: prepares one piece of work, then does it each time it is told to.

Standard library only, as experiments.benchmarks.works. The process is told by lines on its standard
input and answers with JSON lines on its standard output; what libraries print goes to the error
output.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata

from experiments.benchmarks.works import Work, from_json

Once = Callable[[], object]
Prepare = Callable[[Work], tuple[Once, dict]]


def serve(prepare: Prepare, packages: tuple[str, ...], at_end: Callable[[], dict] = dict) -> None:
    """Prepares the work of the last argument and does it once for each line "go".

    The first two times, which compile (google-tunix compiles anew the second time), are answered
    with `ready`; at the end comes the peak of memory from then on: the mark of the kernel is set
    back first, so that no compiler is in it.

    Args:
      prepare: work -> (a function that does it and waits for its end, what else to report).
      packages: whose versions are reported.
      at_end: more to report at the end.
    """
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    work = from_json(json.loads(sys.argv[-1]))
    start = time.perf_counter()
    once, notes = prepare(work)
    prepared = time.perf_counter()
    once()
    once()
    warm_up = time.perf_counter() - prepared
    whole = peak_bytes()
    is_set_back = set_back_peak()

    def answer(**fields):
        print(json.dumps(fields), file=answers)

    answer(
        ready=True,
        prepare_s=prepared - start,
        warm_up_s=warm_up,
        versions={name: metadata.version(name) for name in packages},
        notes=notes,
    )
    for line in sys.stdin:
        if line.strip() != "go":
            break
        start, cpu_start = time.perf_counter(), time.process_time()
        once()
        answer(seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu_start)
    answer(peak_bytes=peak_bytes(), peak_with_compiling=whole, is_set_back=is_set_back, **at_end())
    answers.flush()
    os._exit(0)  # the threads of a `Stepper` wait for ever


def end_with_parent() -> None:
    """Has Linux kill this process when the one that started it ends, however that ends."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def memory_bytes(field: str) -> int:
    """A field of /proc/self/status: VmRSS is resident now, VmHWM the most so far."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return memory_bytes("VmHWM")


def give_back() -> None:
    """Frees what nothing holds; left over from before, it would serve for the next arrays."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def set_back_peak() -> bool:
    """Sets VmHWM to what is resident now, after giving back what is free; False if not allowed."""
    give_back()
    try:
        with open("/proc/self/clear_refs", "w") as marks:
            marks.write("5")
    except OSError:
        return False
    return True


class Stepper:
    """Lets a training loop that calls back be done step by step from outside.

    The loop runs in a thread of its own and calls `boundary` between steps.
    """

    def __init__(self, loop: Callable[[], object]):
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(loop,), daemon=True)
        self._begun = False

    def _run(self, loop):
        try:
            loop()
        except BaseException as error:  # handed to the thread that waits for the step
            self._error = error
        self._done.release()

    def boundary(self) -> None:
        """Ends a step, and waits to be asked for the next one."""
        self._done.release()
        self._go.acquire()

    def step(self) -> None:
        """Does one step.

        Raises:
          RuntimeError: if the loop has ended.
        """
        if not self._begun:
            self._begun = True
            self._thread.start()
            self._done.acquire()  # before the first step
        self._go.release()
        self._done.acquire()
        if self._error is not None or not self._thread.is_alive():
            raise RuntimeError("the training loop has ended") from self._error


def fastest(variants: dict[str, Callable[[], Once]]) -> tuple[str, dict[str, float | str]]:
    """Makes each variant, does it twice, and returns the name of the one with the best second time.

    Args:
      variants: makers by name; one that raises is out.

    Returns:
      The name, and the CPU seconds, or what went wrong, of each.
    """
    seconds: dict[str, float | str] = {}
    for name, make in variants.items():
        try:
            once = make()
            once()
            start = time.process_time()  # which other processes on the core disturb less
            once()
            seconds[name] = time.process_time() - start
        except Exception as error:  # whatever a compiler raises on this machine
            seconds[name] = f"{type(error).__name__}: {str(error).splitlines()[:1]}"
    timed = {name: s for name, s in seconds.items() if isinstance(s, float)}
    if not timed:
        raise RuntimeError(f"no variant works: {seconds}")
    return min(timed, key=timed.__getitem__), seconds
