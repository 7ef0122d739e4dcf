"""An entropy bonus: 3 fixed coefficients, and 3 targets held by feedback x 5 seeds, GRPO.

Measures whether a controller of the bonus holds the entropy at a fraction of its start, and what
that costs beside FADE and a fixed bonus.

A target is held if the entropy of the rollouts is within 10% of it in 80% of the steps from step 50
on, in every seed. The controller's gains come from one run with seed 100, which is not used here.

    python -m experiments.run --config=configs/sweeps/entropy_bonus.py \
        --workdir=runs/sweeps/entropy_bonus
    python -m experiments.run --config=configs/sweeps/entropy_bonus.py:smoke \
        --workdir=runs/smoke/entropy_bonus

35 runs of one to two minutes each on one core.
"""

from configs import graph
from configs.sweeps.methods import chosen
from experiments.config import with_mode
from experiments.grid import axis, chain, product, seeds

FRACTIONS = (0.3, 0.5, 0.7)
GAINS = {"gain": 0.1, "integral_gain": 0.005, "rate": 0.2, "low": -0.1, "high": 0.1}


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = graph.get_config()
    config.advantage = {"name": "dr_grpo", "kwargs": {}}
    return with_mode(config, mode)


def sweep(config):
    """Returns the overrides of each run, by name."""
    fixed = axis("learner.entropy.coefficient", (0.001, 0.003, 0.01), "bonus")
    held = {
        f"held{fraction:g}": {
            "learner.entropy.coefficient": 1.0,
            "learner.entropy.schedule": {
                "name": "pi_controller",
                "kwargs": {"target_fraction": fraction, **GAINS},
            },
        }
        for fraction in FRACTIONS
    }
    return product(chain(fixed, held, chosen(config, "fade")), seeds(config))
