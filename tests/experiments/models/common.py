"""Random parameters and greedy decoding for the tests of the models."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.models import decode, transformer

FIXTURES = Path(__file__).parent / "fixtures"
CHECKPOINTS = sorted(path.parent.name for path in FIXTURES.glob("*/reference.npz"))


def random_params(config, seed=0):
    """Draws all parameters, norms and biases too, large enough for attention to be sharp."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        mean, scale = (1, 0.3) if "norm" in path[-1].key else (0, 0.4)
        return (mean + scale * rng.normal(size=leaf.shape)).astype(np.float32)

    init = functools.partial(transformer.init_params, config)
    return jax.tree.map_with_path(draw, jax.eval_shape(init, jax.random.key(0)))


@functools.partial(jax.jit, static_argnums=(0, 4))
def greedy(config, params, tokens, length, steps):
    """Decodes the most likely tokens i32 [P, steps] after prompts [P, S], with the cache."""
    head = transformer.unembedding(config, params)

    def best(hidden):
        return jnp.argmax(hidden @ head.T, axis=-1).astype(jnp.int32)

    def step(carry, index):
        token, cache = carry
        hidden, cache = decode.decode(config, context, cache, token, index)
        return (best(hidden), cache), token

    prompt_cache, last = transformer.prefill(config, params, tokens, length)
    context = decode.make_decode_context(config, params, prompt_cache, steps)
    cache = decode.empty_cache(config, len(length), 1, steps)
    _, out = jax.lax.scan(step, (best(last)[:, None], cache), jnp.arange(steps))
    return out[:, :, 0].T
