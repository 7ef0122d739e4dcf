"""Size of an advantage over a density of solve rates, and how to equalise it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fade_jax.decomposition.exact import AdvantageFunction, GradientMasses, outcome_weights
from fade_jax.densities import UNIFORM, Beta, beta_binomial


def mean_masses(
    advantage_fn: AdvantageFunction, group_size: int, density: Beta = UNIFORM
) -> GradientMasses:
    """Mean of the gradient masses over a density of solve rates, exactly.

        E_f[m_S] = Σ_K P(K) (K/G) w_S(K),   P beta-binomial; m_F likewise

    Args:
      advantage_fn: as in `gradient_masses`.
      group_size: G ≥ 1.
      density: f, of the solve rate over prompts; uniform unless given.

    Returns:
      `GradientMasses` of scalars.

    Raises:
      ValueError: as in `outcome_weights`, or if a parameter of the density is not above 0.
    """
    weights = outcome_weights(advantage_fn, group_size)
    probability = beta_binomial(density, group_size)
    share = jnp.arange(group_size + 1) / group_size
    return GradientMasses(
        jnp.sum((probability * share)[1:] * weights.success),
        jnp.sum((probability * (1 - share))[:-1] * weights.failure),
    )


def equalize_scale(
    advantage_fns: Sequence[AdvantageFunction], group_size: int, density: Beta = UNIFORM
) -> jax.Array:
    """Factors that give several advantages the same total mass, for a fair comparison.

        c_i E_f[m_S + m_F of i] = E_f[m_S + m_F of the first]

    A factor on an advantage is a factor on the learning rate, so without this two advantages
    differ by that too. At a uniform density Power's factor is (α+1)(α+2)/6 in a large group.

    Args:
      advantage_fns: as in `gradient_masses`.
      group_size: G ≥ 1.
      density: f, of the solve rate over prompts; uniform unless given.

    Returns:
      `[len(advantage_fns)]`, 1 for the first.

    Raises:
      ValueError: as in `mean_masses`.
    """
    total = jnp.stack([sum(mean_masses(fn, group_size, density)) for fn in advantage_fns])
    return total[0] / total
