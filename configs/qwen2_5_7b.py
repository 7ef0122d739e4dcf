"""Qwen2.5-7B on GSM8K with completions of up to 8192 tokens, for 8 devices of 80 GB or more.

The plan needs neither weights nor data; the run reads the weights from a Hugging Face directory
and the data as configs/smollm2_gsm8k.py does.

    python -m experiments.perf.plan --config=configs/qwen2_5_7b.py --mesh=fsdp=8
    python -m experiments.run --config=configs/qwen2_5_7b.py --config.mesh.fsdp=8 \
        --config.model.path=DIR --workdir=runs/qwen2_5_7b
"""

from experiments.config import default_config, smoke_language_model, with_mode
from experiments.models.config import ModelConfig


def architecture() -> ModelConfig:
    """The sizes in the config.json of Qwen/Qwen2.5-7B."""
    return ModelConfig(
        vocab_size=152064,
        num_layers=28,
        d_model=3584,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        d_ff=18944,
        rope_theta=1_000_000.0,
        norm_eps=1e-6,
        tied_head=False,
        qkv_bias=True,
        max_positions=131072,
    )


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty or "smoke"."""
    config = default_config()
    config.task.name = "gsm8k"
    config.task.kwargs = {"data_dir": "", "max_prompt": 256, "max_completion": 8192}
    config.model.path = "~/models/Qwen2.5-7B"
    config.model.dtype = "bfloat16"
    config.model.remat = True
    config.prompts = 64
    config.group_size = 8
    config.steps = 200
    config.steps_per_call = 1
    config.warm_start.steps = 0
    config.advantage.kwargs = {"target_fraction": 0.5}
    config.learner.microbatches = 8  # one prompt and its group on each of 8 devices
    config.learner.reduction = "token_mean"
    config.optimizer.learning_rate = 1e-6
    config.optimizer.max_gradient_norm = 1.0
    config.verification.workers = 8
    config.evaluation.every = 20
    config.evaluation.prompts = 256
    config.evaluation.samples = 8
    config.evaluation.prompts_per_call = 64
    config.evaluation.ks = (1, 4, 8)
    config.checkpoint.every = 10
    return with_mode(config, mode, smoke_language_model)
