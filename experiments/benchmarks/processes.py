"""Timed processes seen from outside: fresh, pinned to a core, and told when to work."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress

from experiments.benchmarks.works import Work

ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": os.getcwd(),
}


def first_core() -> int:
    """The first core that this process may use."""
    return min(os.sched_getaffinity(0))


def pinned(command: Sequence[str], core: int | None) -> list[str]:
    """The command on one core, or as it is."""
    return [*(["taskset", "-c", str(core)] if core is not None else []), *command]


class WorkerError(RuntimeError):
    """A timed process ended before it was told to; the message has its last words."""


class Worker:
    """One timed process; see experiments.perf.worker for its side."""

    def __init__(
        self,
        python: str,
        module: str,
        work: Work,
        *,
        core: int | None,
        environment: Mapping[str, str],
    ):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by `stop`
        command = [python, "-m", f"experiments.perf.{module}", json.dumps(work._asdict())]
        self._process = subprocess.Popen(
            pinned(command, core),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | ONE_THREAD | environment,
        )

    def answer(self) -> dict:
        """Waits for the next answer.

        Raises:
          WorkerError: if there is none.
        """
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        return json.loads(line)

    def go(self) -> dict:
        """Has the work done once; returns its seconds and CPU seconds."""
        self._tell("go")
        return self.answer()

    def end(self) -> dict:
        """Ends the process; returns its peaks of memory."""
        self._tell("end")
        last = self.answer()
        self.stop()
        return last

    def stop(self) -> None:
        """Ends the process, whatever it is at."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(BrokenPipeError):
                stream.close()

    def _tell(self, word: str) -> None:
        try:
            print(word, file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise WorkerError(self._last_words()) from error

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return f"exit code {code}: {lines[-1] if lines else 'no message'}"


def works(python: str) -> bool:
    """Whether there is a Python of this path, or name on the PATH."""
    try:
        subprocess.run([python, "-c", ""], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def own_python() -> str:
    """The Python that runs this."""
    return sys.executable
