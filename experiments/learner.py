"""The pure part of training: train state, policy update, SFT update.

`policy_update` sits between a sampling loop and optax. It knows the advantage only as a
transformation and the loss only by name, so that every ablation is the same step. Below: scoring,
advantages, objective, gradients. Above: step_functions.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from experiments import advantages, objective, policy
from experiments.config import Config
from experiments.gradients import Batch, Parts, gradient_update, has_gradient
from experiments.models import transformer
from experiments.models.config import ModelConfig
from experiments.objective import REDUCTIONS, Coefficients, Compared
from experiments.optimizers import make_optimizer, sft_optimizer
from experiments.resampling import overlong_punishment
from experiments.rollout import Rollouts, completion_log_probs
from experiments.scoring import log_probs_in_parts, pack_batch, part_log_probs
from fade_jax import losses
from fade_jax.diagnostics import batch_metrics
from fade_jax.losses import token_mean
from fade_jax.transforms import init_prompts


class TrainState(NamedTuple):
    """Everything a run carries from one step to the next; all of it is in a checkpoint.

    Attributes:
      step: int32 []; updates of the policy from rollouts so far, which is also the position in the
        data: the prompts of a step are a function of (seed, step).
      params: float32 parameters; with config.lora the adapters alone.
      opt_state: of optax.
      advantage_state: of the advantage transformation(s).
      key: base PRNG key; step keys are folded in from it.
      initial_head: float32 [V, D]; the output head before RL, to measure how it moved. Empty
        unless policy.measures_head.
      past_params: the parameters of the last k = learner.staleness steps, stacked [k, ...]; those
        of step t at t mod k. Empty where k = 0.
      reference: of the policy that a KL term compares with (policy.reference). Empty without one.
      controllers: of the schedules of the KL and the entropy coefficient.
      solve_rates: PromptState of the training prompts; empty without a curriculum.
      base: the frozen parameters beside adapters; in no checkpoint. Empty without config.lora.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    advantage_state: Any
    key: jax.Array
    initial_head: Any
    past_params: Any
    reference: Any = ()
    controllers: Any = ()
    solve_rates: Any = ()
    base: Any = ()


class Hyperparameters(NamedTuple):
    """What a compiled program takes as traced values."""

    seed: ArrayLike  # uint32 []
    learning_rate: ArrayLike  # float32 []
    advantage: advantages.Choice
    loss: Mapping[str, ArrayLike]  # float32 [] each; the arguments of the token loss
    coefficients: Coefficients


def hyperparameters(config: Config, members) -> Hyperparameters:
    """The traced values of a run."""
    return Hyperparameters(
        np.uint32(config.seed),
        np.float32(config.optimizer.learning_rate),
        advantages.choose(members, config.advantage.name, config.advantage.kwargs.to_dict()),
        objective.traced_arguments(config),
        Coefficients(
            np.float32(config.learner.kl.coefficient),
            np.float32(config.learner.entropy.coefficient),
        ),
    )


def init_state(
    model: ModelConfig,
    settings,
    members,
    hyper: Hyperparameters,
    params,
    reference=None,
    *,
    num_prompts: int = 0,
) -> TrainState:
    """Returns the state before the first step.

    Args:
      model: static model config.
      settings: the run's config.
      members: the advantage members the program is compiled for.
      hyper: traced hyperparameters.
      params: where training starts.
      reference: parameters that a KL term compares with; `params` if None.
      num_prompts: whose solve rates the state keeps.
    """
    optimizer = make_optimizer(settings.optimizer, hyper.learning_rate)
    lag = settings.learner.staleness
    repeat = partial(jnp.repeat, repeats=lag, axis=0)
    key = jax.random.key(hyper.seed)
    head = transformer.unembedding(model, params)
    params, base = policy.split(settings, model, params, key)
    if reference is None:
        reference = policy.reference(settings, model, params, base)
    else:
        reference = transformer.cast_for_sampling(model, reference)
    # Copied: a buffer that is donated twice would be an error.
    copy = partial(jax.tree.map, jnp.copy)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        advantage_state=advantages.init(members, hyper.advantage),
        key=key,
        initial_head=jnp.copy(head) if policy.measures_head(settings) else (),
        past_params=jax.tree.map(lambda p: repeat(p[None]), params) if lag else (),
        reference=copy(reference) if objective.has_kl(settings) else (),
        controllers=objective.init_controllers(settings),
        solve_rates=init_prompts(num_prompts) if num_prompts else (),
        base=base,
    )


def to_checkpoint(state: TrainState, hyper: Hyperparameters) -> TrainState:
    """Returns what a checkpoint holds: nothing of the other runs of a sweep, and no frozen base."""
    own = advantages.own_state(hyper.advantage, state.advantage_state)
    return state._replace(advantage_state=own, base=())


def behavior_params(settings, state: TrainState):
    """Returns the policy that samples the rollouts: that of `learner.staleness` steps ago.

    In the first steps it is the initial one.
    """
    params, lag = state.params, settings.learner.staleness
    if lag:
        params = jax.tree.map(lambda past: past[state.step % lag], state.past_params)
    return policy.join(settings, params, state.base)


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
    statistics = {} if isinstance(prompts.index, tuple) else {"prompt": prompts.index}
    if known is not None:
        rollouts = rollouts._replace(
            token_mask=rollouts.token_mask * known[..., None],
            entropies=rollouts.entropies * known[..., None],
        )
        rewards = jnp.where(known, rewards, 0)
        statistics["where"] = known
    mask = rollouts.token_mask
    lengths = jnp.sum(mask, axis=-1)
    tokens = jnp.maximum(jnp.sum(lengths), 1)
    entropy = jnp.sum(rollouts.entropies) / tokens
    compared = _compare(model, settings, state, prompts, rollouts)
    counted = rewards.size if known is None else jnp.maximum(jnp.sum(known), 1)
    coefficients, controllers = objective.update_coefficients(
        settings,
        hyper.coefficients,
        state.controllers,
        entropy=entropy,
        solve_rate=jnp.sum(rewards) / counted,
        length=jnp.sum(lengths) / counted,
        **({"kl": jnp.sum(compared.divergence) / tokens} if objective.has_kl(settings) else {}),
    )
    weights, advantage_state, readings = advantages.update(
        members,
        hyper.advantage,
        _shaped_rewards(settings, rewards, lengths, coefficients, compared),
        state.advantage_state,
        entropy=entropy,
        lengths=lengths,
        **statistics,
    )
    if settings.learner.equalize_mass:
        weights = advantages.equalize_mass(weights, rewards)
    batch = Batch(
        prompts=prompts.tokens,
        length=prompts.length,
        completions=rollouts.tokens,
        mask=mask,
        sampler_log_probs=rollouts.log_probs,
        old_log_probs=compared.old_log_probs,
        advantages=weights,
        importance=compared.importance,
        reference_log_probs=compared.reference_log_probs,
    )
    (params, opt_state), metrics = _update_on(model, settings, state, hyper, coefficients, batch)
    logged = batch_metrics(rewards, weights, rollouts.entropies, where=mask)._asdict()
    metrics |= {name: value for name, value in logged.items() if value is not None}
    metrics |= readings | {"entropy": entropy}
    metrics |= objective.term_metrics(settings, coefficients, compared, mask)
    state = state._replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        advantage_state=advantage_state,
        past_params=push_past_params(settings, state),
        reference=_refreshed(model, settings, state, params),
        controllers=controllers,
    )
    return state, metrics


def _compare(model: ModelConfig, settings, state: TrainState, prompts, rollouts) -> Compared:
    """Computes what the terms of the objective need from other policies than the one that moves."""
    old_log_probs, importance, reference, divergence = rollouts.log_probs, (), (), ()
    log_probs = partial(log_probs_in_parts, model, settings, prompts, rollouts)
    if cap := settings.learner.importance_cap:
        old_log_probs = log_probs(policy.join(settings, state.params, state.base))
        importance = objective.truncated_importance(old_log_probs, rollouts.log_probs, cap)
    if objective.has_kl(settings):
        reference = log_probs(policy.join_reference(settings, state.reference, state.base))
        estimator = objective.KL_ESTIMATORS[settings.learner.kl.estimator]
        divergence = estimator(rollouts.log_probs, reference) * rollouts.token_mask
    return Compared(old_log_probs, importance, reference, divergence)


def _shaped_rewards(settings, rewards, lengths, coefficients, compared: Compared) -> jax.Array:
    """Takes the punishment of overlong completions and a KL term off the rewards."""
    if buffer := settings.learner.overlong_buffer:
        longest = compared.old_log_probs.shape[-1]
        punishment = overlong_punishment(lengths, max_tokens=longest, buffer=buffer)
        rewards = rewards - settings.learner.overlong_penalty * punishment
    if settings.learner.kl.coefficient != 0 and settings.learner.kl.place == "reward":
        rewards = rewards - coefficients.kl * jnp.sum(compared.divergence, axis=-1)
    return rewards


def _update_on(model, settings, state: TrainState, hyper, coefficients, batch: Batch):
    """Makes epochs of minibatch updates; returns ((params, opt_state), metrics)."""
    reduce = REDUCTIONS[settings.learner.reduction]
    skip_flat = not objective.counts_all_rollouts(settings)
    longest = batch.mask.shape[-1]

    def loss(params, part):
        params = policy.join(settings, params, state.base)
        part, found = part_log_probs(model, settings, params, part, longest)
        return objective.batch_loss(settings, hyper.loss, coefficients, part, *found)

    def update(carry, indices):
        params, opt_state = carry
        minibatch = jax.tree.map(lambda x: x[indices], batch) if indices is not None else batch
        denominator = reduce(jnp.zeros_like(minibatch.mask), minibatch.mask)[1]
        packed = None
        if settings.learner.packed_tokens:
            packed = pack_batch(model, settings, minibatch, has_gradient(minibatch, skip_flat))
        return gradient_update(
            loss,
            make_optimizer(settings.optimizer, hyper.learning_rate),
            params,
            opt_state,
            minibatch,
            # A batch in which nothing counts has a loss of 0, not NaN.
            denominator=jnp.where(denominator > 0, denominator, 1),
            microbatches=settings.learner.microbatches,
            skip_flat=skip_flat,
            chunks=packed and (packed.chunks, packed.take),
        )

    carry = state.params, state.opt_state
    updates = settings.learner.epochs * settings.learner.minibatches
    if updates == 1:
        carry, (metrics, parts) = update(carry, None)
        first = parts
    else:
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)
        orders = jax.vmap(lambda k: jax.random.permutation(k, len(batch.mask)))(
            jax.random.split(key, settings.learner.epochs)
        )
        carry, (metrics, parts) = jax.lax.scan(update, carry, orders.reshape(updates, -1))
        first = jax.tree.map(lambda x: x[0], parts)  # before the policy has moved
        metrics, parts = jax.tree.map(jnp.mean, (metrics, parts))
    clipped = parts.sums["clipped"] * settings.learner.minibatches
    metrics["clip_fraction"] = clipped / jnp.maximum(jnp.sum(batch.mask), 1)
    return carry, metrics | objective.mismatch_metrics(first)


def _refreshed(model: ModelConfig, settings, state: TrainState, params):
    """The reference after a step: the policy itself every learner.kl.refresh_every steps."""
    every = settings.learner.kl.refresh_every
    if not (every and objective.has_kl(settings)):
        return state.reference
    due = (state.step + 1) % every == 0
    now = policy.reference(settings, model, params, state.base)
    return jax.tree.map(partial(jnp.where, due), now, state.reference)


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
    zeros = jnp.zeros_like(mask)
    batch = Batch(prompts.tokens, prompts.length, tokens, mask, zeros, zeros, ones)

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
        return token_mean(token_losses, batch.mask)[0], Parts({}, {})

    carry, (metrics, _) = gradient_update(
        loss,
        sft_optimizer(settings),
        params,
        opt_state,
        batch,
        denominator=jnp.sum(mask),
        microbatches=1,
    )
    return carry, metrics
