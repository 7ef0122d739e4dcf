"""The sign axis δ at two focuses: 6 divisors x 2 exponents x 5 seeds.

Measures what weighing failures more (δ < 1) or less (δ > 1) does to pass@k, entropy and the rank of
the output head's update. α = 1 is AsymGRPO(δ); α = 2, δ = 1 is Power(2).

Criteria, at α = 1 and over seeds and prompts:

* Claim 1 of 2607.01490 (success-biased weights collapse entropy and pass@100) holds here if both
  end lower at δ = 2 than at δ = 1, the 95% intervals of the differences excluding 0.
* Claim 2 (failure-biased weights learn fast early, but the head's update stays close to rank 1)
  holds here if at the first evaluation after the start pass@1 is higher at δ = 0.5 than at δ = 1,
  the interval excluding 0, and the final rank_one_fraction is higher in every seed.
* Claim 4 (exploration wants balance and hard focus, exploitation suppression and medium focus)
  holds here if the cell with the best final pass@100 has α = 2, δ = 1 and the one with the best
  pass@1 has δ < 1, each ahead of the other cell by an interval that excludes 0.

    python -m experiments.run --config=configs/sweeps/delta.py --workdir=runs/sweeps/delta
    python -m experiments.run --config=configs/sweeps/delta.py:smoke --workdir=runs/smoke/delta

60 runs of about a minute each on one core.
"""

from configs.graph import get_config
from experiments.grid import methods, product, seeds

__all__ = ["get_config", "sweep"]

ALPHAS = (1.0, 2.0)
DELTAS = (0.3, 0.5, 0.7, 1.0, 1.5, 2.0)


def _cell(alpha, delta):
    """The advantage by the name that configs/sweeps/core.py has for it, so that runs are shared."""
    if alpha == 1:
        return ("asym_grpo", {"delta": delta}) if delta != 1 else ("dr_grpo", {})
    if delta == 1:
        return "power", {"alpha": alpha}
    return "power_asym", {"alpha": alpha, "delta": delta}


def sweep(config):
    """Returns the overrides of each run, by name."""
    cells = {f"alpha{a:g}-delta{d:g}": _cell(a, d) for a in ALPHAS for d in DELTAS}
    return product(methods(cells), seeds(config))
