"""Profiles one piece of work, in a process of its own on one core:

    python -m experiments.benchmarks.profile.measure '{"name": "rollout_tiny", ...}' REPEATS

What is printed is one line of JSON.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.benchmarks import ours
from experiments.benchmarks.profile.operations import operations
from experiments.benchmarks.works import Work, from_json
from experiments.program import ONEDNN

PRODUCT = 2048  # rows and columns of the plain product


def profile(work: Work, repeats: int) -> dict:
    """Times the work, then traces it once.

    Args:
      work: a rollout, an update or a whole step.
      repeats: of the work without a trace, after two that warm up.

    Returns:
      seconds: of each repetition, and of each plain product, by the wall clock.
      traced_seconds: of the repetition that was traced, which takes longer.
      operations: kind, what, flop each time, times and seconds in the trace; those with the same
        kind and arrays together.
    """
    call = ours.call_of(work)
    once = ours.repeated(call)
    lowered = call.function.lower(*call.arguments)
    once()
    once()
    seconds = [_seconds(once) for _ in range(repeats)]
    known = operations(lowered.compile().as_text())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=_without_python()):
            traced = _seconds(once)
        (trace,) = Path(folder).rglob("*.xplane.pb")
        events = jax.profiler.ProfileData.from_file(str(trace))
        found: dict[tuple, list[float]] = {}
        for name, nanoseconds in _events(events):
            if name in known:
                found.setdefault(known[name], []).append(nanoseconds / 1e9)
    return {
        "seconds": seconds,
        "product_seconds": _plain_product(max(repeats, 5)),
        "traced_seconds": traced,
        "operations": [
            operation._asdict() | {"times": len(times), "seconds": sum(times)}
            for operation, times in found.items()
        ],
    }


def _without_python() -> jax.profiler.ProfileOptions:
    """Options of a trace that leaves out the calls of Python functions, which are many."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    return options


def _events(data: jax.profiler.ProfileData):
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                yield event.name, event.duration_ns


def _plain_product(repeats: int) -> list[float]:
    """Seconds of each repetition, by the faster of the libraries that our programs ask for."""
    matrix = jnp.ones((PRODUCT, PRODUCT))
    found = []
    for options in ({}, ONEDNN):
        product = jax.jit(jnp.matmul, compiler_options=options)

        def once(product=product):
            product(matrix, matrix).block_until_ready()

        once()
        found.append([_seconds(once) for _ in range(repeats)])
    return min(found, key=statistics.median)


def _seconds(once: Callable[[], object]) -> float:
    start = time.perf_counter()
    once()
    return time.perf_counter() - start


def main(arguments: list[str]) -> None:
    """Prints the profile of the work that the arguments name."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    print(json.dumps(profile(from_json(json.loads(arguments[0])), int(arguments[1]))))


if __name__ == "__main__":
    main(sys.argv[1:])
