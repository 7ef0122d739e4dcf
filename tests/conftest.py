"""Eight fake CPU devices for every test process, set before JAX starts its backend."""

import os

import jax

jax.config.update("jax_num_cpu_devices", 8)

# The tests never reach for a network: data sets and weights come from paths.
os.environ.setdefault("TFDS_DATA_DIR", "")
