"""FADE and other transformations in verl's registry of advantage estimators.

    # my_estimators.py, named by VERL_USE_EXTERNAL_MODULES so that verl's processes import it
    fade = register("fade", transforms.fade())
    connect(PPOTrainer, fade)  # or RayPPOTrainer; for the entropy and for checkpoints

    python -m verl.trainer.main_ppo algorithm.adv_estimator=fade ...

verl calls an estimator on the driver, once for each step, with token-level rewards, the response
mask and the prompts' uids. It says nothing of the step or of the policy, and its checkpoints know
no estimator: `connect` wraps the methods of a trainer class that know the entropy and the folder.
Batches of validation get no advantages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from verl.trainer.ppo.core_algos import (  # pyright: ignore[reportMissingImports]
    agg_loss,
    register_adv_est,
)

from fade_jax.integrations.host import HostAdvantage, HostArray
from fade_jax.transforms import AdvantageTransformation

STATE_FILE = "fade_jax_{name}.json"
# Modes of aggregation whose result is a mean token entropy.
_MEANS = ("token-mean", "seq-mean-token-mean")


class RegisteredEstimator:
    """A transformation as verl calls it.

    Attributes:
      name: in verl's registry.
      advantage: what computes the advantages, and holds the state; save its `state_dict` if
        `connect` does not.
    """

    def __init__(self, name: str, advantage: HostAdvantage):
        self.name = name
        self.advantage = advantage
        self._next: dict[str, HostArray] = {}

    def observe(self, **statistics: HostArray) -> None:
        """Give statistics of the batch whose advantages verl asks for next.

        They serve that one batch: without new ones the next batch raises, rather than move on old
        values.

        Args:
          **statistics: scalars, such as `entropy`, the mean token entropy of the batch in nats; or
            one value for each row, `[N]`.
        """
        self._next |= statistics

    def __call__(
        self,
        token_level_rewards: Any,
        response_mask: Any,
        index: Any,
        config: Any = None,
        **others: Any,
    ) -> tuple[Any, Any]:
        """Advantages of one batch, as verl asks for them.

        Args:
          token_level_rewards: `[N, T]`; summed over the response, they are the reward of a row.
          response_mask: `[N, T]`, true for the tokens of the response.
          index: `[N]`, the uid of each row's prompt.
          config: verl's `algorithm`; not read.
          **others: what verl gives to some of its own estimators; not read.

        Returns:
          advantages and returns, both `[N, T]` and the same.
        """
        del config, others
        statistics, self._next = self._next, {}
        advantages = self.advantage(
            token_level_rewards,
            index,
            mask=response_mask,
            **{"lengths": response_mask.sum(dim=-1), **statistics},
        )
        return advantages, advantages


def register(
    name: str, transformation: AdvantageTransformation, *, per_group: Sequence[str] = ()
) -> RegisteredEstimator:
    """Registers a transformation, such as `fade_jax.transforms.fade()`, with verl.

    `algorithm.adv_estimator=name` then uses it. The transformation is given the statistic
    `lengths`, tokens of each response; one that reads `entropy` gets it from `connect` or from
    `observe`.

    Args:
      name: for `algorithm.adv_estimator`; not one of verl's own.
      transformation: from `fade_jax.transforms`.
      per_group: as in `HostAdvantage`.

    Returns:
      what was registered.

    Raises:
      ValueError: if the name is taken, or `transformation` is not an `AdvantageTransformation`.
    """
    estimator = RegisteredEstimator(name, HostAdvantage(transformation, per_group=per_group))
    register_adv_est(name)(estimator)
    return estimator


def connect(trainer_class: type, estimator: RegisteredEstimator) -> None:
    """Feeds an estimator with the policy's entropy, and keeps its state in verl's checkpoints.

    verl computes the entropy with the old log-probabilities; in `rollout_correction.bypass_mode`
    it computes neither, and a transformation that reads the entropy raises. The state is
    `fade_jax_NAME.json` in the folder `global_step_N`; a checkpoint without it leaves the state as
    it is.

    Args:
      trainer_class: `verl.trainer.ppo.v1.trainer_base.PPOTrainer`, `RayPPOTrainer` or a subclass;
        its methods are replaced.
      estimator: from `register`.

    Raises:
      ValueError: at a step, if `loss_agg_mode` of the actor makes no mean of the token entropies.
    """
    compute_old_log_prob = trainer_class._compute_old_log_prob
    save_checkpoint, load_checkpoint = (
        trainer_class._save_checkpoint,
        trainer_class._load_checkpoint,
    )

    @wraps(compute_old_log_prob)
    def compute_and_observe(self: Any, batch: Any, *args: Any, **keywords: Any) -> Any:
        result = compute_old_log_prob(self, batch, *args, **keywords)
        if isinstance(result, tuple):  # RayPPOTrainer: (DataProto, utilization)
            entropy = agg_loss(
                result[0].batch["entropys"], batch.batch["response_mask"], "token-mean"
            )
            estimator.observe(entropy=entropy)
            return result
        metrics = keywords["metrics"] if "metrics" in keywords else args[0]
        if "actor/entropy" in metrics:
            mode = self.config.actor_rollout_ref.actor.loss_agg_mode
            if mode not in _MEANS:
                raise ValueError(f"actor.loss_agg_mode must be one of {_MEANS}, got {mode!r}")
            estimator.observe(entropy=metrics["actor/entropy"])
        return result

    file_name = STATE_FILE.format(name=estimator.name)

    @wraps(save_checkpoint)
    def save_with_state(self: Any) -> None:
        # First, since verl marks the checkpoint as the latest one at the end of its own method.
        path = Path(self.config.trainer.default_local_dir, f"global_step_{self.global_steps}")
        path.mkdir(parents=True, exist_ok=True)
        (path / file_name).write_text(json.dumps(estimator.advantage.state_dict()))
        save_checkpoint(self)

    @wraps(load_checkpoint)
    def load_with_state(self: Any) -> Any:
        result = load_checkpoint(self)
        config = self.config.trainer
        path = Path(config.default_local_dir, f"global_step_{self.global_steps}")
        if config.resume_mode == "resume_path":
            path = Path(config.resume_from_path)
        if self.global_steps > 0 and (path / file_name).exists():
            saved = json.loads((path / file_name).read_text())
            estimator.advantage.load_state_dict(saved)
        return result

    trainer_class._compute_old_log_prob = compute_and_observe
    trainer_class._save_checkpoint = save_with_state
    trainer_class._load_checkpoint = load_with_state
