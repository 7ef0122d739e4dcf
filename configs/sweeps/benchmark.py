"""The cost of a sweep beside its steps: 4 methods x 4 seeds of short runs of the graph task.

Timed by `python -m experiments.perf.benchmark --workload=sweep`. Sizes and learning rate are those
of configs/graph.py; no warm start and one small evaluation, to keep the rest of a run small.

    python -m experiments.run --config=configs/sweeps/benchmark.py --workdir=runs/sweeps/benchmark
    python -m experiments.run --config=configs/sweeps/benchmark.py:smoke \
        --workdir=runs/smoke/benchmark

16 runs of 50 steps each, under a minute each on one core.
"""

from configs import graph
from experiments.config import with_mode
from experiments.grid import methods, product, seeds

METHODS = {
    "grpo": ("grpo", {}),
    "rloo": ("rloo", {}),
    "power": ("power", {"alpha": 2.0}),
    "fade": ("fade", {"target_fraction": 0.5}),
}


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = graph.get_config()
    config.advantage.kwargs = {}
    config.steps = 50
    config.warm_start.steps = 0
    config.evaluation.every = 50
    config.evaluation.prompts = 4
    config.evaluation.samples = 4
    config.evaluation.ks = (1, 4)
    config.checkpoint.every = 50
    config.checkpoint.keep = 1
    config.sweep.seeds = 4
    return with_mode(config, mode)


def sweep(config):
    """Returns the overrides of each run, by name."""
    return product(methods(METHODS), seeds(config))
