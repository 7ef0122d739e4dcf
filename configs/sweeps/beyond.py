"""Beyond the paper: a shrinkage baseline, and a schedule of objectives: 7 methods x 5 seeds.

Measures two advantages made by running the decomposition backwards (fade_jax.transforms.pass_at_k).
Shrinkage is RLOO with the posterior mean of the solve rate, under a uniform density, as baseline:
the same expected gradient with less variance, and a gradient from solved and from failed groups
too. The schedule ascends pass@k with k from 3 down to 1, set by the running solve rate as FADE sets
α, without bias at a finite group.

Criteria, by a bootstrap over the seeds and the held-out prompts, which all runs share:

* Shrinkage beats RLOO, or GRPO, at equal compute if its final pass@1 is above, the 95% interval of
  the difference excluding 0, and its final pass@100 is not below in the same sense.
* The schedule matches FADE if neither final pass@1 nor final pass@100 is below FADE's, the 95%
  interval of the difference excluding 0; it beats FADE if besides one of the two is above so.

    python -m experiments.run --config=configs/sweeps/beyond.py --workdir=runs/sweeps/beyond
    python -m experiments.run --config=configs/sweeps/beyond.py:smoke --workdir=runs/smoke/beyond

35 runs of about a minute each on one core; those that core.py and methods.py have are copied with
--config.sweep.reuse=runs/sweeps.
"""

from configs.graph import get_config
from configs.sweeps.methods import chosen
from experiments.grid import chain, methods, product, seeds

__all__ = ["get_config", "sweep"]


def sweep(config):
    """Returns the overrides of each run, by name."""
    new = {
        "shrinkage": ("shrinkage", {}),
        "scheduled_pass_at_k": ("scheduled_pass_at_k", {}),
        "fade_no_suppression": ("fade_without_suppression", {}),
    }
    old = chosen(config, "rloo", "grpo", "grpo_no_std", "fade")
    return product(chain(old, methods(new)), seeds(config))
