"""GRPO, Power(3) and FADE from one warm start on the graph task: the job of `make run`.

python -m experiments.run --config=configs/quickstart.py --workdir=runs/quickstart
python -m experiments.run --config=configs/quickstart.py:smoke --workdir=runs/smoke
"""

from experiments.config import default_config, with_mode

METHODS = {
    "grpo": {"name": "grpo", "kwargs": {}},
    "power3": {"name": "power", "kwargs": {"alpha": 3.0}},
    "fade": {"name": "fade", "kwargs": {"target_fraction": 0.5}},
}
SEEDS = (0,)


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = default_config()
    return with_mode(config, mode)


def sweep(config):
    """Returns the overrides of each run, by name."""
    del config
    return {
        f"{method}-seed{seed}": {"advantage": advantage, "seed": seed}
        for seed in SEEDS
        for method, advantage in METHODS.items()
    }
