"""Stale samples: rollouts by the policy of 0, 1, 4 and 16 steps ago x 4 methods x 5 seeds.

Measures how the sign ratio bears samplers that lag behind the trainer, as asynchronous ones do. The
probability ratio is that to the policy that sampled, clipped at 0.2.

A method bears a lag if its final pass@1 is not below that without lag by a 95% interval over seeds
and prompts that excludes 0. The sign ratio matters off-policy if of AsymGRPO(0.5) and GRPO without
std one bears a lag that the other does not.

    python -m experiments.run --config=configs/sweeps/staleness.py --workdir=runs/sweeps/staleness
    python -m experiments.run --config=configs/sweeps/staleness.py:smoke \
        --workdir=runs/smoke/staleness

80 runs of about a minute each on one core.
"""

from configs.graph import get_config
from configs.sweeps.methods import chosen
from experiments.grid import axis, product, seeds

__all__ = ["get_config", "sweep"]


def sweep(config):
    """Returns the overrides of each run, by name."""
    return product(
        axis("learner.staleness", (0, 1, 4, 16), "lag"),
        chosen(config, "grpo_no_std", "asym0.5", "power3", "fade"),
        seeds(config),
    )
