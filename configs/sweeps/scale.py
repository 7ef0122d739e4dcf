"""Total weight equalised against raw, under Adam and SGD: 2 x 2 x 5 methods x 5 seeds.

Measures the scale axis. Adam hides most of it, since a constant factor of the advantage cancels in
its update; SGD shows it. Equalised means that each batch of advantages is multiplied by
Σ|r - r̄| / Σ|A|: every method spends the total weight of GRPO without std on that batch, also one
whose α and δ move, and methods differ only in where they spend it.

A difference between two methods is one of scale if its 95% interval over seeds and prompts, of
final pass@1 or pass@100, excludes 0 raw and includes 0 equalised, under SGD. That Adam hides the
scale holds if under Adam no method's raw and equalised runs differ so.

    python -m experiments.run --config=configs/sweeps/scale.py --workdir=runs/sweeps/scale
    python -m experiments.run --config=configs/sweeps/scale.py:smoke --workdir=runs/smoke/scale

100 runs of about a minute each on one core.
"""

from configs.graph import LEARNING_RATE, get_config
from configs.sweeps.methods import chosen
from configs.sweeps.optimizer import SGD
from experiments.grid import axis, product, seeds, zipped

__all__ = ["get_config", "sweep"]


def sweep(config):
    """Returns the overrides of each run, by name."""
    optimizers = zipped(
        {"adam": {"optimizer.name": "adamw"}, "sgd": SGD},
        axis("optimizer.learning_rate", (LEARNING_RATE, 0.03), "lr"),
    )
    return product(
        optimizers,
        axis("learner.equalize_mass", (False, True), ("raw", "equal")),
        chosen(config, "grpo_no_std", "asym0.5", "power2", "power3", "fade"),
        seeds(config),
    )
