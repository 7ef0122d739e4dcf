"""Entropy held by three actuators: 3 targets x (β, α, entropy bonus) x 2 tasks x 10 seeds.

Measures which way of moving the entropy holds it, and what each costs in pass@1 and pass@100 beside
FADE, which schedules itself by the entropy and does not hold it, and beside Power(3), a fixed
weight. Clipping higher is not here: with one update a batch the ratio is 1 and nothing is clipped.

A target is held by an actuator on a task if the entropy of the rollouts is within 10% of it in at
least 80% of the steps from step 50 on, in every seed. An actuator costs nothing if neither final
pass@1 nor pass@100 is below FADE's, the 95% interval of the difference over seeds and prompts
excluding 0. The gains come from runs with seed 100, which is not used here.

    python -m experiments.run --config=configs/sweeps/hold_entropy.py \
        --workdir=runs/sweeps/hold_entropy
    python -m experiments.run --config=configs/sweeps/hold_entropy.py:smoke \
        --workdir=runs/smoke/hold_entropy

220 runs of one to two minutes each on one core; --shard=i/n splits them over n hosts.
"""

from configs.benchmark.protocol import TASKS, get_config, task
from configs.sweeps.entropy_bonus import GAINS
from experiments.grid import chain, methods, product, seeds

__all__ = ["get_config", "sweep"]

FRACTIONS = (0.3, 0.5, 0.7)


def sweep(config):
    """Returns the overrides of each run, by name."""
    weights = {
        f"{name}{fraction:g}": (factory, {"target_fraction": fraction})
        for name, factory in (
            ("beta", "tempered_holding_entropy"),
            ("alpha", "power_holding_entropy"),
        )
        for fraction in FRACTIONS
    }
    weights |= {
        "fade": ("fade", {"target_fraction": 0.5}),
        "power3": ("power", {"alpha": 3.0}),
    }
    bonus = {
        f"bonus{fraction:g}": {
            "advantage": {"name": "dr_grpo", "kwargs": {}},
            "learner.entropy.coefficient": 1.0,
            "learner.entropy.schedule": {
                "name": "pi_controller",
                "kwargs": {"target_fraction": fraction, **GAINS},
            },
        }
        for fraction in FRACTIONS
    }
    at_rate = {
        name: run | {"optimizer.learning_rate": TASKS[kind].rates[1]}  # the middle one
        for kind in ("graph", "countdown")
        for name, run in task(kind, config).items()
    }
    return product(at_rate, chain(methods(weights), bonus), seeds(config))
