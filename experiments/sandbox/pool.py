"""Several sandboxes at work at once, each set of them driven by a thread that only waits.

Below: sandbox. Above: the tasks whose answers are programs.
"""

import queue
import threading
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import TypeVar

from experiments.sandbox.protocol import Limits
from experiments.sandbox.sandbox import Sandbox

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class SandboxPool:
    """Runs a function over many items, `workers` at a time; a context manager."""

    def __init__(
        self,
        workers: int,
        backend: str = "bubblewrap",
        *,
        sandboxes: int = 1,
        disk_bytes: int = Limits().disk_bytes,
    ):
        """Starts all sandboxes.

        Args:
          workers: how many items are worked on at once; one per processor core is enough.
          backend: see `Sandbox`.
          sandboxes: that each worker holds, say one for programs and one for their tests.
          disk_bytes: see `Sandbox`.

        Raises:
          ValueError: for an unknown backend, or a number below 1.
          SandboxError: if a sandbox does not start.
        """
        for name, value in (("workers", workers), ("sandboxes", sandboxes)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        # A sandbox ends with the thread that started it, so the threads last as long as the pool.
        self._threads = futures.ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        self._sandboxes: list[tuple[Sandbox, ...]] = []
        self._started: list[Sandbox] = []

        def start(_: int) -> tuple[Sandbox, ...]:
            group = []
            for _ in range(sandboxes):
                group.append(Sandbox(backend, disk_bytes=disk_bytes))
                self._started.append(group[-1])
            return tuple(group)

        try:
            self._sandboxes = list(self._threads.map(start, range(workers)))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "SandboxPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def replaced(self) -> int:
        """How many sandboxes were replaced so far, since a program left something in them."""
        return sum(sandbox.replaced for sandbox in self._started)

    def map(
        self, function: Callable[[tuple[Sandbox, ...], Item], Answer], items: Iterable[Item]
    ) -> list[Answer]:
        """Calls `function(sandboxes, item)` for every item.

        Args:
          function: called from several threads, each with sandboxes of its own.
          items: what to call it with.

        Returns:
          What it returned, in the order of the items.

        Raises:
          SandboxError: if a sandbox cannot be replaced; any other exception of `function` too. The
            first one ends the map; items under way are finished before it is raised.
        """
        waiting: queue.SimpleQueue[tuple[int, Item]] = queue.SimpleQueue()
        for pair in enumerate(items):
            waiting.put(pair)
        answers: dict[int, Answer] = {}
        stop = threading.Event()

        def work(sandboxes: tuple[Sandbox, ...]) -> None:
            while not stop.is_set():
                try:
                    number, item = waiting.get_nowait()
                except queue.Empty:
                    return
                answers[number] = function(sandboxes, item)

        try:
            tasks = [self._threads.submit(work, group) for group in self._sandboxes]
            futures.wait(tasks, return_when=futures.FIRST_EXCEPTION)
            stop.set()
            for task in tasks:
                task.result()
        except Exception:
            stop.set()
            raise
        except BaseException:  # Ctrl-C: end the programs under way too
            stop.set()
            self.close()
            raise
        return [answers[number] for number in sorted(answers)]

    def close(self) -> None:
        """Ends all sandboxes, with what runs in them."""
        for sandbox in list(self._started):
            sandbox.stop()
        self._threads.shutdown(cancel_futures=True)
        for sandbox in self._started:
            sandbox.close()
