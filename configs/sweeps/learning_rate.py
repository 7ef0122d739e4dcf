"""The learning rate of each method: 4 rates x 4 methods x 5 seeds.

Measures whether a comparison at one learning rate is one of methods or of step sizes.

Two methods differ at their best if the 95% interval over seeds and prompts of the difference of
final pass@1, or pass@100, excludes 0 when each has the rate that is best for its mean pass@1.

    python -m experiments.run --config=configs/sweeps/learning_rate.py \
        --workdir=runs/sweeps/learning_rate
    python -m experiments.run --config=configs/sweeps/learning_rate.py:smoke \
        --workdir=runs/smoke/learning_rate

80 runs of about a minute each on one core.
"""

from configs.graph import get_config
from configs.sweeps.methods import chosen
from experiments.grid import axis, product, seeds

__all__ = ["get_config", "sweep"]

RATES = (1e-4, 3e-4, 6e-4, 1e-3)


def sweep(config):
    """Returns the overrides of each run, by name."""
    return product(
        chosen(config, "grpo_no_std", "asym0.5", "power3", "fade"),
        axis("optimizer.learning_rate", RATES, "lr"),
        seeds(config),
    )
