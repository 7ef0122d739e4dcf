"""SmolLM2-135M-Instruct on short programs, run in a sandbox: the paper's job in small.

    make smollm2
    python -m experiments.run --config=configs/smollm2_code.py --workdir=runs/code/fade
    python -m experiments.run --config=configs/smollm2_code.py:grpo --workdir=runs/code/grpo

`:grpo` is the same run with GRPO without the standard deviation, `:smoke` is two small steps. Whole
kinds of problems are held out. A step takes 15 to 30 seconds on one core. Needs bubblewrap.
"""

from configs.smollm2_arithmetic import SMOLLM2
from experiments.config import default_config, smoke_language_model, with_mode


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty (FADE), "grpo" or "smoke"."""
    config = default_config()
    config.task.name = "short_programs"
    config.task.kwargs = {"max_completion": 20}
    config.model.path = SMOLLM2
    config.prompts = 8
    config.group_size = 8
    config.steps = 40
    config.steps_per_call = 1
    config.warm_start.steps = 0
    config.advantage.kwargs = {"target_fraction": 0.5}
    if mode == "grpo":
        config.advantage.name = "dr_grpo"
        config.advantage.kwargs = {}
        mode = ""
    config.learner.microbatches = 8  # one prompt each: groups without a gradient take no time
    config.optimizer.learning_rate = 2e-5
    config.optimizer.max_gradient_norm = 1.0
    config.verification.workers = 1
    config.evaluation.every = 20
    config.evaluation.prompts = 96
    config.evaluation.samples = 8
    config.evaluation.prompts_per_call = 16
    config.evaluation.ks = (1, 4, 8)
    config.checkpoint.every = 10
    config.checkpoint.keep = 1
    config.sweep.seeds = 3
    return with_mode(config, mode, smoke_language_model)
