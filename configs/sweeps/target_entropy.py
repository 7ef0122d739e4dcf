"""FADE's target entropy H*: 4 fractions of the initial entropy and 3 values in nats x 5 seeds.

Measures when δ leaves 1, and what an earlier or later bias to failures does to pass@k and entropy.

The paper found about half the initial entropy best. That holds here if no other fraction has a
final pass@1 or pass@100 above that of 0.5, the 95% interval of the difference over seeds and
prompts excluding 0. That a higher target means an earlier bias holds if the first step with δ < 1
does not grow with H* in any seed.

    python -m experiments.run --config=configs/sweeps/target_entropy.py \
        --workdir=runs/sweeps/target_entropy
    python -m experiments.run --config=configs/sweeps/target_entropy.py:smoke \
        --workdir=runs/smoke/target_entropy

35 runs of about a minute each on one core.
"""

from configs.graph import get_config
from experiments.grid import methods, product, seeds

__all__ = ["get_config", "sweep"]

FRACTIONS = (0.25, 0.5, 0.75, 1.0)
NATS = (0.5, 1.0, 1.3)


def sweep(config):
    """Returns the overrides of each run, by name."""
    targets = {f"fraction{x:g}": ("fade", {"target_fraction": x}) for x in FRACTIONS}
    targets |= {f"nats{x:g}": ("fade", {"target_entropy": x}) for x in NATS}
    return product(methods(targets), seeds(config))
