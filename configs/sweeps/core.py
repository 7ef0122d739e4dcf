"""FADE, its ablations, and the static weights between which it moves: 12 methods x 5 seeds.

Measures pass@k over training, so that each method can also be read at matched pass@1.

Criteria, each by a bootstrap over the seeds and the held-out prompts, which all runs share:

* Claim 1 of 2607.01490 (success-biased weights collapse entropy and pass@100) holds here if
  REINFORCE and AsymGRPO(2) each end with less entropy and less pass@100 than GRPO without std, the
  95% intervals of the differences excluding 0; it fails if either interval excludes 0 on the other
  side.
* Claim 2 (failure-biased weights learn fast early, but the head's update stays close to rank 1)
  holds if AsymGRPO(0.5) has more pass@1 than GRPO without std at step 50 and a larger rank-one
  fraction of the head's update at the end, both intervals excluding 0; it fails if one excludes 0
  on the other side.
* Claim 3 (hard focus helps, and costs effective sample size) is read from pass@100 at matched
  pass@1 of Power(2) and Power(3) against GRPO without std, and from their final pass@1.
* Claim 5 (FADE reaches the best pass@1 earlier than the best static weight, with the
  best trade-off) holds here if FADE's first evaluation at or above the final pass@1 of the best of
  GRPO without std, AsymGRPO and Power comes earlier than that method's own in every seed, and its
  final pass@1, pass@10 and pass@100 are each within the 95% interval of the best of them or above.
* Claim 6 (each ablation is worse than FADE) holds for an ablation if its final pass@1 or pass@100
  is below FADE's, the 95% interval of the difference excluding 0, and neither is above so.

The ablations: without the focus, without the suppression, both driven by the entropy, both by a
clock, and averages that keep 2% of the past instead of 98%, the other reading of the paper.

    python -m experiments.run --config=configs/sweeps/core.py --workdir=runs/sweeps/core
    python -m experiments.run --config=configs/sweeps/core.py:smoke --workdir=runs/smoke/core

60 runs of about a minute each on one core. --config.warm_start.steps sets the initial solve rate.
"""

from configs.graph import get_config
from configs.sweeps.methods import chosen
from configs.sweeps.tuning import STATIC
from experiments.grid import chain, methods, product, seeds

__all__ = ["get_config", "sweep"]


def sweep(config):
    """Returns the overrides of each run, by name."""
    half = {"target_fraction": 0.5}
    ablations = methods(
        {
            "fade_no_focal": ("fade_without_focal", half),
            "fade_no_suppression": ("fade_without_suppression", {}),
            "fade_from_entropy": ("fade_from_entropy", half),
            "fade_log_decay": ("fade_log_decay", {"steps": float(config.steps)}),
            "fade_rate0.98": ("fade", half | {"rate": 0.98}),
        }
    )
    every = chain(chosen(config, *STATIC, "fade"), ablations)
    # Seed by seed, so that what is done of an interrupted sweep compares all methods.
    return dict(sorted(product(every, seeds(config)).items(), key=lambda run: run[1]["seed"]))
