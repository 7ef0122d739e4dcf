"""Advantages of verl, through the function with which its trainers compute them."""

from functools import cache
from importlib.metadata import version

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from omegaconf import OmegaConf  # pyright: ignore[reportMissingImports]
from verl import DataProto  # pyright: ignore[reportMissingImports]
from verl.trainer.ppo.metric_utils import (  # pyright: ignore[reportMissingImports]
    bootstrap_metric,
    process_validation_metrics,
)
from verl.trainer.ppo.ray_trainer import compute_advantage  # pyright: ignore[reportMissingImports]

from experiments.audit.estimators import Estimator, Report, of_one_group, shown

# (adv_estimator, norm_adv_by_std_in_grpo, claim, whether it reads the whole batch)
_ESTIMATORS = [
    ("grpo", True, "2 arcsin √p", False),
    ("grpo", False, "p", False),
    ("grpo_vectorized", True, "2 arcsin √p", False),
    ("grpo_vectorized", False, "p", False),
    ("grpo_passk", True, "pass@G", False),
    ("grpo_passk", False, "pass@G", False),
    ("rloo", None, "p", False),
    ("rloo_vectorized", None, "p", False),
    ("opo", None, "p", False),
    ("gpg", None, "p", True),
    ("gdpo", None, "2 arcsin √p", True),
    ("reinforce_plus_plus", None, "p", True),
    ("reinforce_plus_plus_baseline", None, "p", True),
]


def report() -> Report:
    """Returns verl's estimators of outcome rewards, and its best@k of validation."""
    estimators = [_make(*row) for row in _ESTIMATORS]
    by_name = {estimator.name: estimator for estimator in estimators}
    return Report(
        "verl", version("verl"), estimators, {"best@k/mean": _best_at_k}, _statements(by_name)
    )


def _statements(estimators):
    example = bootstrap_metric([1, 2, 3, 4, 5], 3, [np.mean, np.max])
    off = "norm_adv_by_std_in_grpo=False"
    one = [1, 0, 0, 0]
    shifted = of_one_group(estimators["gpg"], [1, -1, -1, -1])
    return [
        (
            "bootstrap_metric: the largest of subsets of 3 of 1, 2, 3, 4, 5 has mean 4.5",
            f"{example[1][0]:.3g}: it draws with replacement",
        ),
        (
            f"{off} turns off the standard deviation (docs/algo/grpo.md); rewards 1, 0, 0, 0",
            f"grpo: {shown(of_one_group(estimators[f'grpo, {off}'], one))}; grpo_vectorized: "
            f"{shown(of_one_group(estimators[f'grpo_vectorized, {off}'], one))}",
        ),
        (
            "rloo, rloo_vectorized: both arXiv:2402.14740; a group of one success",
            f"rloo: {shown(of_one_group(estimators['rloo'], [1]))}; rloo_vectorized: "
            f"{shown(of_one_group(estimators['rloo_vectorized'], [1]))}",
        ),
        (
            "gpg: arXiv:2504.02546 scales by rollouts over rollouts of mixed groups, here 1; "
            "rewards 1, 0, 0, 0, and 1, -1, -1, -1",
            f"{shown(of_one_group(estimators['gpg'], one))}; {shown(shifted)}: it scales by "
            "rollouts over rollouts whose reward is not 0",
        ),
    ]


def _make(name, normalize, claim, whole_batch):
    config = OmegaConf.create({"gamma": 1.0, "lam": 1.0})
    label = name
    if normalize is not None:
        config.norm_adv_by_std_in_grpo = normalize
        label = f"{name}, norm_adv_by_std_in_grpo={normalize}"
    if name == "gdpo":
        config.gdpo_reward_keys = ["score"]

    def advantages(rewards, index, lengths):
        lengths = torch.as_tensor(lengths)
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        token_rewards = torch.zeros(mask.shape)
        token_rewards[torch.arange(len(rewards)), lengths - 1] = torch.as_tensor(rewards)
        prompts = torch.ones(len(rewards), 1, dtype=torch.long)
        batch = DataProto.from_dict(
            tensors={
                "token_level_rewards": token_rewards,
                "response_mask": mask,
                "prompts": prompts,
                "attention_mask": torch.cat([prompts, mask], dim=1),
            },
            non_tensors={
                "uid": np.array([str(i) for i in index], dtype=object),
                "score": np.array(rewards, dtype=object),
            },
        )
        batch = compute_advantage(
            batch,
            adv_estimator=name,
            norm_adv_by_std_in_grpo=config.get("norm_adv_by_std_in_grpo", True),
            config=config,
        )
        return batch.batch["advantages"][:, 0].numpy()

    return Estimator(label, claim, advantages, by_index=True, whole_batch=whole_batch)


def _best_at_k(rewards, k):
    return _validation_metrics(tuple(rewards))[f"best@{k}/mean"]


@cache
def _validation_metrics(rewards):
    uids = ["prompt"] * len(rewards)
    metrics = process_validation_metrics(["data"] * len(rewards), uids, {"score": list(rewards)})
    return metrics["data"]["score"]
