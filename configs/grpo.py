"""GRPO with the group's standard deviation (2402.03300) on the graph task.

python -m experiments.run --config=configs/grpo.py --workdir=runs/grpo
python -m experiments.run --config=configs/grpo.py:smoke --workdir=runs/smoke
"""

from experiments.config import default_config, with_mode


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty or "smoke"."""
    config = default_config()
    config.advantage.name = "grpo"
    return with_mode(config, mode)
