"""Qwen2.5-32B on GSM8K with completions of up to 8192 tokens, for 64 devices of 80 GB or more.

All but the model is the run of configs/qwen2_5_7b.py.

    python -m experiments.perf.plan --config=configs/qwen2_5_32b.py --mesh=fsdp=8,tensor=8
    python -m experiments.run --config=configs/qwen2_5_32b.py --config.mesh.fsdp=8 \
        --config.mesh.tensor=8 --config.model.path=DIR --workdir=runs/qwen2_5_32b
"""

from configs import qwen2_5_7b
from experiments.models.config import ModelConfig


def architecture() -> ModelConfig:
    """The sizes in the config.json of Qwen/Qwen2.5-32B."""
    return ModelConfig(
        vocab_size=152064,
        num_layers=64,
        d_model=5120,
        num_heads=40,
        num_kv_heads=8,
        head_dim=128,
        d_ff=27648,
        rope_theta=1_000_000.0,
        norm_eps=1e-5,
        tied_head=False,
        qkv_bias=True,
        max_positions=131072,
    )


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty or "smoke"."""
    config = qwen2_5_7b.get_config(mode)
    config.model.path = "~/models/Qwen2.5-32B"
    return config
