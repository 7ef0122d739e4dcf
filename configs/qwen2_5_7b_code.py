"""Qwen2.5-7B on code_contests with completions of up to 8192 tokens: the paper's job at 7B.

Known of the paper's run (arXiv 2607.01490) and set here: contest problems with unit tests, reward
1 or 0, 8k tokens, temperature 1, top-p 1, clipped ratios, FADE with H* = 1 nat. Not known, and
chosen here: group size, prompts per step, learning rate, clipping range, no KL penalty, steps, and
that rollouts are one step old. Not the same: the paper starts from its own SFT on reasoning and
trains on 25 thousand problems; here the start is a public model. The paper's layout, one node that
trains and seven that sample, is the second plan; the run takes it where one process sees all 64
devices.

The problems are $FADE_JAX_DATA/programming/code_contests.jsonl; a tenth of them is held out. For a
file of LiveCodeBench's format set `path` and `format` of `config.task.kwargs`. The plan needs
neither weights nor data; the run needs bubblewrap.

    python -m experiments.perf.plan --config=configs/qwen2_5_7b_code.py --mesh=fsdp=8 \
        --mesh=fsdp=8,samplers=56
    python -m experiments.run --config=configs/qwen2_5_7b_code.py --config.mesh.fsdp=8 \
        --config.model.path=DIR --workdir=runs/qwen2_5_7b_code
    python -m experiments.evaluate --workdir=runs/qwen2_5_7b_code --samples=100 --max_tokens=8192 \
        --suite=livecodebench:FILE,aime24,aime25
"""

import os

from configs import qwen2_5_7b
from experiments.config import smoke_language_model, with_mode

architecture = qwen2_5_7b.architecture


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty or "smoke"."""
    config = qwen2_5_7b.get_config()
    config.task.name = "programming"
    config.task.kwargs = {
        "path": os.path.join(
            os.environ.get("FADE_JAX_DATA", "data"), "programming", "code_contests.jsonl"
        ),
        "format": "code_contests",
        "max_prompt": 1024,
        "max_completion": 8192,
    }
    config.model.path = "~/models/Qwen2.5-7B-Instruct"
    config.advantage.kwargs = {"target_entropy": 1.0}
    config.prompts = 56  # one for each sampling device of the paper's layout
    config.learner.microbatches = 7  # one prompt and its group on each of 8 devices
    config.learner.staleness = 1
    config.steps = 1000
    config.evaluation.every = 50
    config.evaluation.prompts = 64
    config.evaluation.samples = 16
    config.evaluation.prompts_per_call = 32
    config.evaluation.ks = (1, 4, 16)
    config.verification.workers = 16
    return with_mode(config, mode, smoke_language_model)
