"""The group size at equal rollouts per step: 4 sizes x 3 methods x 5 seeds.

Measures whether the order of the methods depends on G; prompts x G is held at that of the config.
A program is compiled for each size.

The order of two methods depends on G if the 95% intervals over seeds and prompts of the difference
of their final pass@1, or pass@100, exclude 0 at two sizes with different signs.

    python -m experiments.run --config=configs/sweeps/group_size.py \
        --workdir=runs/sweeps/group_size
    python -m experiments.run --config=configs/sweeps/group_size.py:smoke \
        --workdir=runs/smoke/group_size

60 runs of about a minute each on one core.
"""

from configs import graph
from configs.sweeps.methods import chosen
from experiments.grid import axis, product, seeds, zipped

SIZES = (4, 8, 16, 32)


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = graph.get_config(mode)
    # Enough rollouts for one group of the largest size, in a smoke run too.
    config.prompts = max(config.prompts, max(SIZES) // config.group_size)
    return config


def sweep(config):
    """Returns the overrides of each run, by name."""
    rollouts = config.prompts * config.group_size
    prompts = [rollouts // size for size in SIZES]
    sizes = zipped(axis("group_size", SIZES, "group"), axis("prompts", prompts))
    return product(sizes, chosen(config, "grpo_no_std", "power3", "fade"), seeds(config))
