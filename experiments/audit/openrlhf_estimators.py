"""Advantages of OpenRLHF, by the methods of its experience maker.

To import that module takes flash-attn built for CUDA, DeepSpeed and Ray, but its advantages take
torch alone: here the functions are compiled, unchanged, from the installed files.
"""

import __future__

import ast
import itertools
import math
from functools import partial
from importlib.metadata import distribution, version
from types import SimpleNamespace
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from experiments.audit.estimators import Estimator, Report, of_one_group, shown

# (advantage estimator, claim, whether it reads the whole batch)
_ESTIMATORS = [
    ("reinforce", "p", True),
    ("rloo", "p", False),
    ("reinforce_baseline", "p", True),
    ("group_norm", "2 arcsin √p", False),
    ("dr_grpo", "p", False),
]


def report() -> Report:
    """Returns OpenRLHF's estimators without a critic, and its pass@k of evaluation."""
    theirs = _load_functions()
    estimators = [_make(theirs, *row) for row in _ESTIMATORS]
    off = _make(theirs, "group_norm", "2 arcsin √p", False, no_std_norm=True)
    statements = [
        (
            "--algo.advantage.no_std_norm disables dividing by std; group_norm, rewards 1, 0, 0, 0",
            shown(of_one_group(off, [1, 0, 0, 0])),
        )
    ]
    pass_at_k = {"passN of N samples": partial(_pass_n, theirs)}
    return Report("OpenRLHF", version("openrlhf"), estimators, pass_at_k, statements)


def _load_functions() -> dict[str, Any]:
    functions = {"torch": torch, "itertools": itertools}
    for path, names in {
        "openrlhf/models/utils.py": {"compute_reward"},
        "openrlhf/trainer/ppo_utils/length_penalty.py": {"apply_length_penalties"},
        "openrlhf/trainer/ppo_utils/experience_maker.py": {
            "compute_advantages_and_returns",
            "get_cumulative_returns",
        },
        "openrlhf/trainer/ppo_trainer.py": {"compute_eval_metrics"},
    }.items():
        file = str(distribution("openrlhf").locate_file(path))
        with open(file, encoding="utf-8") as source:
            tree = ast.parse(source.read())
        found: list[ast.stmt] = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name in names
        ]
        flags = __future__.annotations.compiler_flag
        exec(compile(ast.Module(found, []), file, "exec", flags), functions)
    return functions


def _make(theirs, name, claim, whole_batch, no_std_norm=False):
    def advantages(rewards, index, lengths):
        advantage = SimpleNamespace(estimator=name, gamma=1.0, lambd=1.0, no_std_norm=no_std_norm)
        args = SimpleNamespace(
            algo=SimpleNamespace(advantage=advantage),
            rollout=SimpleNamespace(n_samples_per_prompt=int((index == index[0]).sum())),
            reward=SimpleNamespace(
                clip_range=None, overlong_buffer_len=None, stop_properly_penalty_coef=None
            ),
        )
        maker = SimpleNamespace(
            strategy=SimpleNamespace(args=args),
            advantage_estimator=name,
            kl_ctl=SimpleNamespace(value=0.0),
            get_cumulative_returns=partial(theirs["get_cumulative_returns"], None),
        )
        lengths = torch.as_tensor(lengths)
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        experience = SimpleNamespace(
            index=list(range(len(rewards))),
            rewards=torch.as_tensor(rewards),
            action_mask=mask,
            kl=torch.zeros(mask.shape),
            info={},
        )
        theirs["compute_advantages_and_returns"](maker, [experience])
        return experience.advantages[:, 0].numpy()

    return Estimator(name, claim, advantages, whole_batch=whole_batch)


def _pass_n(theirs, rewards, k):
    """The estimate of pass@k from as many samples as k; NaN for another k, which it has not."""
    if k != len(rewards):
        return math.nan
    samples = [
        SimpleNamespace(prompts=["prompt"], rewards=reward, response_length=None, truncated=None)
        for reward in rewards
    ]
    prompts = [(["data"], ["prompt"], ["label"], [None])]
    return theirs["compute_eval_metrics"](prompts, samples, k)[f"eval_data_pass{k}"]
