"""The compiled functions of a run.

A program is compiled for the static part of a config. Seed, learning rate, the choice of the
advantage and its arguments are traced, so that the runs of a sweep share it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from experiments import sharding, train_step
from experiments.models import transformer
from experiments.optimizer import make_optimizer
from experiments.rollout import Rollouts, sample
from experiments.setup import Parts, parameter_shardings
from experiments.train_step import Hyperparameters, TrainState
from fade_jax.diagnostics import rank_one_fraction


class Program(NamedTuple):
    """Jitted functions; the states they take are donated.

    Attributes:
      state_shardings: of a TrainState.
      init: (hyper, params) -> TrainState.
      advance: (state, task, hyper, steps) -> (state, metrics [steps, ...]); for device tasks.
      sample: (state, prompts) -> Rollouts; with `learn`, for host tasks.
      learn: (state, hyper, prompts, rollouts, rewards) -> (state, metrics [1, ...]).
      judge: (params, task, prompts, key) -> (rewards, Rollouts) of held-out prompts; device tasks.
      sample_held_out: (params, prompts, key) -> Rollouts; host tasks.
    """

    state_shardings: TrainState
    init: Callable
    advance: Callable
    sample: Callable
    learn: Callable
    judge: Callable
    sample_held_out: Callable


def make_program(parts: Parts, members) -> Program:
    """Builds the functions of `parts`; nothing is compiled before a first call.

    Args:
      parts: the run's parts; config.seed, the learning rate and the advantage are not read.
      members: from experiments.advantages, all that this program can run.
    """
    config, model, mesh = parts.config, parts.model, parts.mesh
    everywhere = sharding.replicated(mesh)
    by_prompt = sharding.batch_sharding(mesh)
    state_shardings = _state_shardings(parts, members)

    def split(tree):
        """Lays arrays with a leading axis of prompts out over the mesh."""
        return jax.lax.with_sharding_constraint(tree, by_prompt)

    def draw(params, prompts, key, group_size):
        return split(
            sample(
                model,
                params,
                prompts.tokens,
                prompts.length,
                key,
                group_size=group_size,
                max_tokens=parts.task.max_completion,
                eos_id=parts.task.eos_id,
                pad_id=parts.task.pad_id,
                temperature=config.sampling.temperature,
                top_p=config.sampling.top_p,
                top_k=config.sampling.top_k,
            )
        )

    def sample_step(state: TrainState, prompts) -> Rollouts:
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
        return draw(state.params, prompts, key, config.group_size)

    def learn_step(state, hyper, prompts, rollouts, rewards):
        return train_step.learn(model, config, members, state, hyper, prompts, rollouts, rewards)

    def with_head_rank(state, metrics):
        """Adds the head's rank-one fraction, at the last step of a call only: it costs an SVD."""
        moved = transformer.unembedding(model, state.params) - state.initial_head
        return state, metrics | {"rank_one_fraction": rank_one_fraction(moved)}

    def advance(state, task, hyper, steps):
        def step(state, _):
            prompts = split(task.train_prompts(hyper.seed, state.step, config.prompts))
            rollouts = sample_step(state, prompts)
            rewards = task.verify(prompts.facts, rollouts.tokens, rollouts.token_mask)
            return learn_step(state, hyper, prompts, rollouts, rewards)

        return with_head_rank(*jax.lax.scan(step, state, length=steps))

    def learn(state, hyper, prompts, rollouts, rewards):
        state, metrics = learn_step(state, hyper, prompts, rollouts, rewards)
        return with_head_rank(state, jax.tree.map(lambda m: m[None], metrics))

    def judge(params, task, prompts, key):
        rollouts = draw(params, prompts, key, config.evaluation.samples)
        return task.verify(prompts.facts, rollouts.tokens, rollouts.token_mask), rollouts

    return Program(
        state_shardings,
        init=jax.jit(
            partial(train_step.init_state, model, config, members), out_shardings=state_shardings
        ),
        advance=jax.jit(
            advance,
            static_argnums=3,
            donate_argnums=0,
            out_shardings=(state_shardings, everywhere),
        ),
        sample=jax.jit(sample_step, out_shardings=by_prompt),
        learn=jax.jit(learn, donate_argnums=0, out_shardings=(state_shardings, everywhere)),
        judge=jax.jit(judge, out_shardings=everywhere),
        sample_held_out=jax.jit(
            partial(draw, group_size=config.evaluation.samples), out_shardings=everywhere
        ),
    )


class Imitation(NamedTuple):
    """The compiled functions of a warm start; the carry (params, opt_state) is donated.

    Attributes:
      carry_shardings: of (params, opt_state).
      init: params -> (params, opt_state).
      advance: (carry, task, first_step, steps) -> (carry, metrics [steps]); for device tasks.
      learn: (carry, demonstrations) -> (carry, metrics [1]); for host tasks.
    """

    carry_shardings: tuple
    init: Callable
    advance: Callable
    learn: Callable


def make_imitation(parts: Parts) -> Imitation:
    """Builds the supervised counterpart of `make_program`."""
    config, model = parts.config, parts.model
    by_prompt = sharding.batch_sharding(parts.mesh)
    everywhere = sharding.replicated(parts.mesh)
    optimizer = make_optimizer(config.optimizer, config.warm_start.learning_rate)
    params = parameter_shardings(parts)
    carry_shardings = params, _optimizer_shardings(parts, optimizer, params)

    def learn(carry, demonstrations):
        demonstrations = jax.lax.with_sharding_constraint(demonstrations, by_prompt)
        return train_step.imitate(model, config, *carry, demonstrations)

    def advance(carry, task, first_step, steps):
        def step(carry, index):
            shown = task.demonstrations(config.warm_start.seed, index, config.warm_start.batch)
            return learn(carry, shown)

        return jax.lax.scan(step, carry, first_step + jnp.arange(steps))

    def learn_one(carry, demonstrations):
        carry, metrics = learn(carry, demonstrations)
        return carry, jax.tree.map(lambda m: m[None], metrics)

    outs = (carry_shardings, everywhere)
    return Imitation(
        carry_shardings,
        init=jax.jit(lambda p: (p, optimizer.init(p)), out_shardings=carry_shardings),
        advance=jax.jit(advance, static_argnums=3, donate_argnums=0, out_shardings=outs),
        learn=jax.jit(learn_one, donate_argnums=0, out_shardings=outs),
    )


def _optimizer_shardings(parts: Parts, optimizer, params):
    shapes = jax.eval_shape(
        lambda: optimizer.init(transformer.init_params(parts.model, jax.random.key(0)))
    )
    return optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, place: place,
        shapes,
        params,
        transform_non_params=lambda _: sharding.replicated(parts.mesh),
    )


def _state_shardings(parts: Parts, members) -> TrainState:
    params = parameter_shardings(parts)
    optimizer = make_optimizer(parts.config.optimizer, parts.config.optimizer.learning_rate)
    everywhere = sharding.replicated(parts.mesh)
    head: NamedSharding = transformer.unembedding(parts.model, params)
    return TrainState(
        step=everywhere,
        params=params,
        opt_state=_optimizer_shardings(parts, optimizer, params),
        # A prefix of the pytree: the states of all advantages are small and replicated.
        advantage_state=everywhere,
        key=everywhere,
        initial_head=head,
    )


def abstract_state(parts: Parts, members, hyper: Hyperparameters) -> TrainState:
    """Shapes, dtypes and shardings of a state, for restoring a checkpoint into it."""
    shapes = jax.eval_shape(
        lambda: train_step.init_state(
            parts.model,
            parts.config,
            members,
            hyper,
            transformer.init_params(parts.model, jax.random.key(0)),
        )
    )
    places = _state_shardings(parts, members)
    places = places._replace(
        advantage_state=jax.tree.map(lambda _: places.advantage_state, shapes.advantage_state)
    )
    return jax.tree.map(
        lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, places
    )
