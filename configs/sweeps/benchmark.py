"""The 16 short runs that the benchmark of sweeps makes: 4 methods x 4 seeds of the graph task.

Sizes and learning rate are those of configs/graph.py. No warm start, and one small evaluation: what
is to be seen is what a sweep costs beside its steps.
"""

from experiments.config import default_config
from experiments.grid import axis, methods, product

METHODS = {
    "grpo": ("grpo", {}),
    "rloo": ("rloo", {}),
    "power": ("power", {"alpha": 2.0}),
    "fade": ("fade", {"target_fraction": 0.5}),
}


def get_config():
    """Returns what the runs share."""
    config = default_config()
    config.steps = 50
    config.optimizer.learning_rate = 6e-4
    config.learner.microbatches = 4
    config.warm_start.steps = 0
    config.evaluation.every = 50
    config.evaluation.prompts = 4
    config.evaluation.prompts_per_call = 4
    config.evaluation.samples = 4
    config.evaluation.ks = (1, 4)
    config.checkpoint.every = 50
    config.checkpoint.keep = 1
    return config


def sweep(config):
    """Returns the overrides of each run, by name."""
    return product(methods(METHODS), axis("seed", range(4)))
