"""SmolLM2-135M-Instruct on short programs, run in a sandbox: the paper's job in small.

    make smollm2
    python -m experiments.run --config=configs/smollm2_code.py --workdir=runs/code/fade
    python -m experiments.run --config=configs/smollm2_code.py:grpo --workdir=runs/code/grpo

`:grpo` is the same run with GRPO without the standard deviation, `:smoke` is two small steps. Whole
kinds of problems are held out. A step takes 15 to 30 seconds on one core. Needs bubblewrap.
"""

from configs import smollm2_arithmetic
from experiments.config import smoke_language_model, with_mode


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty (FADE), "grpo" or "smoke"."""
    config = smollm2_arithmetic.get_config("grpo" if mode == "grpo" else "")
    config.task.name = "short_programs"
    config.task.kwargs = {"max_completion": 20}
    config.prompts = 8
    config.group_size = 8
    config.steps = 40
    config.learner.microbatches = 8  # one prompt each: groups without a gradient take no time
    config.optimizer.learning_rate = 2e-5
    config.verification.workers = 1
    config.evaluation.prompts = 96
    config.evaluation.samples = 8
    config.evaluation.ks = (1, 4, 8)
    config.sweep.seeds = 3
    return with_mode(config, "" if mode == "grpo" else mode, smoke_language_model)
