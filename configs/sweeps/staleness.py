"""Stale samples: rollouts by the policy of 0, 1, 4 and 16 steps ago x 4 methods x 3 seeds.

Measures how the sign ratio bears samplers that lag behind the trainer, as asynchronous ones do. The
probability ratio is that to the policy that sampled, clipped at 0.2.

A method bears a lag if its final pass@1 is not below that without lag by a 95% interval over seeds
and prompts that excludes 0. The sign ratio matters off-policy if of AsymGRPO(0.5) and GRPO without
std one bears a lag that the other does not.

    python -m experiments.run --config=configs/sweeps/staleness.py --workdir=runs/sweeps/staleness
    python -m experiments.run --config=configs/sweeps/staleness.py:smoke \
        --workdir=runs/smoke/staleness

48 runs of 4 to 6 minutes each on one core.
"""

from configs.sweeps.methods import chosen
from experiments.config import default_config, with_mode
from experiments.grid import axis, product, seeds


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    return with_mode(default_config(), mode)


def sweep(config):
    """Returns the overrides of each run, by name."""
    return product(
        axis("learner.staleness", (0, 1, 4, 16), "lag"),
        chosen(config, "grpo_no_std", "asym0.5", "power3", "fade"),
        seeds(config),
    )
