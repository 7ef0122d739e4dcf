"""Time and memory of the output head: log-probability, entropy and the gradients of both inputs.

    python -m experiments.benchmarks.head [--tokens=2048 --width=896 --vocabulary=151936]

Every implementation runs in a fresh process on one core, once to compile and once to be timed.
The peak is that of the process, with its inputs and gradients. The floor is the time of a plain
product of the same size, measured beside them: three are needed, and a fourth to compute the
logits once more in the backward pass. Default sizes take about two minutes and 7 GB.
"""

import argparse
import os
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from fade_jax.entropies import log_prob_and_entropy


def plain(
    hidden: jax.Array, unembedding: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The logits of all tokens at once."""
    log_p = jax.nn.log_softmax(hidden @ unembedding.T)
    log_prob = jnp.take_along_axis(log_p, targets[:, None], axis=1)[:, 0]
    return log_prob, -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def rows(
    hidden: jax.Array, unembedding: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The logits of 128 tokens at a time, computed again in the backward pass."""

    @jax.checkpoint
    def some(hidden_and_targets):
        return plain(hidden_and_targets[0], unembedding, hidden_and_targets[1])

    parts = hidden.reshape(-1, 128, hidden.shape[1]), targets.reshape(-1, 128)
    log_prob, entropy = jax.lax.map(some, parts)
    return log_prob.reshape(-1), entropy.reshape(-1)


def fused(
    hidden: jax.Array, unembedding: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`fade_jax.entropies.log_prob_and_entropy`."""
    return log_prob_and_entropy(hidden, unembedding, targets, chunk=512)


IMPLEMENTATIONS = {"plain": plain, "rows": rows, "fused": fused}


def inputs(tokens: int, width: int, vocabulary: int) -> tuple[jax.Array, ...]:
    """Hidden states, unembedding and targets, drawn without large temporaries."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((tokens, width), np.float32)
    unembedding = rng.standard_normal((vocabulary, width), np.float32)
    unembedding *= 2 / width**0.5
    return tuple(map(jnp.asarray, (hidden, unembedding, rng.integers(0, vocabulary, tokens))))


def measure(name: str, sizes: tuple[int, int, int]) -> None:
    """Print the seconds and the peak of one implementation, or of a product alone."""
    hidden, unembedding, targets = inputs(*sizes)

    def loss(hidden, unembedding):
        log_prob, entropy = IMPLEMENTATIONS[name](hidden, unembedding, targets)
        return jnp.mean(log_prob) + 0.1 * jnp.mean(entropy)

    if name == "product":
        # Of the rows in slices, since the whole result would be timed for its memory.
        step = jax.jit(lambda h, w: jnp.sum(jax.lax.map(lambda part: h @ part.T, w)[..., 0]))
        unembedding = unembedding[: sizes[2] // 512 * 512].reshape(-1, 512, sizes[1])
    else:
        step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    compiled = step.lower(hidden, unembedding).compile()
    jax.block_until_ready(compiled(hidden, unembedding))
    start, cpu_start = time.perf_counter(), time.process_time()
    jax.block_until_ready(compiled(hidden, unembedding))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{name:8} {seconds:9.1f} {cpu_seconds:13.1f} {peak:10.2f}", flush=True)


def main() -> None:
    """Run every implementation in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=896)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--only", choices=[*IMPLEMENTATIONS, "product"])
    flags = parser.parse_args()
    sizes = flags.tokens, flags.width, flags.vocabulary
    if flags.only:
        measure(flags.only, sizes)
        return
    print(f"{'':8} {'seconds':>9} {'CPU seconds':>13} {'peak, GB':>10}", flush=True)
    one_core = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "OMP_NUM_THREADS": "1"}
    core = str(min(os.sched_getaffinity(0)))
    for name in ("product", *IMPLEMENTATIONS):
        command = [sys.executable, "-m", "experiments.benchmarks.head", f"--only={name}"]
        command += [f"--{k}={v}" for k, v in zip(("tokens", "width", "vocabulary"), sizes)]
        subprocess.run(["taskset", "-c", core, *command], check=True, env=os.environ | one_core)


if __name__ == "__main__":
    main()
