"""FADE on the graph task, from its own warm start.

python -m experiments.run --config=configs/fade.py --workdir=runs/fade
python -m experiments.run --config=configs/fade.py:smoke --workdir=runs/smoke
"""

from experiments.config import default_config, with_mode


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty or "smoke"."""
    config = default_config()
    config.advantage.name = "fade"
    config.advantage.kwargs = {"target_fraction": 0.5}
    return with_mode(config, mode)
