"""Static weights and FADE on countdown, four numbers to a target: 7 methods x 5 seeds.

Measures whether what the graph task shows holds on another task.

A finding of configs/sweeps/core.py or methods.py about two methods carries over if the 95% interval
over seeds and prompts of the same difference excludes 0 here with the same sign.

    python -m experiments.run --config=configs/sweeps/countdown.py --workdir=runs/sweeps/countdown
    python -m experiments.run --config=configs/sweeps/countdown.py:smoke \
        --workdir=runs/smoke/countdown

35 runs on the task of configs/countdown.py.
"""

from configs.countdown import get_config
from configs.sweeps.methods import chosen
from experiments.grid import product, seeds

__all__ = ["get_config", "sweep"]

STATIC = ("reinforce", "grpo_no_std", "asym0.5", "asym2", "power2", "power3")


def sweep(config):
    """Returns the overrides of each run, by name."""
    return product(chosen(config, *STATIC, "fade"), seeds(config))
