"""LoRA against the full update from one start: 4 ranks (0 is the full update) x 3 rates x 5 seeds.

Measures how much of what RL learns on the graph task adapters of a low rank learn too, and what
they save. The method is GRPO without the standard deviation. Adapters sit on all seven linear
maps of a layer with alpha = 32; embedding and head are trained by the full update alone. Before,
three runs of 100 steps with seed 1000 were made: pass@1 came to 0.21 by the full update at 6e-4,
and at 2e-3 to 0.17 by rank 8 and to 0.12 by rank 1, from 0.10. The first rates of the adapters
were 2e-3 to 2e-2; after seeds 0 and 1 of ranks 1 and 8 at 6e-3, all below the start, they are
6e-4 to 6e-3.

Every rank has the rate that is best for its mean final pass@1. Rank r falls short of the full
update if the 95% interval over seeds and prompts of the difference of their final pass@1, or
pass@100, lies below 0. It keeps up in pass@1 if it does not fall short and the interval reaches no
lower than -0.03; otherwise nothing is decided. A best rate at the edge of its three is said to be
so, since a better one may lie beyond. Times are medians of step_seconds, of runs that nothing else
shares a core with; bytes are those of the checkpoints.

    python -m experiments.run --config=configs/sweeps/lora.py --workdir=runs/sweeps/lora
    python -m experiments.run --config=configs/sweeps/lora.py:smoke --workdir=runs/smoke/lora

60 runs of about a minute each on one core.
"""

from configs import graph
from configs.sweeps.methods import chosen
from experiments.config import with_mode
from experiments.grid import axis, chain, product, seeds

RATES = (2e-4, 6e-4, 2e-3)  # the middle one is the tuned one of configs/graph.py
LORA_RATES = (6e-4, 2e-3, 6e-3)
RANKS = (1, 8, 32)


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = graph.get_config()
    config.lora.alpha = 32.0
    config.learner.head_rank = False  # adapters leave the head as it is
    return with_mode(config, mode)


def sweep(config):
    """Returns the overrides of each run, by name."""
    full = product({"full": {}}, axis("optimizer.learning_rate", RATES, "lr"))
    low = product(
        axis("lora.rank", RANKS, "rank"), axis("optimizer.learning_rate", LORA_RATES, "lr")
    )
    return product(chosen(config, "grpo_no_std"), chain(full, low), seeds(config))
