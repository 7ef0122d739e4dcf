"""The sections of `experiments.perf.accelerator`: each prints its rows as JSON lines.

python -m experiments.perf.accelerator_sections SECTION ARGUMENTS_AS_JSON
"""

import contextlib
import functools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.experiment import initial_params
from experiments.models import attention, huggingface
from experiments.models.config import ModelConfig
from experiments.perf import fade_jax_worker
from experiments.perf.worker import Workload, peak_bytes, workload_from_json
from experiments.rollout import completion_log_probs

# What of the tests compares numbers with references, on one device.
_CORE = (
    "tests/fade_jax/entropies",
    "tests/fade_jax/losses",
    "tests/experiments/models/test_layers.py",
    "tests/experiments/models/test_attention.py",
    "tests/experiments/models/test_transformer.py",
    "tests/fade_jax/advantages",
)


_SCORE = re.compile(r"eval/pass@\d+")


def timed(run_once, seconds: float = 3.0, most: int = 10) -> dict:
    """Runs once to compile, then for some seconds; returns the median and the compile time."""
    start = time.perf_counter()
    run_once()
    first = time.perf_counter() - start
    times = []
    while not times or (sum(times) < seconds and len(times) < most):
        start = time.perf_counter()
        run_once()
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    return {"seconds": median, "compile_s": max(first - median, 0.0)}


def memory_gb() -> float:
    """Returns the peak of the device's memory, or of this process on a CPU."""
    on_device = fade_jax_worker.device_peak()["device_bytes"]
    return (on_device or peak_bytes()) / 1e9


def identify(emit):
    """The device and the versions."""
    found = jax.devices()[0]
    packages = "jax", "jaxlib", "flax", "optax", "numpy"
    emit(
        {
            "device": found.device_kind,
            "backend": jax.default_backend(),
            "platform": " ".join(found.client.platform_version.split()),
            "versions": ", ".join(f"{name} {metadata.version(name)}" for name in packages),
        }
    )


def roofline(emit, size: int):
    """A bfloat16 product [size, size] with itself, and a copy of as many bytes as four of them."""
    matrix = jnp.ones((size, size), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    flop = 2 * size**3
    row = timed(lambda: product(matrix, matrix).block_until_ready(), most=50)
    emit({"work": f"bfloat16 product of {size}", "tflops": flop / row["seconds"] / 1e12, **row})
    array = jnp.ones((4 * size, size), jnp.bfloat16)
    copy = jax.jit(jnp.negative)
    row = timed(lambda: copy(array).block_until_ready(), most=50)
    moved = 2 * array.nbytes
    emit(
        {
            "work": f"copy of {array.nbytes / 1e9:.2g} GB",
            "gbps": moved / row["seconds"] / 1e9,
            **row,
        }
    )


def numerics(emit, whole: bool):
    """Tests against references, with float32 products in full precision; a row for each file."""
    files = _CORE if whole else ("tests/experiments/models/test_layers.py",)
    for path in files:
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} is not here: run from the root of the repository")
    environment = {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    command = [sys.executable, "-m", "pytest", "-o", "addopts=-q --import-mode=importlib"]
    command += ["-p", "no:cacheprovider", "--tb=no", "-rf"]
    command += ["-m", "not slow", "-k", "not shard and not mesh and not device"]
    for path in files:
        more = os.environ | (environment if whole else {})
        done = subprocess.run([*command, path], capture_output=True, text=True, env=more)
        found = re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)
        counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
        emit({"work": path, **counts, **{name: int(count) for count, name in found}})
        for line in re.findall(r"^FAILED (.*)$", done.stdout, re.MULTILINE)[:20]:
            emit({"work": line[:200]})
        if not found:
            raise RuntimeError((done.stdout + done.stderr).strip().splitlines()[-1])


def policy(emit, workload: dict, weights: str = ""):
    """A rollout, an update or the head in bfloat16; writes the weights if a baseline wants them."""
    work = workload_from_json(workload)
    if work.kind == "head":
        run_once, notes = fade_jax_worker.head_call(work, "bfloat16")
    else:
        call = fade_jax_worker.call_of(work, "bfloat16")
        run_once, notes = fade_jax_worker.repeated(call), call.notes
    row = timed(run_once)
    emit(
        {
            "work": work.kind,
            "implementation": "fade_jax",
            "tokens_per_s": work.amount / row["seconds"],
            **row,
            "memory_gb": memory_gb(),
            "flop": notes["flop"],
        }
    )
    if weights:
        write_reference(work, Path(weights))


def write_reference(work: Workload, folder: Path):
    """Writes the weights for transformers, and float32 log-probs of fixed completions."""
    completion = max(work.completion, 32 - work.prompt)
    experiment = fade_jax_worker.make_experiment(work._replace(completion=completion))
    params = initial_params(experiment)
    if not (folder / "config.json").exists():
        huggingface.save(folder, experiment.model, jax.device_get(params))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, work.shape.vocab_size, (2, 32), np.int32)
    with jax.default_matmul_precision("highest"):
        log_probs = jax.jit(completion_log_probs, static_argnums=0)(
            experiment.model, params, tokens[:, :2], jnp.full(2, 2), tokens[:, None, 2:]
        )
    np.savez(folder / "reference.npz", tokens=tokens, log_probs=np.asarray(log_probs)[:, 0])


def _heads(name: str) -> ModelConfig:
    """A model with the heads of Qwen2.5-0.5B and the attention `name`."""
    return ModelConfig(8, 1, 896, 14, 2, 64, 8, dtype="bfloat16", attention=name)


def attention_by_length(emit, lengths: list[int], tokens: int):
    """Causal attention at Qwen2.5-0.5B's heads in bfloat16, by every implementation here.

    Causal FLOP are counted: 4 products of half of the scores in the forward pass, 10 backward.
    """
    backend = jax.default_backend()
    names = ["plain", "blocks", *{"gpu": ["cudnn"], "tpu": ["pallas"]}.get(backend, [])]
    kv_heads, shared, width = 2, 7, 64  # as _heads
    for length in lengths:
        rng = np.random.default_rng(0)
        rows = max(tokens // length, 1)
        shape = rows, 1, length, kv_heads, shared, width
        query, key, value = (
            jnp.asarray(rng.standard_normal(s, np.float32), jnp.bfloat16)
            for s in (shape, (*shape[:4], width), (*shape[:4], width))
        )
        query = query * width**-0.5
        flop = 14 * rows * kv_heads * shared * width * length * (length + 1) / 2
        first = [x[:1].astype(jnp.float32) for x in (query, key, value)]
        with jax.default_matmul_precision("highest"):
            exact = jax.jit(functools.partial(attention.attend_causally, _heads("plain")))(*first)
        for name in names:
            sizes = _heads(name)

            def loss(query, key, value, sizes=sizes):
                out = attention.attend_causally(sizes, query, key, value).astype(jnp.float32)
                return jnp.sum(jnp.sin(out)), out[:1]

            row = {"work": f"{rows} x {length} tokens", "implementation": name}
            try:
                step = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
                compiled = step.lower(query, key, value).compile()
                memory: Any = compiled.memory_analysis()
                (_, out), _ = compiled(query, key, value)
                run_once = functools.partial(compiled, query, key, value)
                row |= timed(lambda run_once=run_once: jax.block_until_ready(run_once()), 1.0)
                del row["compile_s"]
                row |= {"memory_gb": memory.temp_size_in_bytes / 1e9, "flop": flop}
                row["largest_error"] = float(jnp.max(jnp.abs(out - exact)))
                emit(row)
            except Exception as error:  # a kernel that this device does not have
                emit(row | {"status": " ".join(str(error).split())[:200]})


@contextlib.contextmanager
def _command(*arguments: str):
    """Runs experiments.run; gives its seconds, and the workdir while it lasts."""
    with tempfile.TemporaryDirectory(prefix="fade_jax_") as workdir:
        command = [sys.executable, "-m", "experiments.run", *arguments, f"--workdir={workdir}"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"experiments.run ended with exit code {done.returncode}: {last}")
        yield time.perf_counter() - start, Path(workdir)


def sweep(emit, runs: int, steps: int, commands: bool):
    """The benchmark's sweep: its steps alone, and as a whole command, compilation included."""
    work = {"work": f"{steps} steps of {runs} runs, without start and evaluation"}
    for title, together in (("one vmapped program", runs), ("run after run", 0)):
        run_once = fade_jax_worker.repeated(fade_jax_worker.sweep_call(steps, together))
        row = timed(run_once, 2.0)
        row["seconds"] *= 1 if together else runs
        emit(work | {"implementation": title} | row)
    if not commands:
        return
    jax.clear_caches()
    for title, executor in (("one vmapped program", "vmap"), ("run after run", "serial")):
        config = f"--config={fade_jax_worker.SWEEP_CONFIG}"
        with _command(config, f"--config.sweep.mode={executor}", "--noreport") as (seconds, made):
            finished = len(list(made.rglob("result.json")))
        work = f"whole command of {finished} runs"
        emit({"work": work, "implementation": title, "seconds": seconds})


def quickstart(emit, mode: str):
    """The job of `make run`: GRPO, Power(3) and FADE from one warm start."""
    with _command(f"--config=configs/quickstart.py{mode}", "--noreport") as (seconds, workdir):
        emit({"work": "warm start and all runs", "seconds": seconds})
        for path in sorted(workdir.rglob("result.json")):
            result = json.loads(path.read_text())
            scores = {name: result[name] for name in sorted(result) if _SCORE.fullmatch(name)}
            if scores:
                emit({"work": path.parent.name, **scores})


SECTIONS = {
    "device": identify,
    "roofline": roofline,
    "numerics": numerics,
    "rollout": policy,
    "update": policy,
    "head": policy,
    "attention": attention_by_length,
    "sweep": sweep,
    "quickstart": quickstart,
}


def main():
    """Runs a section; its rows go to the standard output, all else to the standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    if name not in ("rollout", "update", "head"):
        arguments.pop("weights", None)
    SECTIONS[name](lambda row: print(json.dumps(row), file=answers), **arguments)


if __name__ == "__main__":
    main()
