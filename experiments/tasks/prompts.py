"""What every task hands to the training system: prompts, demonstrations and the token mask."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Prompts(NamedTuple):
    """A batch of prompts.

    tokens: i32 [P, S], right-padded with the task's pad_id.
    length: i32 [P], the number of real tokens of each prompt.
    facts: a pytree of arrays with leading axis P: what verification needs to know.
    """

    tokens: jax.Array
    length: jax.Array
    facts: Any


class Demonstrations(NamedTuple):
    """Prompts with one completion each to imitate.

    prompts: P prompts.
    tokens: i32 [P, T], the completion, its EOS included, right-padded with pad_id.
    token_mask: f32 [P, T], 1 on the tokens to imitate (EOS included), 0 after.
    """

    prompts: Prompts
    tokens: jax.Array
    token_mask: jax.Array


def token_mask(tokens: jax.Array, eos_id: int) -> jax.Array:
    """Marks the tokens a policy chose: all up to and including the first EOS.

        mask_t = 1 if no token before t is EOS, else 0

    Args:
      tokens: i32 [..., T] sampled tokens.
      eos_id: the id that ends a completion.

    Returns:
      f32 [..., T] of zeros and ones.
    """
    is_eos = (tokens == eos_id).astype(jnp.int32)
    eos_before = jnp.cumsum(is_eos, axis=-1) - is_eos
    return (eos_before == 0).astype(jnp.float32)
