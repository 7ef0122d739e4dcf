"""The learning rate of each method of the core sweep: 3 rates x 7 methods x 1 seed, 300 steps.

A method's rate is the one with the best held-out pass@1 at step 300. The seed is none of those that
results are drawn from. Ablations of FADE take FADE's rate, so that they differ in one thing.

    python -m experiments.run --config=configs/sweeps/tuning.py --workdir=runs/sweeps/tuning
    python -m experiments.run --config=configs/sweeps/tuning.py:smoke --workdir=runs/smoke/tuning

21 runs of about a minute each on one core.
"""

from configs.sweeps.methods import chosen
from experiments.config import default_config, with_mode
from experiments.grid import axis, product

STATIC = ("reinforce", "grpo_no_std", "asym0.5", "asym2", "power2", "power3")
RATES = (3e-4, 6e-4, 1.2e-3)
SEED = 1000


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = default_config()
    config.steps = 300
    config.evaluation.every = 300
    return with_mode(config, mode)


def sweep(config):
    """Returns the overrides of each run, by name."""
    return product(
        chosen(config, *STATIC, "fade"),
        axis("optimizer.learning_rate", RATES, "lr"),
        axis("seed", (SEED,)),
    )
