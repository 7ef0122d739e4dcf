"""The learning rate of each method on countdown: 3 rates x 7 methods x 1 seed, 300 steps.

A rate is that of the best held-out pass@1 at step 300, as in configs/sweeps/tuning.py,
whose seed, which no result uses, it shares.

    python -m experiments.run --config=configs/sweeps/countdown_tuning.py \
        --workdir=runs/sweeps/countdown_tuning
    python -m experiments.run --config=configs/sweeps/countdown_tuning.py:smoke \
        --workdir=runs/smoke/countdown_tuning

21 runs of about a minute each on one core.
"""

from configs.sweeps import countdown
from configs.sweeps.tuning import SEED, at_rates
from experiments.config import with_mode

__all__ = ["SEED", "get_config", "sweep"]

RATES = (1e-4, 3e-4, 6e-4)


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = countdown.get_config()
    config.steps = 300
    config.evaluation.every = 300
    return with_mode(config, mode)


def sweep(config):
    """Returns the overrides of each run, by name."""
    return at_rates(config, RATES)
