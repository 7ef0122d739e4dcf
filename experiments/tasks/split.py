"""The held-out split: whether a problem is held out depends on a hash of itself alone."""

import jax
import jax.numpy as jnp


def hash_bits(*parts: jax.Array | int) -> jax.Array:
    """Hashes tuples of integers to 32 bits that look random.

        h ← mix(h + (part + 1) · c)   for each part in order, modulo 2³²

    where mix is the 32-bit finaliser of MurmurHash3.

    Args:
      *parts: i32 arrays or integers that broadcast together; the order of the parts counts.

    Returns:
      u32 of the broadcast shape; the same on every machine, traced or not.
    """
    h = jnp.uint32(0x9E3779B9)
    for part in parts:
        h = h + (jnp.asarray(part, jnp.int32).astype(jnp.uint32) + 1) * jnp.uint32(0x9E3779B1)
        h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
        h = h ^ (h >> 16)
    return h


def is_held_out(fraction: float, *parts: jax.Array | int) -> jax.Array:
    """Whether the hash of a problem falls among the held-out fraction.

        held out  iff  hash_bits(parts) < fraction · 2³²

    Args:
      fraction: of all problems, between 0 and 1.
      *parts: i32 arrays or integers that broadcast together and identify a problem.

    Returns:
      bool of the broadcast shape.
    """
    return hash_bits(*parts) < jnp.uint32(round(fraction * 2**32))
