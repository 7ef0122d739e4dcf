"""FADE on countdown: four numbers to a target, with + - x from left to right.

python -m experiments.run --config=configs/countdown.py --workdir=runs/countdown
python -m experiments.run --config=configs/countdown.py:smoke --workdir=runs/smoke
"""

from experiments.config import default_config, with_mode


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty or "smoke"."""
    config = default_config()
    config.task.name = "countdown"
    config.advantage.kwargs = {"target_fraction": 0.5}
    return with_mode(config, mode)
