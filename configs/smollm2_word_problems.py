"""SmolLM2-135M-Instruct on word problems answered by an equation.

A short supervised stage on ASDiv's formulas, then FADE on ASDiv's training questions; evaluated on
held-out SVAMP and MAWPS. The files asdiv.jsonl, svamp.jsonl and mawps_*.jsonl are looked for in
$FADE_JAX_DATA/math_eval; another place is given by --config.task.kwargs.directory=DIR.

    make smollm2
    python -m experiments.run --config=configs/smollm2_word_problems.py --workdir=runs/words
"""

import os

from configs.smollm2_arithmetic import SMOLLM2
from experiments.config import default_config, smoke_language_model, with_mode


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty or "smoke"."""
    config = default_config()
    config.task.name = "word_problems"
    config.task.kwargs = {
        "directory": os.path.join(os.environ.get("FADE_JAX_DATA", "data"), "math_eval"),
        "max_prompt": 96,
        "max_completion": 16,
    }
    config.model.path = SMOLLM2
    config.prompts = 16
    config.group_size = 8
    config.steps = 100
    config.steps_per_call = 1
    config.warm_start.steps = 20
    config.warm_start.batch = 16
    config.warm_start.learning_rate = 2e-5
    config.advantage.kwargs = {"target_fraction": 0.5}
    config.learner.microbatches = 2
    config.optimizer.learning_rate = 1e-5
    config.optimizer.max_gradient_norm = 1.0
    config.evaluation.every = 20
    config.evaluation.prompts = 64
    config.evaluation.samples = 8
    config.evaluation.prompts_per_call = 16
    config.evaluation.ks = (1, 8)
    config.checkpoint.every = 10
    config.checkpoint.keep = 1
    return with_mode(config, mode, smoke_language_model)
