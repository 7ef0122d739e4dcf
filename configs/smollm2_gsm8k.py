"""SmolLM2-135M-Instruct on short GSM8K questions, after a warm start on worked answers.

The data set is read through tensorflow-datasets (no TensorFlow needed) and looked for in
$TFDS_DATA_DIR; another place is given by --config.task.kwargs.data_dir=DIR.

    make smollm2
    export TFDS_DATA_DIR=DIR
    python -m experiments.run --config=configs/smollm2_gsm8k.py --workdir=runs/gsm8k

Questions have at most 48 tokens (1,750 to train on, of which 923 have a worked answer of at most
64 tokens, and 295 held out).

Measured on 2026-11-28 with these settings (one run): after the warm start 0 of 256 held-out samples
are right (32 prompts x 8, pass@1 at most 10.7% by the 95% interval), 31% cut off; the 40 RL steps
have a reward of 2.1% (27 of 1,280 rollouts), without a trend, and end at 1 of 256 right, 16% cut
off. The form is learned, the arithmetic is not: 135 million parameters do not show learning in 40
steps. For a task that this model learns, see configs/smollm2_arithmetic.py.
"""

from configs.smollm2_arithmetic import SMOLLM2
from experiments.config import default_config, smoke_language_model, with_mode


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty or "smoke"."""
    config = default_config()
    config.task.name = "gsm8k"
    config.task.kwargs = {
        "data_dir": "",
        "template": "plain",
        "max_prompt": 48,
        "max_completion": 64,
    }
    config.model.path = SMOLLM2
    config.model.remat_keeps = "products"
    config.prompts = 4
    config.group_size = 8
    config.steps = 40
    config.steps_per_call = 1
    config.warm_start.steps = 120
    config.warm_start.batch = 4
    config.warm_start.learning_rate = 1e-4
    config.advantage.kwargs = {"target_fraction": 0.5}
    config.learner.microbatches = 4
    config.learner.reduction = "token_mean"  # answers differ in length
    config.optimizer.learning_rate = 1e-5
    config.optimizer.max_gradient_norm = 1.0
    config.verification.workers = 1
    config.evaluation.every = 20
    config.evaluation.prompts = 32
    config.evaluation.samples = 8
    config.evaluation.prompts_per_call = 8
    config.evaluation.ks = (1, 8)
    config.checkpoint.every = 10
    config.checkpoint.keep = 1
    return with_mode(config, mode, smoke_language_model)
