"""From a config to an experiment: mesh, task, model, parameters, and the jitted step functions."""

import inspect
import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from experiments import learner, sharding
from experiments.config import ConfigError, check_arguments, validate
from experiments.learner import Hyperparameters, TrainState, make_optimizer
from experiments.models import layers, transformer
from experiments.models.config import ModelConfig
from experiments.rollout import Rollouts, sample
from experiments.tasks.base import Task, task_factory
from fade_jax.diagnostics import rank_one_fraction


class Parts(NamedTuple):
    """What a run is made of.

    Attributes:
      config: as given.
      mesh: of devices.
      task: see experiments.tasks.base.Task.
      model: static sizes of the policy.
      weights: float32 parameters read from config.model.path, or None for fresh ones.
    """

    config: ConfigDict
    mesh: jax.sharding.Mesh
    task: Task
    model: ModelConfig
    weights: Any


def prepare(config: ConfigDict) -> Parts:
    """Checks the config, opens the task, and reads the weights if it names any.

    Raises:
      ConfigError: for a value that cannot run; ValueError and FileNotFoundError from tasks and
        weights say what they miss.
    """
    validate(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batches(mesh, config)
    try:
        make = task_factory(config.task.name)
    except ValueError as error:
        raise ConfigError(f"config.task.name = {config.task.name!r}: {error}") from error
    kwargs = config.task.kwargs.to_dict()
    if not any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(make).parameters.values()
    ):
        check_arguments(make, kwargs, "task.kwargs")
    if config.model.path:
        from experiments.models import huggingface, tokenizer

        task = make(tokenizer.load(config.model.path), **kwargs)
        model, weights = huggingface.load_model(
            config.model.path,
            dtype=config.model.dtype,
            remat=config.model.remat,
            remat_keeps=config.model.remat_keeps,
        )
    else:
        task = make(None, **kwargs)
        model, weights = _fresh_model(config.model, task), None
    positions = task.max_prompt + task.max_completion
    if positions > model.max_positions:
        raise ConfigError(
            f"prompts of {task.max_prompt} and completions of {task.max_completion} tokens do not"
            f" fit the model's context of {model.max_positions}"
        )
    return Parts(config, mesh, task, model, weights)


def _fresh_model(sizes: ConfigDict, task) -> ModelConfig:
    if sizes.d_model % sizes.num_heads:
        raise ConfigError(
            f"config.model.num_heads must divide config.model.d_model = {sizes.d_model},"
            f" got {sizes.num_heads}"
        )
    return ModelConfig(
        vocab_size=task.vocab_size,
        num_layers=sizes.num_layers,
        d_model=sizes.d_model,
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_kv_heads,
        head_dim=sizes.d_model // sizes.num_heads,
        d_ff=sizes.d_ff,
        tied_head=sizes.tied_head,
        dtype=sizes.dtype,
        remat=sizes.remat,
        remat_keeps=sizes.remat_keeps,
        max_positions=task.max_prompt + task.max_completion,
    )


def parameter_shardings(parts: Parts):
    """The sharding of every parameter of the policy."""
    return _shardings(parts.model, parts.mesh)


def _shardings(model: ModelConfig, mesh: jax.sharding.Mesh):
    return sharding.parameter_shardings(mesh, transformer.abstract_params(model))


def starting_params(parts: Parts):
    """The policy before any training, laid out on the mesh: as read, or fresh from the seed."""
    if parts.weights is not None:
        copies = jax.tree.map(lambda w: np.asarray(w, jnp.float32), parts.weights)
        return sharding.place(copies, parameter_shardings(parts))
    key = jax.random.key(parts.config.warm_start.seed)
    return _fresh_params(parts.model, parts.mesh, key)


@partial(jax.jit, static_argnums=(0, 1))
def _fresh_params(model: ModelConfig, mesh: jax.sharding.Mesh, key):
    """One function for all runs of a sweep: compiled for each, it took as long as their steps."""
    params = transformer.init_params(model, key)
    return jax.lax.with_sharding_constraint(params, _shardings(model, mesh))


class Program(NamedTuple):
    """Jitted functions; the states they take are donated.

    Attributes:
      state_shardings: of a TrainState.
      init: (hyper, params) -> TrainState.
      advance: (state, task, hyper, steps) -> (state, metrics [steps, ...]); for device tasks.
      advance_together: the same with states and hypers of several runs, stacked along a leading
        axis, and metrics [runs, steps, ...]. Each run is laid out over the mesh as it is alone.
      sample: (state, prompts) -> Rollouts; with `learn`, for host tasks.
      learn: (state, hyper, prompts, rollouts, rewards) -> (state, metrics [1, ...]).
      judge: (params, task, prompts, key) -> (rewards, Rollouts) of held-out prompts; device tasks.
      sample_held_out: (params, prompts, key) -> Rollouts; host tasks.
    """

    state_shardings: TrainState
    init: Callable
    advance: Callable
    advance_together: Callable
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
    tokens_of_step = config.prompts * config.group_size * parts.task.max_completion
    everywhere = sharding.replicated(mesh)
    by_prompt = sharding.batch_sharding(mesh)
    state_shardings = _state_shardings(parts, members)
    # Rollouts read the parameters once for each token: gathered for each, a token would take as
    # long as its all-gather.
    sampling_shardings = sharding.whole_over_fsdp(state_shardings.params)

    def split(tree):
        """Lays arrays with a leading axis of prompts out over the mesh."""
        return jax.lax.with_sharding_constraint(tree, by_prompt)

    def draw(params, prompts, key, group_size):
        params = transformer.cast_for_sampling(model, params)
        # Cast first, then gathered: without the first line XLA gathers float32.
        params = jax.lax.with_sharding_constraint(params, state_shardings.params)
        params = jax.lax.with_sharding_constraint(params, sampling_shardings)
        with sharding.layout(mesh):
            rollouts = sample(
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
        return split(rollouts)

    def sample_step(state: TrainState, prompts) -> Rollouts:
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
        behavior = learner.behavior_params(config, state)
        return draw(behavior, prompts, key, config.group_size)

    def learn_step(state, hyper, prompts, rollouts, rewards):
        arguments = state, hyper, prompts, rollouts, rewards
        with sharding.layout(mesh):
            return learner.learn(model, config, members, *arguments)

    def emitted(rollouts: Rollouts):
        """Which tokens of the vocabulary the rollouts hold, bool [V]."""
        none = jnp.zeros(model.vocab_size, bool)
        return none.at[rollouts.tokens].max(rollouts.token_mask > 0)

    def with_head_rank(state, metrics, used, most):
        """Adds the rank-one fraction of the head's update at a call's last step, if asked for.

        Only the rows of the tokens in `used`, of which there are `most` at most, count: Adam also
        moves the rows of tokens that are never sampled, all in the same direction, which would
        feign a low rank.
        """
        if not config.learner.head_rank:
            return state, metrics
        rows = jnp.flatnonzero(used, size=min(most, used.size), fill_value=used.size)
        head = transformer.unembedding(model, state.params)
        moved = (x.at[rows].get(mode="fill", fill_value=0.0) for x in (head, state.initial_head))
        return state, metrics | {"rank_one_fraction": rank_one_fraction(operator.sub(*moved))}

    def advance(state, task, hyper, steps):
        def step(carry, _):
            state, used = carry
            prompts = split(task.train_prompts(hyper.seed, state.step, config.prompts))
            rollouts = sample_step(state, prompts)
            rewards = task.verify(prompts.facts, rollouts.tokens, rollouts.token_mask)
            state, metrics = learn_step(state, hyper, prompts, rollouts, rewards)
            return (state, used | emitted(rollouts)), metrics

        none = jnp.zeros(model.vocab_size, bool)
        (state, used), metrics = jax.lax.scan(step, (state, none), length=steps)
        return with_head_rank(state, metrics, used, steps * tokens_of_step)

    def advance_together(states, task, hypers, steps):
        return jax.vmap(lambda state, hyper: advance(state, task, hyper, steps))(states, hypers)

    def learn(state, hyper, prompts, rollouts, rewards):
        state, metrics = learn_step(state, hyper, prompts, rollouts, rewards)
        metrics = jax.tree.map(lambda m: m[None], metrics)
        return with_head_rank(state, metrics, emitted(rollouts), rollouts.tokens.size)

    def judge(params, task, prompts, key):
        rollouts = draw(params, prompts, key, config.evaluation.samples)
        return task.verify(prompts.facts, rollouts.tokens, rollouts.token_mask), rollouts

    return Program(
        state_shardings,
        init=jax.jit(
            partial(learner.init_state, model, config, members), out_shardings=state_shardings
        ),
        advance=jax.jit(
            advance,
            static_argnums=3,
            donate_argnums=0,
            out_shardings=(state_shardings, everywhere),
        ),
        advance_together=jax.jit(
            advance_together,
            static_argnums=3,
            donate_argnums=0,
            out_shardings=(sharding.stacked(state_shardings), everywhere),
        ),
        sample=jax.jit(sample_step, out_shardings=by_prompt),
        learn=jax.jit(
            learn,
            donate_argnums=0,
            out_shardings=(state_shardings, everywhere),
            compiler_options=layers.update_compiler_options(model),
        ),
        judge=jax.jit(judge, out_shardings=everywhere),
        sample_held_out=jax.jit(
            partial(draw, group_size=config.evaluation.samples),
            out_shardings=everywhere,
        ),
    )


class Imitation(NamedTuple):
    """The compiled functions of a warm start; the carry (params, opt_state) is donated.

    Attributes:
      carry_shardings: of (params, opt_state).
      init: params -> (params, opt_state).
      advance: (carry, task, seed, first_step, steps) -> (carry, metrics [steps]); device tasks.
      learn: (carry, demonstrations) -> (carry, metrics [1]); for host tasks.
    """

    carry_shardings: tuple
    init: Callable
    advance: Callable
    learn: Callable


def make_imitation(parts: Parts) -> Imitation:
    """Builds the supervised counterpart of `make_program`.

    Of config.warm_start, the batch and the learning rate are compiled in.
    """
    config, model = parts.config, parts.model
    by_prompt = sharding.batch_sharding(parts.mesh)
    everywhere = sharding.replicated(parts.mesh)
    optimizer = learner.imitation_optimizer(config)
    params = parameter_shardings(parts)
    carry_shardings = params, _optimizer_shardings(parts, optimizer, params)

    def learn(carry, demonstrations):
        demonstrations = jax.lax.with_sharding_constraint(demonstrations, by_prompt)
        with sharding.layout(parts.mesh):
            return learner.imitate(model, config, *carry, demonstrations)

    def advance(carry, task, seed, first_step, steps):
        def step(carry, index):
            return learn(carry, task.demonstrations(seed, index, config.warm_start.batch))

        return jax.lax.scan(step, carry, first_step + jnp.arange(steps))

    def learn_one(carry, demonstrations):
        carry, metrics = learn(carry, demonstrations)
        return carry, jax.tree.map(lambda m: m[None], metrics)

    outs = (carry_shardings, everywhere)
    return Imitation(
        carry_shardings,
        init=jax.jit(lambda p: (p, optimizer.init(p)), out_shardings=carry_shardings),
        advance=jax.jit(advance, static_argnums=4, donate_argnums=0, out_shardings=outs),
        learn=jax.jit(
            learn_one,
            donate_argnums=0,
            out_shardings=outs,
            compiler_options=layers.update_compiler_options(model),
        ),
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
        initial_head=head if parts.config.learner.head_rank else (),
        past_params=sharding.stacked(params) if parts.config.learner.staleness else (),
    )


def abstract_state(parts: Parts, members, hyper: Hyperparameters) -> TrainState:
    """Shapes, dtypes and shardings of a state, for restoring a checkpoint into it."""
    shapes = jax.eval_shape(
        lambda: learner.init_state(
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
