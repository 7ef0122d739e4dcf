"""The focus α of Power from two warm starts: 5 exponents x 2 initial solve rates x 5 seeds.

Measures what a harder focus does to pass@k, and whether the best α depends on how hard the prompts
are. α = 1 is GRPO without std.

Claim 3 of 2607.01490 (hard focus sharpens the signal; the best α depends on the solve rates) holds
here if the α with the best mean final pass@1 over the seeds is larger from the longer or from the
shorter warm start, and the 95% interval over seeds and prompts of the difference between the two α
at one of the starts excludes 0.

    python -m experiments.run --config=configs/sweeps/alpha.py --workdir=runs/sweeps/alpha
    python -m experiments.run --config=configs/sweeps/alpha.py:smoke --workdir=runs/smoke/alpha

50 runs of about a minute each on one core.
"""

from configs.graph import get_config
from experiments.grid import axis, methods, product, seeds

__all__ = ["get_config", "sweep"]

ALPHAS = (1.0, 1.5, 2.0, 3.0, 4.0)


def _power(alpha):
    """The advantage by the name that configs/sweeps/core.py has for it, so that runs are shared."""
    return ("power", {"alpha": alpha}) if alpha != 1 else ("dr_grpo", {})


def sweep(config):
    """Returns the overrides of each run, by name."""
    steps = config.warm_start.steps
    return product(
        axis("warm_start.steps", (steps // 2, steps), "start"),
        methods({f"power{alpha:g}": _power(alpha) for alpha in ALPHAS}),
        seeds(config),
    )
