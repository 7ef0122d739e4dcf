"""The pure part of training: train state, policy update, SFT update.

`policy_update` sits between a sampling loop and optax. It knows the advantage only as a
transformation, so that every ablation is the same step. Below: rollout, advantages. Above:
step_functions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from experiments import advantages
from experiments.config import Config
from experiments.models import transformer
from experiments.models.config import ModelConfig
from experiments.optimizers import make_optimizer, sft_optimizer
from experiments.resampling import overlong_punishment
from experiments.rollout import Rollouts, completion_log_probs
from fade_jax import losses
from fade_jax.diagnostics import batch_metrics
from fade_jax.losses import Total, constant_length_mean, sequence_mean, token_mean
from fade_jax.transforms import init_prompts


def sequence_sum(losses, mask) -> Total:
    """Sums over tokens and averages over rollouts: (1/PG) Σ_i Σ_t."""
    return constant_length_mean(losses, mask, length=1)


# By config.learner.reduction: (losses, mask) -> (sum, denominator). The two stay apart, so that
# gradient accumulation and sharding divide once.
REDUCTIONS = {
    "sequence_sum": sequence_sum,
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
}


class TrainState(NamedTuple):
    """Everything a run carries from one step to the next; all of it is in a checkpoint.

    Attributes:
      step: int32 []; updates of the policy from rollouts so far, which is also the position in the
        data: the prompts of a step are a function of (seed, step).
      params: float32 parameters.
      opt_state: of optax.
      advantage_state: of the advantage transformation(s).
      key: base PRNG key; step keys are folded in from it.
      initial_head: float32 [V, D]; the output head before RL, to measure how it moved. Empty
        without learner.head_rank.
      past_params: the parameters of the last k = learner.staleness steps, stacked [k, ...]; those
        of step t at t mod k. Empty where k = 0.
      solve_rates: PromptState of the training prompts; empty without a curriculum.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    advantage_state: Any
    key: jax.Array
    initial_head: Any
    past_params: Any
    solve_rates: Any = ()


class PlainState(NamedTuple):
    """A TrainState without solve rates, as checkpoints have held it since before there were any."""

    step: jax.Array
    params: Any
    opt_state: Any
    advantage_state: Any
    key: jax.Array
    initial_head: Any
    past_params: Any


class Hyperparameters(NamedTuple):
    """What a compiled program takes as traced values."""

    seed: ArrayLike  # uint32 []
    learning_rate: ArrayLike  # float32 []
    advantage: advantages.Choice


def hyperparameters(config: Config, members) -> Hyperparameters:
    """The traced values of a run."""
    return Hyperparameters(
        np.uint32(config.seed),
        np.float32(config.optimizer.learning_rate),
        advantages.choose(members, config.advantage.name, config.advantage.kwargs.to_dict()),
    )


class Batch(NamedTuple):
    """What one gradient update reads; leading axis P."""

    prompts: jax.Array  # int32 [P, S]
    length: jax.Array  # int32 [P]
    completions: jax.Array  # int32 [P, G, T]
    mask: jax.Array  # float32 [P, G, T]
    old_log_probs: jax.Array  # float32 [P, G, T]
    advantages: jax.Array  # float32 [P, G]


def init_state(
    model: ModelConfig, settings, members, hyper: Hyperparameters, params, num_prompts: int = 0
) -> TrainState:
    """Returns the state before the first step.

    Args:
      model: static model config.
      settings: the run's config.
      members: the advantage members the program is compiled for.
      hyper: traced hyperparameters.
      params: where training starts.
      num_prompts: whose solve rates the state keeps.
    """
    optimizer = make_optimizer(settings.optimizer, hyper.learning_rate)
    lag = settings.learner.staleness
    repeat = partial(jnp.repeat, repeats=lag, axis=0)
    head = transformer.unembedding(model, params)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        advantage_state=advantages.init(members, hyper.advantage),
        key=jax.random.key(hyper.seed),
        initial_head=jnp.copy(head) if settings.learner.head_rank else (),
        past_params=jax.tree.map(lambda p: repeat(p[None]), params) if lag else (),
        solve_rates=init_prompts(num_prompts) if num_prompts else (),
    )


def to_checkpoint(state: TrainState, hyper: Hyperparameters) -> TrainState | PlainState:
    """Returns what a checkpoint holds: nothing that depends on the other runs of a sweep."""
    own = advantages.own_state(hyper.advantage, state.advantage_state)
    state = state._replace(advantage_state=own)
    return state if state.solve_rates else PlainState(*state[:-1])


def behavior_params(settings, state: TrainState):
    """Returns the parameters that sample the rollouts: those of `learner.staleness` steps ago.

    In the first steps they are the initial ones.
    """
    lag = settings.learner.staleness
    if not lag:
        return state.params
    return jax.tree.map(lambda past: past[state.step % lag], state.past_params)


def push_past_params(settings, state: TrainState):
    """Returns the past parameters after a step: the current ones replace the oldest."""
    lag = settings.learner.staleness
    if not lag:
        return ()
    return jax.tree.map(
        lambda past, now: past.at[state.step % lag].set(now), state.past_params, state.params
    )


def policy_update(
    model: ModelConfig,
    settings,
    members,
    state: TrainState,
    hyper: Hyperparameters,
    prompts,
    rollouts: Rollouts,
    rewards: jax.Array,
    known: jax.Array | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Computes advantages, then makes epochs of minibatch updates on one batch of rollouts.

    Args:
      model: static model config.
      settings: the run's config.
      members: the advantage members the program is compiled for.
      state: before the step.
      hyper: traced hyperparameters.
      prompts: P prompts.
      rollouts: [P, G, T].
      rewards: float32 [P, G].
      known: bool [P, G], false for rollouts whose reward is unknown: they count neither in
        advantages nor in the loss. None if all are known.

    Returns:
      The state after the step, and a dict of float32 metrics.
    """
    mask, entropies = rollouts.token_mask, rollouts.entropies
    lengths = jnp.sum(mask, axis=-1)
    statistics = {} if isinstance(prompts.index, tuple) else {"prompt": prompts.index}
    if known is not None:
        mask, entropies = mask * known[..., None], entropies * known[..., None]
        rewards = jnp.where(known, rewards, 0)
        statistics["where"] = known
    tokens = jnp.maximum(jnp.sum(mask), 1)
    entropy = jnp.sum(entropies) / tokens
    shaped = rewards
    if settings.learner.overlong_buffer:
        punishment = overlong_punishment(
            lengths, max_tokens=mask.shape[-1], buffer=settings.learner.overlong_buffer
        )
        shaped = rewards - settings.learner.overlong_penalty * punishment
    weights, advantage_state, readings = advantages.update(
        members,
        hyper.advantage,
        shaped,
        state.advantage_state,
        entropy=entropy,
        lengths=jnp.sum(mask, axis=-1),
        **statistics,
    )
    if settings.learner.equalize_mass:
        weights = advantages.equalize_mass(weights, rewards)
    batch = Batch(
        prompts.tokens, prompts.length, rollouts.tokens, mask, rollouts.log_probs, weights
    )
    reduce = REDUCTIONS[settings.learner.reduction]
    low, high = settings.learner.clip_low, settings.learner.clip_high

    def loss(params, batch):
        log_probs = completion_log_probs(
            model,
            params,
            batch.prompts,
            batch.length,
            batch.completions,
            temperature=settings.sampling.temperature,
            vocabulary_shards=settings.mesh.tensor,
        )
        arguments = log_probs, batch.old_log_probs, batch.advantages
        bounds = {"low": low, "high": high, "where": batch.mask}
        token_losses = losses.clipped_surrogate(*arguments, **bounds)
        clipped = jnp.sum(losses.is_clipped(*arguments, **bounds), dtype=jnp.float32)
        return reduce(token_losses, batch.mask)[0], clipped

    def update(carry, indices):
        minibatch = jax.tree.map(lambda x: x[indices], batch) if indices is not None else batch
        params, opt_state = carry
        return gradient_update(
            loss,
            make_optimizer(settings.optimizer, hyper.learning_rate),
            params,
            opt_state,
            minibatch,
            denominator=_at_least_one(reduce(jnp.zeros_like(minibatch.mask), minibatch.mask)[1]),
            microbatches=settings.learner.microbatches,
        )

    carry = state.params, state.opt_state
    updates = settings.learner.epochs * settings.learner.minibatches
    if updates == 1:
        carry, metrics = update(carry, None)
    else:
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)
        orders = jax.vmap(lambda k: jax.random.permutation(k, rewards.shape[0]))(
            jax.random.split(key, settings.learner.epochs)
        )
        carry, metrics = jax.lax.scan(update, carry, orders.reshape(updates, -1))
        metrics = jax.tree.map(jnp.mean, metrics)
    clipped = metrics.pop("clipped") * settings.learner.minibatches / tokens
    logged = batch_metrics(rewards, weights, entropies, where=mask)._asdict()
    metrics |= {name: value for name, value in logged.items() if value is not None}
    metrics |= readings | {"entropy": entropy, "clip_fraction": clipped}
    state = state._replace(
        step=state.step + 1,
        params=carry[0],
        opt_state=carry[1],
        advantage_state=advantage_state,
        past_params=push_past_params(settings, state),
    )
    return state, metrics


def _at_least_one(denominator: jax.Array) -> jax.Array:
    """A batch in which nothing counts has a loss of 0, not NaN."""
    return jnp.where(denominator > 0, denominator, 1)


def sft_update(model: ModelConfig, settings, params, opt_state, demonstrations):
    """Makes one supervised update: a policy gradient with weight 1 on demonstrations.

    Args:
      model: static model config.
      settings: the run's config; its warm_start and optimizer are read.
      params: parameters.
      opt_state: of the warm start's optimizer.
      demonstrations: P prompts with one completion each.

    Returns:
      ((params, opt_state), metrics).
    """
    tokens, mask = demonstrations.tokens[:, None], demonstrations.token_mask[:, None]
    ones = jnp.ones(tokens.shape[:2])
    prompts = demonstrations.prompts
    batch = Batch(prompts.tokens, prompts.length, tokens, mask, jnp.zeros_like(mask), ones)

    def loss(params, batch):
        log_probs = completion_log_probs(
            model,
            params,
            batch.prompts,
            batch.length,
            batch.completions,
            vocabulary_shards=settings.mesh.tensor,
        )
        token_losses = losses.policy_gradient(log_probs, batch.advantages, where=batch.mask)
        return token_mean(token_losses, batch.mask)[0], jnp.float32(0)

    carry, metrics = gradient_update(
        loss,
        sft_optimizer(settings),
        params,
        opt_state,
        batch,
        denominator=jnp.sum(mask),
        microbatches=1,
    )
    del metrics["clipped"]
    return carry, metrics


def gradient_update(
    loss: Callable,
    optimizer: optax.GradientTransformation,
    params,
    opt_state,
    batch: Batch,
    *,
    denominator: jax.Array,
    microbatches: int,
):
    """Makes one optimizer update of sum(loss) / denominator, accumulated over microbatches.

    Args:
      loss: (params, batch) -> (sum over the batch, number of clipped tokens).
      optimizer: of optax.
      params: parameters.
      opt_state: of `optimizer`.
      batch: leading axis P.
      denominator: of the whole batch.
      microbatches: number of equal parts of the batch that are held in memory one after another;
        from 2 on, parts without a gradient take no time.

    Returns:
      ((params, opt_state), metrics): loss, clipped (a count) and gradient_norm (before clipping).
    """
    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    if microbatches == 1:
        (total, clipped), gradient = value_and_grad(params, batch)
    else:
        # Groups whose advantages are all 0 add nothing to loss or gradient: they come last, and the
        # microbatches that hold nothing else are left out.
        counts = jnp.any(batch.advantages != 0, axis=-1)
        order = jnp.argsort(~counts, stable=True)
        parts = jax.tree.map(lambda x: x[order].reshape(microbatches, -1, *x.shape[1:]), batch)
        needed = -(-jnp.sum(counts) // (counts.size // microbatches))

        def accumulate(index, sums):
            part = jax.tree.map(lambda x: x[index], parts)
            return jax.tree.map(jnp.add, sums, value_and_grad(params, part))

        zeros = (jnp.float32(0), jnp.float32(0)), jax.tree.map(jnp.zeros_like, params)
        (total, clipped), gradient = jax.lax.fori_loop(0, needed, accumulate, zeros)
    gradient = jax.tree.map(lambda g: g / denominator, gradient)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    metrics = {
        "loss": total / denominator,
        "clipped": clipped,
        "gradient_norm": optax.tree_utils.tree_norm(gradient),
    }
    return (optax.apply_updates(params, updates), opt_state), metrics
