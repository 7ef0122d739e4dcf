"""Adam against SGD: 2 rates of Adam and 3 of SGD with momentum x 4 methods x 5 seeds.

Measures whether the order of the methods is Adam's doing: Adam divides a constant factor of the
advantage out again, SGD does not. All runs have one warm start, which is AdamW's.

The order of two methods depends on the optimizer if the 95% intervals over seeds and prompts of the
difference of their final pass@1, or pass@100, exclude 0 with different signs, each optimizer at
the rate that is best for the mean pass@1 of the method.

    python -m experiments.run --config=configs/sweeps/optimizer.py --workdir=runs/sweeps/optimizer
    python -m experiments.run --config=configs/sweeps/optimizer.py:smoke \
        --workdir=runs/smoke/optimizer

100 runs of about a minute each on one core.
"""

from configs.graph import get_config
from configs.sweeps.methods import chosen
from experiments.grid import axis, chain, product, seeds

__all__ = ["SGD", "get_config", "sweep"]

SGD = {"optimizer.name": "sgd", "optimizer.momentum": 0.9}


def sweep(config):
    """Returns the overrides of each run, by name."""
    adam = product(
        axis("optimizer.name", ("adamw",), ["adam"]),
        axis("optimizer.learning_rate", (3e-4, 1e-3), "lr"),
    )
    sgd = product(
        {"sgd": SGD},
        axis("optimizer.learning_rate", (0.01, 0.03, 0.1), "lr"),
    )
    weights = chosen(config, "grpo_no_std", "asym0.5", "power3", "fade")
    return product(weights, chain(adam, sgd), seeds(config))
