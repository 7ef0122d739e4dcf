"""Running solve rates of single prompts, and focal weights on them.

The other weights read the solve rate from the group at hand. Where prompts come back, as in a
finite training set, the rollouts of earlier visits tell it too: from these alone, the weight does
not depend on the rewards that it multiplies.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fade_jax import advantages as plain
from fade_jax.checks import (
    check_integer,
    check_not_negative,
    check_positive,
    check_probability,
    check_rewards,
    check_same_shape,
)
from fade_jax.groups import as_group
from fade_jax.transforms.base import AdvantageTransformation, Mask, chain
from fade_jax.transforms.lifted import rloo


class PromptState(NamedTuple):
    """Sums over the rollouts of each prompt, discounted at each visit.

    Attributes:
      successes: float32 [N], the sum of rewards.
      samples: float32 [N], the number of rollouts; 0 for a prompt that has not been seen.
    """

    successes: jax.Array
    samples: jax.Array


def init_prompts(num_prompts: int) -> PromptState:
    """Returns the state of N prompts that have not been seen.

    Raises:
      ValueError: if `num_prompts` is no integer of at least 1.
    """
    check_integer("num_prompts", num_prompts, 1)
    return PromptState(*(jnp.zeros(int(num_prompts), jnp.float32) for _ in range(2)))


def update_prompts(
    state: PromptState,
    prompt: ArrayLike,
    rewards: ArrayLike,
    where: Mask = None,
    decay: ArrayLike = 0.5,
) -> PromptState:
    """Adds a batch to the sums of its prompts.

        s_n ← decay s_n + Σ r,   m_n ← decay m_n + #,   over all rollouts of prompt n in the batch

    A prompt that is several times in a batch is visited once, with all its rollouts, so that the
    order of the groups does not count. A prompt without a rollout that counts is not visited.

    Args:
      state: of N prompts.
      prompt: int32 `[...]`, the index of each group's prompt in 0..N-1; -1 for a prompt without an
        index, which is left out, as is every index that is traced and not in 0..N-1.
      rewards: `[..., group]`, in [0, 1]; those that are not finite are left out.
      where: `[..., group]`, true for the rollouts that count.
      decay: weight of the rollouts of earlier visits, in [0, 1]; 1 keeps all.

    Raises:
      ValueError: if `prompt` has another shape than the groups, or holds a concrete index outside
        -1..N-1.
    """
    rewards, where = as_group(rewards, where)
    index = _flat_index(prompt, rewards, state.samples.size)
    counts = where & jnp.isfinite(rewards)
    # One group's sum, then that of all groups of its prompt. All these groups write the same value.
    same = index[:, None] == index
    (successes, samples) = (
        jnp.sum(jnp.where(same, jnp.sum(values, axis=-1).reshape(-1), 0), axis=-1)
        for values in (jnp.where(counts, rewards, 0).astype(jnp.float32), counts)
    )
    visited = jnp.where(samples > 0, index, state.samples.size)

    def add(sums: jax.Array, new: jax.Array) -> jax.Array:
        old = sums.at[index].get(mode="fill", fill_value=0)
        return sums.at[visited].set(jnp.asarray(decay, jnp.float32) * old + new, mode="drop")

    return PromptState(add(state.successes, successes), add(state.samples, samples))


def solve_rates(
    state: PromptState, prompt: ArrayLike | None = None, a: ArrayLike = 1.0, b: ArrayLike = 1.0
) -> jax.Array:
    """Estimates solve rates by the posterior mean, p̂_n = (s_n + a) / (m_n + a + b).

    Args:
      state: of N prompts.
      prompt: int32 `[...]`, indices; None for all prompts.
      a: pseudo-count of successes, above 0; a/(a+b) is the estimate for a prompt that has not been
        seen, or has no index.
      b: pseudo-count of failures, above 0.

    Returns:
      float32 `[...]`, or `[N]`.
    """
    a, b = (jnp.asarray(count, jnp.float32) for count in (a, b))
    successes, samples = state
    if prompt is not None:
        prompt = _non_negative(jnp.asarray(prompt, jnp.int32), samples.size)
        successes, samples = (x.at[prompt].get(mode="fill", fill_value=0) for x in state)
    return (successes + a) / (samples + a + b)


def focal_by_prompt(
    num_prompts: int,
    alpha: ArrayLike = 2.0,
    decay: ArrayLike = 0.5,
    a: ArrayLike = 1.0,
    b: ArrayLike = 1.0,
) -> AdvantageTransformation:
    """Multiplies by the focal weight of each prompt's running solve rate, (1-p̂)^{α-1}.

        chain(grpo(), focal_by_prompt(num_prompts=7473))

    Every `update` takes the statistic `prompt`, int32 `[...]`, the index of each group's prompt as
    in `update_prompts`. The weight of a group comes from the estimate before the batch, whose
    rollouts then enter the estimate.

    Args:
      num_prompts: N, static; size of the training set.
      alpha: α ≥ 0; 1 weights all prompts equally.
      decay: weight of the rollouts of earlier visits, in [0, 1], as in `update_prompts`.
      a: pseudo-count of successes, as in `solve_rates`.
      b: pseudo-count of failures.

    Returns:
      a transformation whose `PromptState` is a table of N prompts.

    Raises:
      ValueError: if a value is outside its range.
    """
    check_integer("num_prompts", num_prompts, 1)
    check_not_negative("alpha", alpha)
    check_probability("decay", decay)
    check_positive("a", a)
    check_positive("b", b)

    def update(
        advantages: ArrayLike,
        state: PromptState,
        rewards: ArrayLike | None = None,
        *,
        where: Mask = None,
        prompt: ArrayLike | None = None,
        **statistics: Any,
    ) -> tuple[jax.Array, PromptState]:
        if prompt is None:
            given = ", ".join(sorted(statistics)) or "none"
            raise ValueError(f"the statistic 'prompt' is missing; given: {given}")
        rewards = advantages if rewards is None else rewards
        check_rewards(rewards, where, "in [0, 1]")
        new_state = update_prompts(state, prompt, rewards, where, decay)
        weight = plain.focal_weight(solve_rates(state, prompt, a, b), alpha)
        return weight[..., None] * as_group(advantages, where)[0], new_state

    return AdvantageTransformation(lambda: init_prompts(num_prompts), update)


def per_prompt_solve_rate(
    num_prompts: int,
    alpha: ArrayLike = 2.0,
    decay: ArrayLike = 0.5,
    a: ArrayLike = 1.0,
    b: ArrayLike = 1.0,
) -> AdvantageTransformation:
    """Chains RLOO and the focal weight of each prompt's running solve rate.

        A_i = (1 - p̂_n)^{α-1} (r_i - mean of the others);   h(p) = (1 - p̂_n)^{α-1}

    RLOO is unbiased and p̂_n is that of earlier visits, so the expected gradient is exactly that
    weight times ∇p, at any group size; `power` weighs by the solve rate of the group itself.

    Arguments as in `focal_by_prompt`.
    """
    return chain(rloo(), focal_by_prompt(num_prompts, alpha, decay, a, b))


def _flat_index(prompt: ArrayLike, rewards: jax.Array, num_prompts: int) -> jax.Array:
    """Returns the indices of the groups, flat, with N in place of those to leave out."""
    if not isinstance(prompt, jax.core.Tracer):
        concrete = np.asarray(prompt)
        outside = (concrete < -1) | (concrete >= num_prompts)
        if np.any(outside):
            raise ValueError(
                f"prompt must be in -1..{num_prompts - 1}, got {concrete[outside].flat[0]}"
            )
    prompt = jnp.asarray(prompt, jnp.int32)
    check_same_shape("prompt", prompt, "groups of rewards", rewards[..., 0])
    return _non_negative(prompt, num_prompts).reshape(-1)


def _non_negative(prompt: jax.Array, num_prompts: int) -> jax.Array:
    """Negative indices would count from the end."""
    return jnp.where((prompt >= 0) & (prompt < num_prompts), prompt, num_prompts)
