"""Qwen2.5-32B on code_contests with completions of up to 30,720 tokens: the paper's job at 32B.

The run of configs/qwen2_5_7b_code.py, whose docstring tells what is known of the paper's and what
is not, with a larger model and longer completions. The paper (arXiv 2607.01490) trains CWM 32B with
up to 30k tokens, on 12 nodes beside 20 that sample; here it is Qwen2.5 of nearly that size. By the
plan the train step keeps 162 GB of activations for a group of 8 on a row of the mesh, so groups
have 4 completions, for devices of 141 GB; on 80 GB completions of 16,384 tokens fit.

    python -m experiments.perf.plan --config=configs/qwen2_5_32b_code.py \
        --mesh=data=3,fsdp=4,tensor=8,samplers=160 --mesh=fsdp=20,tensor=8,learner.microbatches=3
    python -m experiments.run --config=configs/qwen2_5_32b_code.py --config.mesh.fsdp=20 \
        --config.mesh.tensor=8 --config.learner.microbatches=3 --config.model.path=DIR \
        --workdir=runs/qwen2_5_32b_code --distributed
"""

from configs import qwen2_5_7b_code, qwen2_5_32b
from experiments.config import smoke_language_model, with_mode

architecture = qwen2_5_32b.architecture


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty or "smoke"."""
    config = qwen2_5_7b_code.get_config()
    config.task.kwargs.max_completion = 30_720
    config.group_size = 4
    config.model.path = "~/models/Qwen2.5-32B-Instruct"
    config.prompts = config.evaluation.prompts = config.evaluation.prompts_per_call = 60
    config.learner.microbatches = 5  # one prompt and its group on each of 12 rows of the mesh
    return with_mode(config, mode, smoke_language_model)
