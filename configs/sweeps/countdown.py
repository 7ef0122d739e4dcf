"""Static weights and FADE on countdown, four numbers to a target: 7 methods x 5 seeds.

Measures whether what the graph task shows holds on another task.

A finding of configs/sweeps/core.py or methods.py about two methods carries over if the 95% interval
over seeds and prompts of the same difference excludes 0 here with the same sign.

    python -m experiments.run --config=configs/sweeps/countdown.py --workdir=runs/sweeps/countdown
    python -m experiments.run --config=configs/sweeps/countdown.py:smoke \
        --workdir=runs/smoke/countdown

35 runs on the task of configs/countdown.py.
"""

from configs import graph
from configs.sweeps.methods import chosen
from configs.sweeps.tuning import STATIC
from experiments.config import with_mode
from experiments.grid import product, seeds


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = graph.get_config()
    config.task.name = "countdown"
    return with_mode(config, mode)


def sweep(config):
    """Returns the overrides of each run, by name."""
    return product(chosen(config, *STATIC, "fade"), seeds(config))
