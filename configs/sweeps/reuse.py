"""On-policy against reuse: one update per batch of rollouts, or four, x 4 methods x 5 seeds.

Measures what the sign ratio does once updates leave the policy that sampled: on-policy only
w_S + w_F matters in expectation; with four epochs at a clip of 0.2 the clip acts on positive and
negative advantages differently.

Reuse changes the order of two methods if the 95% intervals over seeds and prompts of the difference
of their final pass@1, or pass@100, exclude 0 with different signs with and without it.

    python -m experiments.run --config=configs/sweeps/reuse.py --workdir=runs/sweeps/reuse
    python -m experiments.run --config=configs/sweeps/reuse.py:smoke --workdir=runs/smoke/reuse

40 runs of 1 to 3 minutes each on one core.
"""

from configs.graph import get_config
from configs.sweeps.methods import chosen
from experiments.grid import axis, product, seeds

__all__ = ["get_config", "sweep"]


def sweep(config):
    """Returns the overrides of each run, by name."""
    return product(
        axis("learner.epochs", (1, 4)),
        chosen(config, "grpo_no_std", "asym0.5", "power3", "fade"),
        seeds(config),
    )
