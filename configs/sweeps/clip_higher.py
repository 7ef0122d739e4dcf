"""Clip-higher (2503.14476) where batches are reused: 3 upper bounds x 3 methods x 5 seeds.

Measures whether more room for ratios above 1 keeps entropy. At ratio 1 the clip does nothing, so
each batch gets four epochs; the lower bound is 0.2 throughout.

That clip-higher keeps entropy holds here for a method if its final entropy is higher at 0.28 than
at 0.2, the 95% interval of the difference over seeds excluding 0.

    python -m experiments.run --config=configs/sweeps/clip_higher.py \
        --workdir=runs/sweeps/clip_higher
    python -m experiments.run --config=configs/sweeps/clip_higher.py:smoke \
        --workdir=runs/smoke/clip_higher

45 runs of 2 to 3 minutes each on one core.
"""

from configs import graph
from configs.sweeps.methods import chosen
from experiments.config import with_mode
from experiments.grid import axis, product, seeds


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = graph.get_config()
    config.learner.epochs = 4
    return with_mode(config, mode)


def sweep(config):
    """Returns the overrides of each run, by name."""
    return product(
        axis("learner.clip_high", (0.2, 0.28, 0.4)),
        chosen(config, "grpo_no_std", "power3", "fade"),
        seeds(config),
    )
