"""Every method on countdown, four numbers to a target: 16 methods x 5 seeds.

Measures whether what the graph task shows holds on another task.

A finding of configs/sweeps/core.py or methods.py about two methods carries over if the 95% interval
over seeds and prompts of the same difference excludes 0 here with the same sign.

    python -m experiments.run --config=configs/sweeps/countdown.py --workdir=runs/sweeps/countdown
    python -m experiments.run --config=configs/sweeps/countdown.py:smoke \
        --workdir=runs/smoke/countdown

All methods of configs/sweeps/methods.py but PSR, which is REINFORCE, each at the rate that
configs/sweeps/countdown_tuning.py chose for it.

80 runs of half a minute each on one core.
"""

from configs import graph
from configs.sweeps.methods import advantages, chosen
from experiments.config import with_mode
from experiments.grid import product, seeds

# The best of 5e-5, 1e-4 and 3e-4 in pass@1 at step 300; 1e-4 where it is not named.
RATE = 1e-4
OTHER_RATES = {
    "reinforce": 3e-4,
    "w_reinforce": 5e-5,
    "pass_at_4_training": 3e-4,
    "log_mean_exp": 3e-4,
    "max_rl": 3e-4,
    "power2": 3e-4,
    "power_asym2": 3e-4,
    "fade": 3e-4,
}


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = graph.get_config()
    config.task.name = "countdown"
    config.optimizer.learning_rate = RATE
    config.steps = 300
    config.evaluation.every = 150
    return with_mode(config, mode)


def methods(config):
    """Returns the names of the methods: all but PSR, which is REINFORCE."""
    return [name for name in advantages(config) if name != "psr"]


def tuned(config, *names):
    """Returns the overrides of the methods, each at its rate, by name."""
    return {
        name: overrides | {"optimizer.learning_rate": OTHER_RATES.get(name, RATE)}
        for name, overrides in chosen(config, *names).items()
    }


def sweep(config):
    """Returns the overrides of each run, by name."""
    every = product(tuned(config, *methods(config)), seeds(config))
    # Seed by seed, so that what is done of an interrupted sweep compares all methods.
    return dict(sorted(every.items(), key=lambda run: run[1]["seed"]))
