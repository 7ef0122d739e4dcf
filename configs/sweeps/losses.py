"""Losses for stale samples: 6 losses x rollouts of 4 steps ago x 2 methods x 5 seeds.

Measures which ratio, and which bound on it, bears samplers that lag behind the trainer; each batch
gets two epochs, so that the policy moves away from its samples within a step too.

A loss bears the lag better than the clipped surrogate, for a method, if its final pass@1 is above
and its pass@100 not below, the 95% intervals of the differences over seeds and prompts excluding 0.
Bounds are those of the papers where they have some (experiments.objective, fade_jax.losses), not
tuned here; the learning rate is that of configs/graph.py.

    python -m experiments.run --config=configs/sweeps/losses.py --workdir=runs/sweeps/losses
    python -m experiments.run --config=configs/sweeps/losses.py:smoke --workdir=runs/smoke/losses

60 runs of two to three minutes each on one core.
"""

from configs import graph
from configs.sweeps.methods import chosen
from experiments.config import with_mode
from experiments.grid import product, seeds

# By name: overrides of config.learner.
LOSSES = {
    "clip": {"loss": {"name": "clipped_surrogate", "kwargs": {}}},
    "dual_clip": {"loss": {"name": "clipped_surrogate", "kwargs": {"dual": 3.0}}},
    "sequence": {
        "loss": {"name": "sequence_surrogate", "kwargs": {}},
        "reduction": "sequence_mean",
    },
    "cispo": {"loss": {"name": "cispo", "kwargs": {}}},
    "no_ratio": {"loss": {"name": "policy_gradient", "kwargs": {}}},
    "importance2": {
        "loss": {"name": "clipped_surrogate", "kwargs": {}},
        "importance_cap": 2.0,
    },
}


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = graph.get_config()
    config.learner.staleness = 4
    config.learner.epochs = 2
    return with_mode(config, mode)


def sweep(config):
    """Returns the overrides of each run, by name."""
    losses = {
        name: {f"learner.{field}": value for field, value in overrides.items()}
        for name, overrides in LOSSES.items()
    }
    return product(losses, chosen(config, "grpo_no_std", "fade"), seeds(config))
