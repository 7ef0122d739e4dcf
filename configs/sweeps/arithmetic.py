"""The paper's claims on a pre-trained model, SmolLM2-135M on arithmetic: 7 methods x 3 seeds.

Measures whether what the graph task shows holds where entropy starts at 0.66 nats and GRPO takes it
to 0.18 within 20 steps. Claims 1, 2 and 5 of 2607.01490 are read by the criteria of
configs/sweeps/core.py, with pass@16 in the place of pass@100 and step 25 in that of step 50; claim
5 for both target entropies of FADE, a quarter and a half of the initial one.

    make smollm2
    python -m experiments.run --config=configs/sweeps/arithmetic.py \
        --workdir=runs/sweeps/arithmetic
    python -m experiments.run --config=configs/sweeps/arithmetic.py:smoke \
        --workdir=runs/smoke/arithmetic

21 runs of 100 steps, some 12 minutes each on one core. A step has 64 rollouts, a quarter of those
of configs/smollm2_arithmetic.py, and computes in bfloat16, so that the sweep takes 4 core-hours and
not 16; half of the groups have no variance, and microbatches that hold nothing else are left out.
(All of this was set for time alone, before any run of this sweep.)
"""

from configs import smollm2_arithmetic
from configs.sweeps.methods import chosen
from experiments.config import smoke_language_model, with_mode
from experiments.grid import chain, methods, product, seeds

STATIC = ("reinforce", "grpo_no_std", "asym0.5", "asym2", "power2")


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = smollm2_arithmetic.get_config()
    config.model.dtype = "bfloat16"
    config.prompts = 8
    config.group_size = 8
    config.learner.microbatches = 4
    config.steps = 100
    config.evaluation.every = 25
    config.evaluation.prompts = 64
    config.checkpoint.every = 25
    config.sweep.seeds = 3
    return with_mode(config, mode, smoke_language_model)


def sweep(config):
    """Returns the overrides of each run, by name."""
    targets = {f"fade{x:g}": ("fade", {"target_fraction": x}) for x in (0.25, 0.5)}
    every = product(chain(chosen(config, *STATIC), methods(targets)), seeds(config))
    # Seed by seed, so that what is done of an interrupted sweep compares all methods.
    return dict(sorted(every.items(), key=lambda run: run[1]["seed"]))
