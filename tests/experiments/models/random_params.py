"""Parameters of a model with every array random."""

import functools

import jax
import numpy as np

from experiments.models import transformer


def random_params(config, seed=0):
    """Norms and biases random too, and weights large enough for attention to be sharp."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if "norm" in path[-1].key:
            return (1 + 0.3 * rng.normal(size=leaf.shape)).astype(np.float32)
        return (0.4 * rng.normal(size=leaf.shape)).astype(np.float32)

    init = functools.partial(transformer.init_params, config)
    return jax.tree.map_with_path(draw, jax.eval_shape(init, jax.random.key(0)))
