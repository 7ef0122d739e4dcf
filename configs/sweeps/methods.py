"""Every method on the graph task: 17 methods x 5 seeds from one warm start.

Measures pass@1, pass@10, pass@100 and entropy of each method at equal steps and learning rate.

Claim 1 of 2607.01490 (success-biased weights collapse entropy and pass@100) holds here if each of
REINFORCE = PSR, PKPO and AsymGRPO(2) ends with less entropy and less pass@100 than GRPO without
std, the 95% interval of the difference over seeds and prompts excluding 0. REINFORCE and PSR are
one advantage and are both here as a check: their rows must be equal.

    python -m experiments.run --config=configs/sweeps/methods.py --workdir=runs/sweeps/methods
    python -m experiments.run --config=configs/sweeps/methods.py:smoke --workdir=runs/smoke/methods

85 runs of about a minute each on one core; --shard=i/n splits them over n hosts.
"""

from configs.graph import get_config
from experiments.grid import methods, product, seeds

__all__ = ["get_config", "sweep"]


def advantages(config):
    """Returns (factory, arguments) of every method, by name."""
    k = max(config.group_size // 4, 1)
    return {
        "reinforce": ("reinforce", {}),
        "grpo": ("grpo", {}),
        "grpo_no_std": ("dr_grpo", {}),
        "rloo": ("rloo", {}),
        "w_reinforce": ("w_reinforce", {"positive_weight": 0.1}),
        "psr": ("psr", {}),
        "nsr": ("nsr", {}),
        f"pass_at_{k}_training": ("pass_at_k_training", {"k": k}),
        f"pkpo{k}": ("pkpo", {"k": k}),
        "log_mean_exp": ("log_mean_exp", {"beta": 2.0}),
        "max_rl": ("max_rl", {}),
        "asym0.5": ("asym_grpo", {"delta": 0.5}),
        "asym2": ("asym_grpo", {"delta": 2.0}),
        "power2": ("power", {"alpha": 2.0}),
        "power3": ("power", {"alpha": 3.0}),
        "power_asym2": ("power_asym", {"alpha": 2.0, "delta": 2.0}),
        "fade": ("fade", {"target_fraction": 0.5}),
    }


def chosen(config, *names):
    """Returns the sweep of the methods with these names."""
    every = advantages(config)
    return methods({name: every[name] for name in names})


def sweep(config):
    """Returns the overrides of each run, by name."""
    return product(methods(advantages(config)), seeds(config))
