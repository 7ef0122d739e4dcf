"""Eight fake CPU devices for every test process, and one cache of compiled programs for all."""

from pathlib import Path

import jax

COMPILATION_CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache" / "compiled"

# Before JAX starts its backend.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(COMPILATION_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
