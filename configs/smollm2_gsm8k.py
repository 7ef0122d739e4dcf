"""SmolLM2-135M-Instruct on GSM8K, read through tensorflow-datasets (no TensorFlow needed).

The prepared data set is looked for in $TFDS_DATA_DIR; another place is given by
--config.task.kwargs.data_dir=DIR.

    make smollm2
    export TFDS_DATA_DIR=DIR
    python -m experiments.run --config=configs/smollm2_gsm8k.py --workdir=runs/gsm8k
"""

from configs.smollm2_arithmetic import SMOLLM2
from experiments.config import default_config, smoke_language_model, with_mode


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty or "smoke"."""
    config = default_config()
    config.task.name = "gsm8k"
    config.task.kwargs = {"data_dir": "", "max_prompt": 192, "max_completion": 128}
    config.model.path = SMOLLM2
    config.prompts = 4
    config.group_size = 8
    config.steps = 100
    config.steps_per_call = 1
    config.warm_start.steps = 0
    config.advantage.kwargs = {"target_fraction": 0.5}
    config.learner.microbatches = 4
    config.learner.reduction = "token_mean"  # answers differ in length by a factor of ten
    config.optimizer.learning_rate = 1e-5
    config.optimizer.max_gradient_norm = 1.0
    config.verification.workers = 1
    config.evaluation.every = 50
    config.evaluation.prompts = 32
    config.evaluation.samples = 8
    config.evaluation.prompts_per_call = 8
    config.evaluation.ks = (1, 8)
    config.checkpoint.every = 10
    config.checkpoint.keep = 1
    return with_mode(config, mode, smoke_language_model)
