"""A KL term: 3 estimators in the loss and one in the reward x 3 coefficients x 5 seeds, GRPO.

Measures what holding the policy near its start does to pass@1, pass@100 and entropy, and whether
k1 in the loss, which has no expected gradient, does nothing but add noise.

k1 does nothing if, at each coefficient, its final KL is not below that without a term, and a term
works if its final KL is, the 95% interval of the difference over seeds excluding 0.

    python -m experiments.run --config=configs/sweeps/kl.py --workdir=runs/sweeps/kl
    python -m experiments.run --config=configs/sweeps/kl.py:smoke --workdir=runs/smoke/kl

65 runs of one to two minutes each on one core.
"""

from configs import graph
from experiments.config import with_mode
from experiments.grid import axis, chain, product, seeds


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = graph.get_config()
    config.advantage = {"name": "dr_grpo", "kwargs": {}}
    config.learner.kl.measured = True
    return with_mode(config, mode)


def sweep(config):
    """Returns the overrides of each run, by name."""
    terms = {
        name: {"learner.kl.estimator": estimator, "learner.kl.place": place}
        for name, estimator, place in (
            ("k1", "k1", "loss"),
            ("k2", "k2", "loss"),
            ("k3", "k3", "loss"),
            ("k1_reward", "k1", "reward"),
        )
    }
    coefficients = axis("learner.kl.coefficient", (0.001, 0.01, 0.1), "c")
    none = axis("learner.kl.coefficient", (0.0,), ["none"])
    return product(chain(none, product(terms, coefficients)), seeds(config))
