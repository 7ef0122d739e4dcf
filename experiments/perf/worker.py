"""Workloads and timed processes, seen from inside (`serve`) and outside (`Worker`).

Standard library only: the environments of the baselines have none of our packages. A process reads
requests as lines on its standard input and answers with JSON lines on its standard output; what
libraries print goes to the standard error.
"""

import ctypes
import gc
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """Sizes of a Llama with a tied head, named as in config.model."""

    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    d_ff: int
    vocab_size: int


SHAPES = {"smollm2": Shape(30, 576, 9, 3, 1536, 49152), "tiny": Shape(4, 128, 4, 4, 512, 64)}


class Workload(NamedTuple):
    """One row of the table.

    Attributes:
      name: as --workload takes it.
      kind: "product", "rollout", "update", "head", "step" or "sweep_steps".
      shape: of the model.
      prompts: distinct prompts.
      group_size: completions of each.
      prompt: tokens of each.
      completion: tokens of each, at most.
      steps: of one repetition, one after another.
      variant: of fade_jax only: "kept" for an update with remat_keeps="products"; "slots" for a
        rollout that decodes a quarter of the completions at a time; "rows" or "logits" for a head
        that is not fused.
      lengths: of the completions: "fixed", or "geometric" with a mean of 1/4 of `completion`, which
        is then the longest possible.
    """

    name: str
    kind: str
    shape: Shape
    prompts: int
    group_size: int
    prompt: int
    completion: int
    steps: int = 1
    variant: str = ""
    lengths: str = "fixed"

    def completion_lengths(self) -> list[int]:
        """Returns the tokens of each completion, the same for all implementations."""
        if self.lengths == "fixed":
            return [self.completion] * self.sequences
        import numpy as np  # every environment has it, but `Worker` needs none

        drawn = np.random.default_rng(0).geometric(4 / self.completion, self.sequences)
        return np.minimum(drawn, self.completion).tolist()

    @property
    def sequences(self) -> int:
        """Number of completions."""
        return self.prompts * self.group_size

    @property
    def tokens(self) -> int:
        """Tokens of one sequence, prompt included."""
        return self.prompt + self.completion

    @property
    def unit(self) -> str:
        """Seconds per step for "step", else a rate."""
        return {"product": "GFLOP/s", "step": "s"}.get(self.kind, "tokens/s")

    @property
    def amount(self) -> float:
        """The numerator of the rate for one step; 1 for seconds.

        A rollout counts new tokens, an update all tokens of all sequences, without padding.
        """
        if self.kind == "product":
            return 2 * self.prompt**3 / 1e9
        if self.kind == "step":
            return 1
        completions = sum(self.completion_lengths())
        return completions + (0 if self.kind == "rollout" else self.sequences * self.prompt)

    @property
    def baseline(self) -> "Workload":
        """The unnamed workload of an implementation that shares nothing within a group."""
        plain = self._replace(name="", variant="")
        return (
            plain if self.kind == "step" else plain._replace(prompts=self.sequences, group_size=1)
        )

    def title(self) -> str:
        """The first cell of the row."""
        group = f"{self.prompts} prompts"
        if self.group_size > 1:
            group += f" x {self.group_size} rollouts"
        most = "up to " if self.lengths == "geometric" else ""
        sizes = f"{group}, {self.prompt} + {most}{self.completion} tokens"
        if self.kind == "product":
            sizes = f"{self.prompt} x {self.prompt}"
        if self.kind == "head":
            sizes = f"{self.sequences * self.tokens} tokens"
        return f"{self.name}: {sizes}"


def workload_from_json(fields: dict) -> Workload:
    """Inverts `Workload._asdict` and JSON."""
    return Workload(**{**fields, "shape": Shape(*fields["shape"])})


def _family(
    kind: str, shape: str, sequences: int, prompt: int, completion: int
) -> tuple[Workload, ...]:
    name, sizes = f"{kind}_{shape}", SHAPES[shape]
    distinct = Workload(name, kind, sizes, sequences, 1, prompt, completion)
    grouped = distinct._replace(name=f"{name}_grouped", prompts=sequences // 8, group_size=8)
    if kind != "update":
        return distinct, grouped
    kept = [w._replace(name=f"{w.name}_kept", variant="kept") for w in (distinct, grouped)]
    return distinct, kept[0], grouped, kept[1]


def _real_lengths(kind: str, shape: str) -> Workload:
    name = f"{kind}_{shape}_real_lengths"
    return Workload(name, kind, SHAPES[shape], 32, 1, 32, 256, lengths="geometric")


_TINY_GROUPS = _real_lengths("rollout", "tiny")._replace(
    name="rollout_tiny_real_lengths_grouped", group_size=8
)
_HEAD = Workload("head", "head", SHAPES["smollm2"], 16, 1, 32, 96)
WORKLOADS = (
    Workload("product", "product", SHAPES["tiny"], 1, 1, 2048, 0),
    *_family("rollout", "smollm2", 32, 32, 64),
    *_family("rollout", "tiny", 32, 32, 64),
    _real_lengths("rollout", "smollm2"),
    _real_lengths("rollout", "tiny"),
    _TINY_GROUPS,
    _TINY_GROUPS._replace(name=f"{_TINY_GROUPS.name}_slots", variant="slots"),
    *_family("update", "smollm2", 16, 32, 96),
    *_family("update", "tiny", 16, 32, 96),
    *(
        row
        for plain in (_real_lengths("update", "smollm2"), _real_lengths("update", "tiny"))
        for row in (plain, plain._replace(name=f"{plain.name}_kept", variant="kept"))
    ),
    _HEAD,
    *(_HEAD._replace(name=f"head_{v}", variant=v) for v in ("rows", "logits")),
    Workload("step_tiny", "step", SHAPES["tiny"], 8, 8, 16, 16, steps=5),
)

RunOnce = Callable[[], object]
Prepare = Callable[[Workload], tuple[RunOnce, dict]]


def serve(prepare: Prepare, packages: tuple[str, ...], at_end: Callable[[], dict] = dict) -> None:
    """Prepares the workload of the last argument and runs it once for each line "go".

    Two warm-up runs, which compile (google-tunix compiles again the second time), come before the
    first answer. Then the kernel's peak of memory is reset, so that no compiler is in it.

    Args:
      prepare: workload -> (a function that runs it and waits for the result, notes to report).
      packages: to report the versions of.
      at_end: more to report at the end.
    """
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    workload = workload_from_json(json.loads(sys.argv[-1]))
    start = time.perf_counter()
    run_once, notes = prepare(workload)
    prepared = time.perf_counter()
    run_once()
    run_once()
    warm_up = time.perf_counter() - prepared
    peak_with_compiling = peak_bytes()
    peak_is_reset = reset_peak()

    def answer(**fields):
        print(json.dumps(fields), file=answers)

    versions = {name: metadata.version(name) for name in packages}
    answer(prepare_s=prepared - start, warm_up_s=warm_up, versions=versions, notes=notes)
    for line in sys.stdin:
        if line.strip() != "go":
            break
        start, cpu_start = time.perf_counter(), time.process_time()
        run_once()
        answer(seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu_start)
    answer(
        peak_bytes=peak_bytes(),
        peak_with_compiling=peak_with_compiling,
        peak_is_reset=peak_is_reset,
        **at_end(),
    )
    answers.flush()
    os._exit(0)  # the thread of a `Stepper` never ends


def die_with_parent() -> None:
    """Asks Linux to kill this process when its parent ends."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def peak_bytes() -> int:
    """Returns the largest resident memory of this process so far."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def free_memory() -> None:
    """Collects garbage and returns free heap to the system; it would hide later allocations."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak() -> bool:
    """Resets the peak to the resident memory, after `free_memory`; False if not allowed."""
    free_memory()
    try:
        with open("/proc/self/clear_refs", "w") as marks:
            marks.write("5")
    except OSError:
        return False
    return True


class Stepper:
    """Runs a training loop with callbacks step by step, from outside.

    The loop runs in a thread and calls `boundary` between steps.
    """

    def __init__(self, loop: Callable[[], object]):
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(loop,), daemon=True)
        self._begun = False

    def _run(self, loop):
        try:
            loop()
        except BaseException as error:  # raised again by `step`
            self._error = error
        self._done.release()

    def boundary(self) -> None:
        """Ends a step, and waits for the next call of `step`."""
        self._done.release()
        self._go.acquire()

    def step(self) -> None:
        """Runs one step.

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


ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": os.getcwd(),
}


def pinned(command: list[str], core: int | None) -> list[str]:
    """Returns the command pinned to one core, or unchanged for None."""
    return [*(["taskset", "-c", str(core)] if core is not None else []), *command]


class Worker:
    """A process that runs `serve`.

    Attributes:
      result: "status" is "ok", or the exit code and the last line of a process that ended early;
        "seconds" and "cpu_seconds" of each repetition; all else that the process has answered.
    """

    def __init__(self, python: str, module: str, workload: Workload, core: int | None):
        self.result = {"status": "ok", "seconds": [], "cpu_seconds": []}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by `stop`
        command = [python, "-m", f"experiments.perf.{module}", json.dumps(workload._asdict())]
        self._process: Any = subprocess.Popen(
            pinned(command, core),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # Compiling is timed too.
            env=os.environ | ONE_THREAD | {"JAX_ENABLE_COMPILATION_CACHE": "0"},
        )

    def request(self, word: str = "") -> None:
        """Sends "go" or "end", or nothing for the first answer; adds the answer to `result`."""
        if self.result["status"] != "ok":
            return
        line = ""
        with suppress(BrokenPipeError):
            if word:
                print(word, file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        if not line:
            self.result |= {"status": self._last_words(), "seconds": [], "cpu_seconds": []}
            self.stop()
            return
        answer = json.loads(line)
        for name in ("seconds", "cpu_seconds"):
            self.result[name] += [answer.pop(name)] if name in answer else []
        self.result |= answer

    @property
    def was_killed(self) -> bool:
        """Whether the process was killed, as for memory, before `stop`."""
        return self.result["status"].startswith(f"failed, exit code {-signal.SIGKILL}:")

    def stop(self) -> None:
        """Kills the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(BrokenPipeError):
                stream.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return f"failed, exit code {code}: {lines[-1] if lines else 'no message'}"


def describe_machine(core: int | None) -> dict:
    """Returns the machine and its load; `core` is the one that processes are pinned to."""
    try:
        cpu = cpu_model(Path("/proc/cpuinfo").read_text())
    except OSError:
        cpu = ""
    return {
        "cpu": cpu or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "pinned_to": core,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def cpu_model(cpuinfo: str) -> str:
    """Returns the model of the first processor in the text of /proc/cpuinfo."""
    pairs = (line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in pairs}
    name = fields.get("model name", "")
    family, model = fields.get("cpu family"), fields.get("model")
    return f"{name} (family {family}, model {model})" if name and family else name
