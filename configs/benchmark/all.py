"""The reference benchmark: 25 methods x 4 tasks x 10 seeds; see protocol.py.

    python -m experiments.run --config=configs/benchmark/all.py --workdir=runs/benchmark
    python -m experiments.run --config=configs/benchmark/all.py --workdir=runs/benchmark \
        --config.advantage.name=my_module.my_advantage --config.optimizer.learning_rate=6e-4
    python -m experiments.run --config=configs/benchmark/all.py:smoke --workdir=runs/smoke/benchmark

1,000 runs of about a minute each on one core, seed by seed within a task: what is done of it after
any time compares all methods. The second command adds a method of one's own to the table.
"""

from configs.benchmark.protocol import TASKS, get_config, runs

__all__ = ["get_config", "sweep"]


def sweep(config):
    """Returns the overrides of each run, by name."""
    return runs(config, *TASKS)
