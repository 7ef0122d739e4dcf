"""Simulates solve rates of independent prompts under the expected gradient of an advantage.

Each prompt is a two-outcome softmax; its logit moves with h(p) p (1-p), the expected gradient of
the advantage (arXiv:2607.01490).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fade_jax.decomposition import expected_weight, outcome_weights
from fade_jax.transforms import AdvantageTransformation

Entropy = Callable[[jax.Array, jax.Array], ArrayLike]


class Trajectory(NamedTuple):
    """Statistics of every step; each field is `[steps + 1]`, and entry 0 is before training.

    Attributes:
      pass_at_1: mean solve rate.
      pass_at_100: mean of 1 - (1-p)^100.
      solved_share: share of the gradient on prompts with p > 1/2.
      alpha: α of the advantage, NaN if it has none.
      delta: δ of the advantage, NaN if it has none.
    """

    pass_at_1: jax.Array
    pass_at_100: jax.Array
    solved_share: jax.Array
    alpha: jax.Array
    delta: jax.Array


def unchanged(solve_rate: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns a constant entropy of 1 nat."""
    del solve_rate, weight
    return jnp.float32(1)


def simulate(
    transformation: AdvantageTransformation,
    solve_rate: ArrayLike,
    weight: ArrayLike,
    *,
    group_size: int,
    step_size: ArrayLike,
    steps: int,
    entropy: Entropy = unchanged,
) -> Trajectory:
    """Follows the expected gradient of an advantage from a distribution of solve rates.

        z_i ← z_i + η h(p_i) p_i q_i / √E_f[(h p q)²],   z = log(p/q)

    Args:
      transformation: the advantage, which depends on (r_i, K) alone: on the reward and the number
        of successes of the group.
      solve_rate: p before training, in (0, 1), `[points]`.
      weight: probability of each point, `[points]`, with sum 1.
      group_size: G.
      step_size: η, root mean square change of the logits in a step.
      steps: number of steps.
      entropy: maps solve rates and weights to the statistic `entropy`, in nats.

    Returns:
      `Trajectory`.

    Raises:
      ValueError: if the advantage depends on anything else.
    """

    state = transformation.init()

    def first(rewards):
        return transformation.update(rewards, state, entropy=1.0, solve_rate=0.5)[0]

    outcome_weights(first, group_size)  # checks concrete values, as a trace cannot
    p = jnp.asarray(solve_rate, jnp.float32)
    w = jnp.asarray(weight, jnp.float32)
    logits = jnp.log(p) - jnp.log1p(-p)
    eta = jnp.float32(step_size)
    return _simulate(transformation, group_size, steps, entropy, logits, w, eta)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _simulate(transformation, group_size, steps, entropy, logits, weight, step_size) -> Trajectory:
    def step(carry, _):
        z, state = carry
        p, q = jax.nn.sigmoid(z), jax.nn.sigmoid(-z)
        statistics = {"entropy": entropy(p, weight), "solve_rate": jnp.sum(weight * p)}

        def advantage(rewards):
            return transformation.update(rewards, state, **statistics)[0]

        velocity = expected_weight(advantage, p, group_size) * p * q
        scale = jnp.sqrt(jnp.sum(weight * velocity**2))
        state = transformation.update(jnp.zeros((1, group_size)), state, **statistics)[1]
        here = Trajectory(
            pass_at_1=jnp.sum(weight * p),
            pass_at_100=jnp.sum(weight * -jnp.expm1(100 * jnp.log(q))),
            solved_share=jnp.sum(weight * velocity, where=p > 0.5) / jnp.sum(weight * velocity),
            alpha=_reading(state, "alpha"),
            delta=_reading(state, "delta"),
        )
        return (z + step_size * velocity / scale, state), here

    return jax.lax.scan(step, (logits, transformation.init()), length=steps + 1)[1]


def _reading(state, name: str) -> jax.Array:
    return jnp.asarray(optax.tree_utils.tree_get(state, name, default=jnp.nan), jnp.float32)
