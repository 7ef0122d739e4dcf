"""The learning rate of every method of the benchmark on each task: 3 rates x 25 methods x 4 tasks.

A method's rate on a task is the one with the largest mean of the last two held-out pass@1, over 100
steps. The seed is none of those that results are drawn from.

    python -m experiments.run --config=configs/benchmark/tuning.py --workdir=runs/benchmark_tuning
    python -m experiments.run --config=configs/benchmark/tuning.py:smoke \
        --workdir=runs/smoke/benchmark_tuning

300 runs of about half a minute each on one core.
"""

from configs.benchmark import protocol
from experiments.grid import axis, chain, methods, product

SEED = 1000


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = protocol.get_config(mode)
    config.evaluation.every = 2 if mode else 100
    return config


def sweep(config):
    """Returns the overrides of each run, by name."""
    every = methods(protocol.advantages(config))
    return chain(
        *(
            product(
                protocol.task(name, config),
                every,
                axis("optimizer.learning_rate", task.rates, "lr"),
                axis("seed", (SEED,)),
            )
            for name, task in protocol.TASKS.items()
        )
    )
