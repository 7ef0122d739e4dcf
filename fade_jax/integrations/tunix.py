"""Advantages in google-tunix's registry: ours there, and theirs here.

    register("power_2", partial(fade_jax.power, alpha=2.0))

    fade = register_transformation("fade", transforms.fade())
    watch_rollouts(rl_cluster, fade)  # of a cluster with RolloutConfig(return_logprobs=True)

    config = GRPOConfig(advantage_estimator="fade", num_generations=8)
    GRPOLearner(rl_cluster, config, reward_fns).train(prompts)

tunix calls an estimator on the host, once for each batch of rollouts, with flat rewards `[B·G]` in
which the G rollouts of a prompt are neighbors, and says neither whether the batch is one of
evaluation nor anything of the policy. A batch of rollouts is the least common multiple of
`rollout_micro_batch_size` and `compute_logps_micro_batch_size` in prompts, both by default the
training micro-batch: with accumulated gradients FADE's averages move several times in a step.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from tunix.rl import function_registry  # pyright: ignore[reportMissingImports]
from tunix.rl.rl_cluster import Mode  # pyright: ignore[reportMissingImports]

from fade_jax.transforms import AdvantageState, AdvantageTransformation


class StatefulEstimator:
    """A transformation as tunix calls it, and the state that it moves.

    tunix's registry takes a plain function, so the state has to live outside the training loop:
    it lives here alone. tunix's checkpoints do not hold it; save `state` beside them and set it
    again before training goes on. `optax.tree_utils.tree_get(fade.state, "alpha")` reads FADE's α.
    """

    def __init__(self, transformation: AdvantageTransformation):
        self._transformation = transformation
        self._state = transformation.init()
        self._next = _NextBatch()

    @property
    def state(self) -> AdvantageState:
        """The transformation's state after the last batch of training, a tree of arrays.

        Raises:
          ValueError: if it is set to a tree of another structure.
        """
        return self._state

    @state.setter
    def state(self, state: AdvantageState) -> None:
        expected, given = jax.tree.structure(self._state), jax.tree.structure(state)
        if given != expected:
            raise ValueError(f"state must have the structure {expected}, got {given}")
        self._state = jax.tree.map(jnp.asarray, state)

    def observe(self, *, training: bool = True, **statistics: Any) -> None:
        """Give statistics of the batch whose advantages this thread asks for next.

        They serve that one batch: without new ones the next batch raises, rather than move on old
        values. `watch_rollouts` calls this; a reward function may too, since tunix calls it in the
        same thread, after the rollouts and before the advantages.

        Args:
          training: whether the state moves; for a batch of evaluation it must not.
          **statistics: scalars, such as `entropy`, the mean token entropy of the batch in nats; or
            one value for each rollout, flat `[B·G]`, such as `lengths`.
        """
        self._next.training = training
        self._next.statistics |= statistics

    def __call__(self, rewards: ArrayLike, num_generations: int) -> np.ndarray:
        """Advantages of one batch of rollouts.

        Args:
          rewards: `[B·G]`, the rollouts of a prompt beside each other.
          num_generations: G.

        Returns:
          `[B·G]`, float32.

        Raises:
          ValueError: if `rewards` is not made of such groups, or a statistic that the
            transformation reads has not been observed for this batch.
        """
        training, statistics = self._next.take()
        groups = _groups(rewards, num_generations)
        statistics = {
            name: _groups(value, num_generations) if np.ndim(value) else value
            for name, value in statistics.items()
        }
        advantages, state = self._transformation.update(groups, self._state, **statistics)
        if training:
            self._state = state
        return _flat(advantages, groups)


class _NextBatch(threading.local):
    """What each thread knows of its next batch.

    tunix prepares the batches of training and those of evaluation in two threads, at the same
    time where the sampler has a mesh of its own.
    """

    def __init__(self):
        self.training, self.statistics = True, {}

    def take(self) -> tuple[bool, dict[str, Any]]:
        taken = self.training, self.statistics
        self.training, self.statistics = True, {}
        return taken


def register(name: str, advantage_fn: Callable[[jax.Array], ArrayLike]) -> None:
    """Register an advantage without state with tunix.

    `GRPOConfig(advantage_estimator=name)` then uses it. tunix replaces a name that is taken, one
    of its own included, and logs a warning.

    Args:
      name: for `advantage_estimator`.
      advantage_fn: rewards `[B, G]`, float32, to advantages of that shape: any function of
        `fade_jax.advantages` with its hyperparameters bound, or one from
        `fade_jax.synthesis.synthesize`.

    Raises:
      ValueError: if `advantage_fn` needs more than the rewards; and, at a batch, if the rewards
        are not whole groups or the result has another shape.
    """
    try:
        inspect.signature(advantage_fn).bind(None)
    except TypeError as error:
        raise ValueError(
            f"advantage_fn must be callable with the rewards alone, got {advantage_fn}: {error}"
        ) from None

    def estimator(rewards: ArrayLike, num_generations: int) -> np.ndarray:
        groups = _groups(rewards, num_generations)
        return _flat(advantage_fn(groups), groups)

    function_registry.register_advantage_estimator(name)(estimator)


def register_transformation(
    name: str, transformation: AdvantageTransformation
) -> StatefulEstimator:
    """Register a transformation, such as `fade_jax.transforms.fade()`, with tunix.

    A transformation that reads statistics, as FADE reads `entropy`, gets them from
    `watch_rollouts` or from `observe`. One that moves with every batch needs `watch_rollouts` even
    if it reads nothing, wherever tunix is given batches of evaluation.

    This is for tunix's `GRPOLearner`. Its agentic learner asks for the advantages of each group
    alone, so that the statistics of a batch are those of one prompt.

    Args:
      name: for `advantage_estimator`; tunix replaces a name that is taken.
      transformation: from `fade_jax.transforms`.

    Returns:
      what was registered; it holds the state.

    Raises:
      ValueError: if `transformation` is not an `AdvantageTransformation`.
    """
    if not isinstance(transformation, AdvantageTransformation):
        raise ValueError(f"transformation must be an AdvantageTransformation, got {transformation}")
    estimator = StatefulEstimator(transformation)
    function_registry.register_advantage_estimator(name)(estimator)
    return estimator


def watch_rollouts(rl_cluster: Any, estimator: StatefulEstimator) -> None:
    """Feed an estimator from the rollouts of a cluster, and hold its state still in evaluation.

        entropy = -Σ_t log π(y_t) / (number of tokens),   lengths = tokens of each rollout

    The entropy is a sampled one: unbiased for the mean token entropy of the policy at the
    rollout's temperature if nothing is cut off (`top_p` 1, no `top_k`), too low otherwise. For
    the exact one call `estimator.observe(entropy=...)` in a reward function.

    Wraps `rl_cluster.generate`, the one call from which tunix gets its rollouts.

    Args:
      rl_cluster: a `tunix.RLCluster`, before training.
      estimator: from `register_transformation`.

    Raises:
      ValueError: if a rollout config of the cluster does not ask for log-probabilities.
    """
    configs = rl_cluster.cluster_config.rollout_config
    for config in configs.values() if isinstance(configs, dict) else [configs]:
        if not config.return_logprobs:
            raise ValueError("RolloutConfig.return_logprobs must be True, got False")
    generate = rl_cluster.generate

    def watched(
        prompts: Any, apply_chat_template: bool = False, mode: Mode = Mode.TRAIN, **keywords: Any
    ) -> Any:
        rollouts = generate(prompts, apply_chat_template, mode, **keywords)
        estimator.observe(
            training=mode == Mode.TRAIN,
            entropy=_sampled_entropy(rollouts.logprobs),
            lengths=np.array([len(tokens) for tokens in rollouts.tokens]),
        )
        return rollouts

    rl_cluster.generate = watched


def advantage_from_registry(name: str) -> Callable[[ArrayLike], jax.Array]:
    """An advantage registered with tunix, in the convention of this library.

        gradient_masses(advantage_from_registry("grpo"), solve_rate=0.3, group_size=8)

    Mind the constants when comparing: tunix's "grpo" has ddof = 1 and ε = 1e-6 as `fade_jax.grpo`,
    and the mean without the deviation is "drgrpo".

    Args:
      name: of an estimator of `rewards` and `num_generations` alone.

    Returns:
      rewards `[..., group]` to advantages of that shape, float32. The estimator runs in numpy and
      float64 as under tunix: the function cannot be traced by `jax.jit`.

    Raises:
      ValueError: if there is no such estimator, it needs more than the rewards, or a call would
        move its state.
    """
    try:
        estimator = function_registry.get_advantage_estimator(name)
    except LookupError:
        known = function_registry.default_registry.list_functions("advantage_estimator")
        raise ValueError(f"name must be one of {', '.join(sorted(known))}, got {name!r}") from None
    if isinstance(estimator, StatefulEstimator):
        raise ValueError(
            f"name must be that of an estimator without state, got {name!r}: decompose "
            "`fade_jax.fade` at the alpha and delta of its state"
        )
    try:
        inspect.signature(estimator).bind(rewards=None, num_generations=None)
    except TypeError as error:
        raise ValueError(
            "name must be that of an estimator of rewards and num_generations alone, "
            f"got {name!r}: {error}"
        ) from None

    def advantage(rewards: ArrayLike) -> jax.Array:
        groups = np.asarray(rewards, np.float64)
        advantages = estimator(rewards=groups.reshape(-1), num_generations=groups.shape[-1])
        return jnp.asarray(advantages, jnp.float32).reshape(groups.shape)

    return advantage


def _groups(flat: ArrayLike, num_generations: int) -> jax.Array:
    """`[B·G]` to `[B, G]`."""
    shape = np.shape(flat)
    if len(shape) != 1 or shape[0] % num_generations:
        raise ValueError(
            f"rewards and statistics of the rollouts must be flat, in whole groups of "
            f"num_generations = {num_generations}, got shape {shape}"
        )
    return jnp.asarray(flat, jnp.float32).reshape(-1, num_generations)


def _flat(advantages: ArrayLike, groups: jax.Array) -> np.ndarray:
    """`[B, G]` to `[B·G]`."""
    if np.shape(advantages) != groups.shape:
        raise ValueError(
            f"an advantage must return the shape of the rewards, {groups.shape}, "
            f"got {np.shape(advantages)}"
        )
    return np.asarray(advantages, np.float32).reshape(-1)


def _sampled_entropy(log_probs: Sequence[ArrayLike]) -> float:
    # In numpy: a batch has its own number of tokens, and each would be compiled anew.
    each = np.concatenate([np.asarray(one, np.float64) for one in log_probs])
    return -float(np.mean(each)) if each.size else np.nan
