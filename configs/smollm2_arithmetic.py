"""Post-training SmolLM2-135M-Instruct on four-shot arithmetic: the paper's setting in small.

    make smollm2
    python -m experiments.run --config=configs/smollm2_arithmetic.py \
        --workdir=runs/arithmetic/runs/fade
    python -m experiments.run --config=configs/smollm2_arithmetic.py:grpo \
        --workdir=runs/arithmetic/runs/grpo
    python -m experiments.report --workdir=runs/arithmetic

`:grpo` is the same run with GRPO without the standard deviation; `:smoke` is two small steps. On
one core a step takes some 27 seconds and an evaluation some 60.
"""

from experiments.config import default_config, smoke_language_model, with_mode

SMOLLM2 = "~/.cache/fade_jax/SmolLM2-135M-Instruct.Q4_1.gguf"


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty (FADE), "grpo" or "smoke"."""
    config = default_config()
    config.task.name = "arithmetic"
    config.task.kwargs = {"max_completion": 6}
    config.model.path = SMOLLM2
    config.prompts = 16
    config.group_size = 16
    config.steps = 50
    config.steps_per_call = 1
    config.warm_start.steps = 0
    config.advantage.kwargs = {"target_fraction": 0.5}
    if mode == "grpo":
        config.advantage.name = "dr_grpo"
        config.advantage.kwargs = {}
        mode = ""
    config.learner.microbatches = 2
    config.optimizer.learning_rate = 1e-5
    config.optimizer.max_gradient_norm = 1.0
    config.evaluation.every = 20
    config.evaluation.prompts = 128
    config.evaluation.samples = 16
    config.evaluation.prompts_per_call = 16
    config.evaluation.ks = (1, 4, 16)
    config.checkpoint.every = 10
    config.checkpoint.keep = 1
    return with_mode(config, mode, smoke_language_model)
