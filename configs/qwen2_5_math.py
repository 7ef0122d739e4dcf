r"""Qwen2.5-7B on the training set of MATH, with rewards by equality of expressions.

The problems are JSON lines with the fields `problem` and `answer`: to train on
$FADE_JAX_DATA/math_train/math.jsonl, held out $FADE_JAX_DATA/math_eval/math500.jsonl, whose
problems are never trained on. The plan needs neither weights nor data. Sizes, rate and group are
our choice, not those of a paper.

    python -m experiments.perf.plan --config=configs/qwen2_5_math.py --mesh=fsdp=8
    python -m experiments.run --config=configs/qwen2_5_math.py --config.mesh.fsdp=8 \
        --config.model.path=DIR --workdir=runs/qwen2_5_math
    python -m experiments.evaluate --workdir=runs/qwen2_5_math --samples=16 --max_tokens=4096 \
        --suite=math500,aime24,aime25 --data_dir=$FADE_JAX_DATA

Qwen2.5-1.5B takes the same command with its own --config.model.path; the plan is that of 7B.
"""

import os

from configs import qwen2_5_7b
from experiments.config import smoke_language_model, with_mode

architecture = qwen2_5_7b.architecture


def get_config(mode: str = ""):
    """Returns the config; `mode` is empty or "smoke"."""
    data = os.environ.get("FADE_JAX_DATA", "data")
    config = qwen2_5_7b.get_config()
    config.task.name = "problems"
    config.task.kwargs = {
        "path": os.path.join(data, "math_train", "math.jsonl"),
        "evaluation_path": os.path.join(data, "math_eval", "math500.jsonl"),
        "prompt": "{problem}",
        "reward": "math",
        "max_prompt": 1024,
        "max_completion": 4096,
    }
    return with_mode(config, mode, smoke_language_model)
