"""Countdown from two warm starts: 2 initial solve rates x 5 methods x 5 seeds.

Measures whether the order of the methods depends on how much of the task the policy can do before
RL.

The order of two methods depends on the start if the 95% intervals over seeds and prompts of the
difference of their final pass@1, or pass@100, exclude 0 at the two starts with different signs.

    python -m experiments.run --config=configs/sweeps/countdown_starts.py \
        --workdir=runs/sweeps/countdown_starts
    python -m experiments.run --config=configs/sweeps/countdown_starts.py:smoke \
        --workdir=runs/smoke/countdown_starts

50 runs of half a minute each on one core, from pass@1 of 4.9% and of 10.8%. Every method has the
rate that was tuned for it from the shorter start; the runs from there are those of
configs/sweeps/countdown.py, and need not be made again (`--config.sweep.reuse`).
"""

from configs.sweeps import countdown
from experiments.grid import axis, product, seeds

LONGER = 4  # times the supervised steps
METHODS = ("grpo_no_std", "asym0.5", "power2", "power3", "fade")

get_config = countdown.get_config


def sweep(config):
    """Returns the overrides of each run, by name."""
    steps = config.warm_start.steps
    starts = axis("warm_start.steps", (steps, LONGER * steps), "start")
    every = product(starts, countdown.tuned(config, *METHODS), seeds(config))
    # Seed by seed, so that what is done of an interrupted sweep compares all methods.
    return dict(sorted(every.items(), key=lambda run: run[1]["seed"]))
