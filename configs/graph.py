"""The protocol that the sweeps on the graph task share: their runs compare across sweeps.

python -m experiments.run --config=configs/graph.py --workdir=runs/graph
python -m experiments.run --config=configs/graph.py:smoke --workdir=runs/smoke

By itself it is one run of FADE, with H* at half the initial entropy.
"""

from experiments.config import default_config, with_mode

# The best of configs/sweeps/tuning.py for each of its seven methods: of 3e-4, 6e-4 and 1.2e-3 the
# middle one, for all.
LEARNING_RATE = 6e-4


def get_config(mode: str = ""):
    """Returns a run of 400 steps at the tuned rate; `mode` is empty or "smoke"."""
    config = default_config()
    config.optimizer.learning_rate = LEARNING_RATE
    config.steps = 400  # in which pass@1 passes its peak or flattens at this rate
    config.learner.microbatches = 4  # on a CPU, gradients in 100 ms instead of 129, of full groups
    config.advantage.kwargs = {"target_fraction": 0.5}
    config.evaluation.every = 50
    config.evaluation.prompts_per_call = 4  # of 128 samples each, as many as fit a CPU's cache
    return with_mode(config, mode)
