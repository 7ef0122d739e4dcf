"""FADE and other transformations in TRL's GRPOTrainer.

    trainer = GRPOTrainer(model, reward_funcs, args, train_dataset=prompts)
    fade = use_transformation(trainer, transforms.fade())
    trainer.train(resume_from_checkpoint=True)

TRL computes advantages once for each batch of generations, inside the method that generates and
scores; no argument or registry replaces them. Here the method runs as it is, and its result gets
other advantages, from the rewards that it computed: `scale_rewards` has no effect then, and the
rest of TRL, such as losses, masks and logs, is left alone. At that point the entropy is not known:
TRL computes it in the loss, later. One more forward pass, without gradients, takes it from the
policy that generated the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]
from transformers.trainer_callback import (  # pyright: ignore[reportMissingImports]
    ExportableState,
)
from trl.trainer.grpo_trainer import GRPOTrainer  # pyright: ignore[reportMissingImports]

from fade_jax.integrations.host import HostAdvantage
from fade_jax.transforms import AdvantageTransformation

# What TRL's forward pass takes besides the tokens, by the names that its batches have.
_OF_IMAGES = (
    "pixel_values",
    "image_grid_thw",
    "num_images",
    "pixel_attention_mask",
    "spatial_shapes",
    "num_tiles",
    "image_sizes",
    "token_type_ids",
    "mm_token_type_ids",
    "image_position_ids",
)


def use_transformation(
    trainer: GRPOTrainer,
    transformation: AdvantageTransformation,
    *,
    entropy: bool = True,
    per_group: Sequence[str] = (),
) -> HostAdvantage:
    """Replaces the advantages of a trainer by those of a transformation.

    The rewards of a rollout are the weighted sum of `reward_funcs`, as in TRL; a completion for
    which all of them return None does not count and gets 0. The transformation is given the
    statistics `entropy`, the mean token entropy in nats over all processes, and `lengths`, the
    tokens of each completion that the loss counts.

    The state moves once for each batch of generations: with `steps_per_generation` or
    `num_iterations` that is not once for each optimizer step, and a schedule by step counts
    batches. Batches of evaluation do not move it. It is part of
    `trainer_state.json` of each checkpoint and comes back with `resume_from_checkpoint`; a
    checkpoint without one leaves it as it is. Scalars of the state, such as α and δ, are logged as
    `fade_jax/alpha`, `fade_jax/delta`.

    Args:
      trainer: before `train`; a `GRPOTrainer` or a subclass that computes advantages as it does.
      transformation: from `fade_jax.transforms`, such as `fade()`.
      entropy: whether to compute the entropy; False saves the forward pass for a transformation
        that does not read it.
      per_group: as in `HostAdvantage`.

    Returns:
      what computes the advantages, and holds the state.

    Raises:
      ValueError: if `trainer` is not a GRPOTrainer, it sums rewards after normalizing them, or
        `transformation` is not an `AdvantageTransformation`.
    """
    if not isinstance(trainer, GRPOTrainer):
        raise ValueError(f"trainer must be a GRPOTrainer, got {type(trainer).__name__}")
    if trainer.multi_objective_aggregation != "sum_then_normalize":
        raise ValueError(
            "multi_objective_aggregation must be 'sum_then_normalize', "
            f"got {trainer.multi_objective_aggregation!r}"
        )
    advantage = HostAdvantage(transformation, per_group=per_group)
    calculate_rewards = trainer._calculate_rewards
    generate_and_score = trainer._generate_and_score_completions
    model: Any = trainer.model
    latest = {}

    def calculate_and_keep_rewards(*args: Any, **keywords: Any) -> torch.Tensor:
        latest["rewards"] = calculate_rewards(*args, **keywords)
        return latest["rewards"]

    def generate_and_score_anew(inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = generate_and_score(inputs)
        training = model.training
        of_all = latest.pop("rewards")  # of all processes, as TRL gathers them
        counts = ~torch.isnan(of_all).all(dim=1)
        rewards = (of_all * trainer.reward_weights.to(of_all.device)).nansum(dim=1)
        group_size: Any = trainer.num_generations if training else trainer.num_generations_eval
        statistics = {"lengths": trainer.accelerator.gather(batch["completion_mask"].sum(dim=1))}
        if entropy:
            statistics["entropy"] = _mean_entropy(trainer, batch)
        advantages = advantage(
            rewards,
            np.arange(len(rewards)) // group_size,
            where=counts,
            training=training,
            **statistics,
        )
        mine = trainer.accelerator.process_index * len(inputs)
        batch["advantages"] = advantages[mine : mine + len(inputs)].to(batch["advantages"].dtype)
        _log(trainer, advantage, advantages, "train" if training else "eval")
        return batch

    trainer._calculate_rewards = calculate_and_keep_rewards
    trainer._generate_and_score_completions = generate_and_score_anew
    trainer.add_callback(_state_callback(advantage))
    return advantage


def _mean_entropy(trainer: GRPOTrainer, batch: dict[str, Any]) -> torch.Tensor:
    """The mean of the policy's token entropy over the completions of all processes, in nats.

    At the trainer's temperature, and of the tokens that TRL's loss counts.
    """
    mask = batch["completion_mask"]
    if "tool_mask" in batch:
        mask = mask * batch["tool_mask"]
    with torch.no_grad():
        _, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            batch["completion_ids"].size(1),
            batch_size=trainer.args.per_device_train_batch_size,
            compute_entropy=True,
            **{name: batch[name] for name in _OF_IMAGES if name in batch},
        )
    total, tokens = trainer.accelerator.reduce(
        torch.stack([(entropies * mask).sum().float(), mask.sum().float()]), reduction="sum"
    )
    return total / tokens  # NaN without a token: moving averages skip it


def _log(
    trainer: GRPOTrainer, advantage: HostAdvantage, advantages: torch.Tensor, mode: str
) -> None:
    """Puts the advantages where TRL put its own, and the state beside TRL's metrics."""
    logged = trainer._logs["advantages"]
    for _ in range(min(len(logged), len(advantages))):
        logged.pop()
    logged.extend(advantages.tolist())
    for name, value in advantage.state_dict().items():
        if isinstance(value, float) and "schedule" not in name:
            trainer._metrics[mode][f"fade_jax/{name.split('/')[-1]}"].append(value)


def _state_callback(advantage: HostAdvantage) -> TrainerCallback:
    """Makes what transformers saves in, and restores from, `trainer_state.json`.

    A class for each advantage, since transformers makes the callback again from what it saved, if
    told to by `restore_callback_states_from_checkpoint`.
    """

    class AdvantageState(TrainerCallback, ExportableState):
        def state(self) -> dict[str, Any]:
            return {"args": {}, "attributes": {"leaves": advantage.state_dict()}}

        def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            saved = state.stateful_callbacks.get(type(self).__name__)
            if saved is not None:
                advantage.load_state_dict(saved["attributes"]["leaves"])

    return AdvantageState()
