"""The focus α of Power from two warm starts: 5 exponents x 2 initial solve rates x 3 seeds.

Measures what a harder focus does to pass@k, and whether the best α depends on how hard the prompts
are. α = 1 is GRPO without std.

Claim 3 of 2607.01490 (hard focus sharpens the signal; the best α depends on the solve rates) holds
here if the α with the best mean final pass@1 over the seeds is larger from the longer or from the
shorter warm start, and the 95% interval over seeds and prompts of the difference between the two α
at one of the starts excludes 0.

    python -m experiments.run --config=configs/sweeps/alpha.py --workdir=runs/sweeps/alpha
    python -m experiments.run --config=configs/sweeps/alpha.py:smoke --workdir=runs/smoke/alpha

30 runs of 4 to 6 minutes each on one core.
"""

from experiments.config import default_config, with_mode
from experiments.grid import axis, methods, product, seeds

ALPHAS = (1.0, 1.5, 2.0, 3.0, 4.0)


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    return with_mode(default_config(), mode)


def sweep(config):
    """Returns the overrides of each run, by name."""
    steps = config.warm_start.steps
    return product(
        axis("warm_start.steps", (steps // 2, steps), "start"),
        methods({f"power{alpha:g}": ("power", {"alpha": alpha}) for alpha in ALPHAS}),
        seeds(config),
    )
