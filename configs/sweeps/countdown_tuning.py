"""The learning rate of each method on countdown: 3 rates x 16 methods x 1 seed, 300 steps.

A rate is that of the best held-out pass@1 at step 300, as in configs/sweeps/tuning.py, whose seed,
which no result uses, it shares. (6e-4, the rate of the graph task, was tried for the six static
methods of its core sweep first: below the best rate for each, and the worst for five.)

    python -m experiments.run --config=configs/sweeps/countdown_tuning.py \
        --workdir=runs/sweeps/countdown_tuning
    python -m experiments.run --config=configs/sweeps/countdown_tuning.py:smoke \
        --workdir=runs/smoke/countdown_tuning

48 runs of half a minute each on one core.
"""

from configs.sweeps import countdown
from configs.sweeps.methods import chosen
from configs.sweeps.tuning import SEED
from experiments.config import with_mode
from experiments.grid import axis, product

__all__ = ["SEED", "get_config", "sweep"]

RATES = (5e-5, 1e-4, 3e-4)


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = countdown.get_config()
    config.evaluation.every = config.steps
    return with_mode(config, mode)


def sweep(config):
    """Returns the overrides of each run, by name."""
    return product(
        chosen(config, *countdown.methods(config)),
        axis("optimizer.learning_rate", RATES, "lr"),
        axis("seed", (SEED,)),
    )
