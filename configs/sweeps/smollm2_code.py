"""GRPO and FADE on short programs with SmolLM2-135M-Instruct: 2 methods x 3 seeds.

The mirror of the paper's programming runs: a chat model, programs in a sandbox, pass@k on kinds of
problems that are never trained on. Both methods have the learning rate at which GRPO learned in the
first steps of a run with seed 100, which is not used here.

Criteria, over seeds and held-out problems:

* A method learns if pass@1 after 40 steps is above that before training, the 95% interval of the
  difference (paired by seed and problem) excluding 0.
* One of them is better in pass@1 or pass@8 if the interval of their difference excludes 0. With
  three seeds and 96 problems a difference below some 5 points cannot be told.

    make smollm2
    python -m experiments.run --config=configs/sweeps/smollm2_code.py \\
        --workdir=runs/sweeps/smollm2_code

6 runs of about 20 minutes each on one core. Results are in docs/replication.md, with a fourth seed
(--config.sweep.seeds=4) that was added because three left the first criterion undecided for GRPO.
"""

from configs.smollm2_code import get_config
from experiments.grid import methods, product, seeds

__all__ = ["get_config", "sweep"]


ADVANTAGES = {"grpo": ("dr_grpo", {}), "fade": ("fade", {"target_fraction": 0.5})}


def sweep(config):
    """Returns the overrides of each run, by name."""
    every = product(methods(ADVANTAGES), seeds(config))
    # Seed by seed, so that what is done of an interrupted sweep compares both methods.
    return dict(sorted(every.items(), key=lambda run: run[1]["seed"]))
