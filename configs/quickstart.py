"""GRPO, Power(3) and FADE from one warm start on the graph task: the job of `make run`.

python -m experiments.run --config=configs/quickstart.py --workdir=runs/quickstart
python -m experiments.run --config=configs/quickstart.py:smoke --workdir=runs/smoke
"""

from experiments.config import default_config, with_mode
from experiments.grid import axis, methods, product

METHODS = {
    "grpo": ("grpo", {}),
    "power3": ("power", {"alpha": 3.0}),
    "fade": ("fade", {"target_fraction": 0.5}),
}
SEEDS = (0,)


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = default_config()
    return with_mode(config, mode)


def sweep(config):
    """Returns the overrides of each run, by name."""
    del config
    return product(methods(METHODS), axis("seed", SEEDS))
