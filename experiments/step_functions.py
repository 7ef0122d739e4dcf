"""The jitted functions of training: RL steps, SFT steps, and sampling of held-out prompts.

Each is a pure function of learner and rollout, laid out over the mesh; nothing is compiled before
its first call. Below: learner, rollout, sharding. Above: experiment.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from experiments import curriculum, learner, objective, policy, sharding
from experiments.compilation import compiler_options
from experiments.config import Config
from experiments.learner import TrainState
from experiments.models import layers, transformer
from experiments.models.config import ModelConfig
from experiments.optimizers import make_optimizer, sft_optimizer
from experiments.resampling import is_flat, replace_flat, resampling_metrics
from experiments.rollout import Rollouts, sample
from experiments.tasks.base import Task, eos_ids, is_end
from fade_jax.diagnostics import rank_one_fraction
from fade_jax.transforms import update_prompts


class RLFns(NamedTuple):
    """The jitted functions of an RL run; the train states that they take are donated.

    Attributes:
      state_shardings: of a TrainState.
      init: (hyper, params, reference=None) -> TrainState.
      freeze: params -> TrainState.base.
      merge: (TrainState.params, base) -> whole parameters, float32.
      train_steps: (state, task, hyper, steps) -> (state, metrics [steps, ...]); device tasks.
      train_steps_vmapped: the same for several runs, with states and hypers stacked along a leading
        axis, and metrics [runs, steps, ...]. Each run is laid out over the mesh as it is alone.
      sample: (state, prompts, round) -> Rollouts; host tasks. Round 0 comes first; with
        learner.resample_rounds, `replace_flat` follows further ones. Then `update`.
      replace_flat: see resampling.replace_flat; of trees (prompts, rollouts).
      observe: (solve_rates, index [P], rewards [P, G]) -> solve_rates; with a curriculum. Rewards
        that are NaN do not count.
      update: (state, hyper, prompts, rollouts, rewards, known=None) -> (state, metrics [1, ...]);
        see learner.policy_update.
      evaluate: (params, task, prompts, key) -> (rewards, Rollouts) of held-out prompts; device
        tasks.
      sample_held_out: (params, prompts, key) -> Rollouts; host tasks.
    """

    state_shardings: TrainState
    init: Callable
    freeze: Callable
    merge: Callable
    train_steps: Callable
    train_steps_vmapped: Callable
    sample: Callable
    replace_flat: Callable
    observe: Callable
    update: Callable
    evaluate: Callable
    sample_held_out: Callable


def make_rl_fns(config: Config, mesh: Mesh, task: Task, model: ModelConfig, methods) -> RLFns:
    """Builds the functions of an RL run.

    Args:
      config: of the run; its seed, learning rate and advantage are not read, but traced.
      mesh: of devices.
      task: sizes of prompts and completions, and for a device task its functions.
      model: static sizes of the policy.
      methods: all advantages that these functions can run (experiments.advantages).
    """
    tokens_per_step = config.prompts * config.group_size * task.max_completion
    replicated = sharding.replicated(mesh)
    by_prompt = sharding.batch_sharding(mesh)
    state_shardings = train_state_shardings(config, mesh, model)
    sample_prompts = make_sample_fn(config, mesh, task, model)
    options = compiler_options(config, model)

    def shard_prompts(tree):
        return jax.lax.with_sharding_constraint(tree, by_prompt)

    def sample_step(state: TrainState, prompts, index=0) -> Rollouts:
        key = sampling_key(config, state.key, state.step, index)
        params = learner.behavior_params(config, state)
        return sample_prompts(params, prompts, key, config.group_size)

    def update_step(state, hyper, prompts, rollouts, rewards, known=None):
        ends = is_end(rollouts.tokens, eos_ids(task)) & (rollouts.token_mask > 0)
        ended = jnp.any(ends, axis=-1)
        truncated = 1 - jnp.mean(ended, dtype=jnp.float32)
        if config.learner.mask_truncated:
            known = ended if known is None else ended & known
        with sharding.layout(mesh):
            state, metrics = learner.policy_update(
                model, config, methods, state, hyper, prompts, rollouts, rewards, known
            )
        return state, metrics | {"truncated_fraction": truncated}

    def sampled_tokens(rollouts: Rollouts):
        """Which tokens of the vocabulary the rollouts hold, bool [V]."""
        none = jnp.zeros(model.vocab_size, bool)
        return none.at[rollouts.tokens].max(rollouts.token_mask > 0)

    def add_head_rank(state, metrics, sampled, max_sampled):
        """Adds the rank-one fraction of the head's update at a call's last step, if asked for.

        Reads only the rows of sampled tokens, at most `max_sampled`: Adam also moves the rows of
        tokens that are never sampled, all in one direction, which would feign a low rank.
        """
        if not policy.measures_head(config):
            return state, metrics
        size = min(max_sampled, sampled.size)
        rows = jnp.flatnonzero(sampled, size=size, fill_value=sampled.size)
        head = transformer.unembedding(model, state.params)
        now, start = (
            x.at[rows].get(mode="fill", fill_value=0.0) for x in (head, state.initial_head)
        )
        return state, metrics | {"rank_one_fraction": rank_one_fraction(now - start)}

    def collect(state, task, hyper, index):
        """The prompts, rollouts and rewards of one round of a step."""
        position = state.step * (config.learner.resample_rounds + 1) + index
        prompts = shard_prompts(task.train_prompts(hyper.seed, position, config.prompts))
        rollouts = sample_step(state, prompts, index)
        rewards = task.verify(prompts.verifier_inputs, rollouts.tokens, rollouts.token_mask)
        return (prompts, rollouts), rewards

    def collect_varied(state, task, hyper):
        """A batch whose flat groups are replaced, and metrics of the rounds that it took."""
        batch, rewards = collect(state, task, hyper, 0)
        if not config.learner.resample_rounds:
            return batch, rewards, {}

        def goes_on(carry):
            index, _, rewards = carry
            return (index <= config.learner.resample_rounds) & jnp.any(is_flat(rewards))

        def again(carry):
            index, batch, rewards = carry
            more = collect(state, task, hyper, index)
            return index + 1, *shard_prompts(replace_flat(batch, rewards, *more))

        first = jnp.mean(rewards)
        rounds, batch, rewards = jax.lax.while_loop(goes_on, again, (1, batch, rewards))
        return batch, rewards, resampling_metrics(first, rounds - 1, rewards)

    def train_steps(state, task, hyper, steps):
        base = state.base  # not in the carry, of which XLA may hold two

        def step(carry, _):
            state, sampled = carry
            state = state._replace(base=base)
            (prompts, rollouts), rewards, extra = collect_varied(state, task, hyper)
            state, metrics = update_step(state, hyper, prompts, rollouts, rewards)
            state = state._replace(base=())
            return (state, sampled | sampled_tokens(rollouts)), metrics | extra

        carry = state._replace(base=()), jnp.zeros(model.vocab_size, bool)
        (state, sampled), metrics = jax.lax.scan(step, carry, length=steps)
        state = state._replace(base=base)
        return add_head_rank(state, metrics, sampled, steps * tokens_per_step)

    def train_steps_vmapped(states, task, hypers, steps):
        return jax.vmap(lambda state, hyper: train_steps(state, task, hyper, steps))(states, hypers)

    def update(state, hyper, prompts, rollouts, rewards, known=None):
        state, metrics = update_step(state, hyper, prompts, rollouts, rewards, known)
        metrics = jax.tree.map(lambda m: m[None], metrics)
        return add_head_rank(state, metrics, sampled_tokens(rollouts), rollouts.tokens.size)

    def evaluate(params, task, prompts, key):
        rollouts = sample_prompts(params, prompts, key, config.evaluation.samples)
        return task.verify(prompts.verifier_inputs, rollouts.tokens, rollouts.token_mask), rollouts

    return RLFns(
        state_shardings,
        init=jax.jit(
            partial(
                learner.init_state,
                model,
                config,
                methods,
                num_prompts=curriculum.table_size(config, task),
            ),
            out_shardings=state_shardings,
        ),
        freeze=jax.jit(partial(policy.freeze, config, model), out_shardings=state_shardings.base),
        merge=jax.jit(
            partial(policy.merge, config), out_shardings=parameter_shardings(model, mesh)
        ),
        train_steps=jax.jit(
            train_steps,
            static_argnums=3,
            donate_argnums=0,
            out_shardings=(state_shardings, replicated),
            compiler_options=options,
        ),
        train_steps_vmapped=jax.jit(
            train_steps_vmapped,
            static_argnums=3,
            donate_argnums=0,
            out_shardings=(sharding.stacked(state_shardings), replicated),
            compiler_options=options,
        ),
        sample=jax.jit(sample_step, out_shardings=by_prompt, compiler_options=options),
        replace_flat=jax.jit(replace_flat, out_shardings=(by_prompt, replicated)),
        observe=jax.jit(
            partial(update_prompts, decay=config.curriculum.decay), out_shardings=replicated
        ),
        update=jax.jit(
            update,
            donate_argnums=0,
            out_shardings=(state_shardings, replicated),
            compiler_options=options | layers.update_compiler_options(model),
        ),
        evaluate=jax.jit(evaluate, out_shardings=replicated, compiler_options=options),
        sample_held_out=jax.jit(
            partial(sample_prompts, group_size=config.evaluation.samples),
            out_shardings=replicated,
            compiler_options=options,
        ),
    )


def sampling_key(config: Config, key: jax.Array, step, index) -> jax.Array:
    """Returns the key of round `index` of a step's rollouts."""
    key = jax.random.fold_in(jax.random.fold_in(key, step), 0)
    return jax.random.fold_in(key, index) if config.learner.resample_rounds else key


def make_sample_fn(
    config: Config, mesh: Mesh, task: Task, model: ModelConfig, limits: jax.Array | None = None
) -> Callable:
    """Returns (params, prompts, key, group_size) -> Rollouts, laid out over a mesh.

    Args:
      config: of the run.
      mesh: of devices.
      task: sizes of prompts and completions.
      model: static sizes of the policy.
      limits: int32 [P, G], at most so many tokens of each completion; None for those of the task.
    """
    by_prompt = sharding.batch_sharding(mesh)
    shardings = parameter_shardings(model, mesh)
    # Sampling reads every parameter once per token: gathering them per token would take as long as
    # the all-gather each time.
    sampling_shardings = sharding.whole_over_fsdp(shardings)

    def sample_prompts(params, prompts, key, group_size):
        params = transformer.cast_for_sampling(model, params)
        # Cast first, then gathered: without the first line XLA gathers float32.
        params = jax.lax.with_sharding_constraint(params, shardings)
        params = jax.lax.with_sharding_constraint(params, sampling_shardings)
        with sharding.layout(mesh):
            rollouts = sample(
                model,
                params,
                prompts.tokens,
                prompts.length,
                key,
                group_size=group_size,
                max_tokens=task.max_completion,
                eos_id=eos_ids(task),
                pad_id=task.pad_id,
                temperature=config.sampling.temperature,
                top_p=config.sampling.top_p,
                top_k=config.sampling.top_k,
                vocab_size=task.vocab_size,
                limits=limits,
                slots=config.sampling.slots,
                loops=config.sampling.loops,
            )
        return jax.lax.with_sharding_constraint(rollouts, by_prompt)

    return sample_prompts


class SFTFns(NamedTuple):
    """The jitted functions of a warm start; the carry (params, opt_state) is donated.

    Attributes:
      carry_shardings: of (params, opt_state).
      init: params -> (params, opt_state).
      train_steps: (carry, task, seed, first_step, steps) -> (carry, metrics [steps]); device tasks.
      update: (carry, demonstrations) -> (carry, metrics [1]); host tasks.
    """

    carry_shardings: tuple
    init: Callable
    train_steps: Callable
    update: Callable


def make_sft_fns(config: Config, mesh: Mesh, model: ModelConfig) -> SFTFns:
    """Builds the functions of a warm start; its batch and learning rate are compiled in."""
    by_prompt = sharding.batch_sharding(mesh)
    optimizer = sft_optimizer(config)
    params = parameter_shardings(model, mesh)
    opt_state = _optimizer_shardings(optimizer, mesh, parameter_shapes(model), params)
    carry_shardings = params, opt_state
    options = compiler_options(config, model)

    def update(carry, demonstrations):
        demonstrations = jax.lax.with_sharding_constraint(demonstrations, by_prompt)
        with sharding.layout(mesh):
            params, opt_state = carry
            return learner.sft_update(model, config, params, opt_state, demonstrations)

    def train_steps(carry, task, seed, first_step, steps):
        def step(carry, index):
            return update(carry, task.demonstrations(seed, index, config.warm_start.batch))

        return jax.lax.scan(step, carry, first_step + jnp.arange(steps))

    def update_once(carry, demonstrations):
        carry, metrics = update(carry, demonstrations)
        return carry, jax.tree.map(lambda m: m[None], metrics)

    outs = (carry_shardings, sharding.replicated(mesh))
    return SFTFns(
        carry_shardings,
        init=jax.jit(lambda p: (p, optimizer.init(p)), out_shardings=carry_shardings),
        train_steps=jax.jit(
            train_steps,
            static_argnums=4,
            donate_argnums=0,
            out_shardings=outs,
            compiler_options=options,
        ),
        update=jax.jit(
            update_once,
            donate_argnums=0,
            out_shardings=outs,
            compiler_options=options | layers.update_compiler_options(model),
        ),
    )


def parameter_shapes(model: ModelConfig):
    """Returns the shape and dtype of every parameter of the policy."""
    return jax.eval_shape(lambda: transformer.init_params(model, jax.random.key(0)))


def parameter_shardings(model: ModelConfig, mesh: Mesh):
    """Returns the sharding of every parameter of the policy."""
    return sharding.parameter_shardings(mesh, transformer.abstract_params(model))


def _optimizer_shardings(optimizer, mesh: Mesh, shapes, params):
    tree_map_params: Any = optax.tree_utils.tree_map_params  # its signature hides the rest
    replicated = sharding.replicated(mesh)

    def place(leaf, sharding, like):
        if isinstance(leaf, optax.MaskedNode):  # a parameter that this part leaves to another
            return leaf
        # Factored moments, as those of adafactor, are small and of another shape.
        return sharding if leaf.shape == like.shape else replicated

    return tree_map_params(
        optimizer,
        place,
        jax.eval_shape(optimizer.init, shapes),
        params,
        shapes,
        transform_non_params=lambda _: replicated,
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )


def train_state_shardings(config: Config, mesh: Mesh, model: ModelConfig) -> TrainState:
    """Returns a TrainState of the sharding of every part."""
    whole = parameter_shardings(model, mesh)
    params = policy.trained_shardings(config, model, mesh)
    shapes = policy.trained_shapes(config, model)
    reference = params if policy.refers_to_base(config) else whole
    optimizer = make_optimizer(config.optimizer, config.optimizer.learning_rate)
    replicated: Any = sharding.replicated(mesh)
    return TrainState(
        step=replicated,
        params=params,
        opt_state=_optimizer_shardings(optimizer, mesh, shapes, params),
        # A prefix of the pytree, as for the controllers: all are small and replicated.
        advantage_state=replicated,
        key=replicated,
        initial_head=transformer.unembedding(model, whole) if policy.measures_head(config) else (),
        past_params=sharding.stacked(params) if config.learner.staleness else (),
        reference=reference if objective.has_kl(config) else (),
        controllers=replicated,
        solve_rates=replicated,
        base=whole if config.lora.rank else (),
    )
