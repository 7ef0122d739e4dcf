"""Random problems as a pure function of (seed, step), on the device."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Streams of random numbers, so that the same (seed, step) never draws the same problem twice.
TRAIN, EVAL, DEMONSTRATIONS = 0, 1, 2

# Drawing loops until a draw is accepted: outside jit every call would compile that loop again.
jit_by_count = partial(jax.jit, static_argnames="count")


def draw_keys(seed: jax.Array | int, stream: int, step: jax.Array | int, count: int) -> jax.Array:
    """Makes one key per problem.

    Args:
      seed: i32, may be traced.
      stream: TRAIN, EVAL or DEMONSTRATIONS.
      step: i32, may be traced.
      count: P.

    Returns:
      keys [P]; the first ones do not depend on how many are asked for.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count))


def first_accepted(draw: Callable[[jax.Array], tuple[Any, jax.Array]], key: jax.Array) -> Any:
    """Draws with new keys until a draw is accepted.

    Args:
      draw: key -> (value, accepted bool []); a task makes sure that some draw is accepted.
      key: the first draw's key is split from it.

    Returns:
      The first accepted value.
    """

    def again(carry: tuple[jax.Array, Any, jax.Array]) -> tuple[jax.Array, Any, jax.Array]:
        key, draw_key = jax.random.split(carry[0])
        return key, *draw(draw_key)

    # Zeros to start from rather than a first draw: the loop's body is then compiled only once.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(draw, key))
    return lax.while_loop(lambda carry: ~carry[2], again, (key, *zeros))[1]
