"""Power(3), a static focus on hard prompts (2607.01490), on the graph task.

python -m experiments.run --config=configs/power.py --workdir=runs/power
python -m experiments.run --config=configs/power.py:smoke --workdir=runs/smoke
"""

from experiments.config import default_config, with_mode


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty or "smoke"."""
    config = default_config()
    config.advantage.name = "power"
    config.advantage.kwargs = {"alpha": 3.0}
    return with_mode(config, mode)
