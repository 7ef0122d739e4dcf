"""Eight fake CPU devices for every test process, and one cache of compiled programs for all.

With JAX_DISABLE_MOST_OPTIMIZATIONS=0 in the environment, all is compiled as a user's programs are.
"""

import os
from pathlib import Path

import jax

COMPILATION_CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache" / "compiled"

# Before JAX starts its backend. Eight devices share few cores: on a busy machine one may wait for
# the others for longer than the 40 seconds after which XLA would end the process.
PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=900"
# Most of the time would go to the compiler, for programs that run for milliseconds. In the
# environment for the commands that tests start; JAX has read it before this line.
QUICKLY = "JAX_DISABLE_MOST_OPTIMIZATIONS"
os.environ.setdefault(QUICKLY, "1")
# XLA's newer emitters take half of the time of compiling small programs (experiments/compilation.py
# goes without them too).
OLD_EMITTERS = "--xla_cpu_use_fusion_emitters=false" if os.environ[QUICKLY] == "1" else ""
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {PATIENCE} {OLD_EMITTERS}"
# Also of the commands that tests start, which would else fill the user's cache.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILATION_CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(COMPILATION_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_disable_most_optimizations", os.environ[QUICKLY] == "1")
