"""Eight fake CPU devices for every test process, and one cache of compiled programs for all."""

import os
from pathlib import Path

import jax

COMPILATION_CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache" / "compiled"

# Before JAX starts its backend. Eight devices share few cores: on a busy machine one may wait for
# the others for longer than the 40 seconds after which XLA would end the process.
PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=900"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {PATIENCE}"
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(COMPILATION_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
# Most of the time goes to compilers, for programs that run for milliseconds. Commands that tests
# start as a user does are compiled as a user's are.
jax.config.update("jax_disable_most_optimizations", True)
