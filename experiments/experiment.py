"""From a config to an experiment: mesh, task, model, weights, and the jitted step functions.

Below: step_functions, models, tasks, sharding. Above: evaluate, warm_start, train.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments import advantages, learner, sharding
from experiments.compilation import compiler_options
from experiments.config import Config, ConfigError
from experiments.curriculum import check_curriculum, table_size
from experiments.learner import Hyperparameters, TrainState, hyperparameters
from experiments.models import huggingface, transformer
from experiments.models.attention import implementation
from experiments.models.config import ModelConfig
from experiments.multihost import everywhere, gather, join_rows, rows_of
from experiments.objective import check_objective, has_kl
from experiments.optimizers import check_optimizer
from experiments.step_functions import (
    RLFns,
    SFTFns,
    make_rl_fns,
    make_sft_fns,
    parameter_shapes,
    parameter_shardings,
    train_state_shardings,
)
from experiments.tasks.base import Task, eos_ids, task_factory
from experiments.tasks.verdict import Verdict, VerificationError
from experiments.tasks.verifier import Verifier, count_verdicts, sum_parts
from experiments.validation import check_arguments, validate


class Experiment(NamedTuple):
    """A config and everything that is made of it.

    Runs whose configs differ only in seed, advantage, learning rate and what the code around the
    programs reads can share one experiment (see `with_config`).

    Attributes:
      config: of the run.
      mesh: of devices.
      task: see experiments.tasks.base.Task.
      model: static sizes of the policy.
      weights: a function of shardings that reads the parameters of config.model.path onto them, in
        float32, anew at every call; or None for fresh ones.
      reference_weights: the same of the reference of a KL term; None if it has no path.
      methods: all advantages that `rl` can run (experiments.advantages).
      rl: jitted functions of RL.
      sft: jitted functions of the warm start.
    """

    config: Config
    mesh: Mesh
    task: Task
    model: ModelConfig
    weights: Callable[..., Any] | None
    reference_weights: Callable[..., Any] | None
    methods: tuple
    rl: RLFns
    sft: SFTFns


def build_experiment(config: Config, methods: Sequence[tuple[str, dict]] = ()) -> Experiment:
    """Checks a config, opens its task, checks its weights, and builds its step functions.

    Args:
      config: of one run.
      methods: (name, kwargs) of further advantages that the step functions should serve.

    Raises:
      ConfigError: for a value that cannot run.
      ValueError, FileNotFoundError: from tasks and weights, which say what they miss.
    """
    validate(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batches(mesh, config)
    advantages.check_gradient(config)
    advantages.check_shaped_rewards(config)
    check_optimizer(config.optimizer)
    check_objective(config)
    task, model, weights = _task_and_model(config)
    advantages.check_prompts([advantages.method_of(config), *methods], config, task)
    check_curriculum(config, task)
    if config.learner.overlong_buffer > task.max_completion:  # every completion would be punished
        raise ConfigError(
            f"config.learner.overlong_buffer must be at most the {task.max_completion} tokens of a"
            f" completion, got {config.learner.overlong_buffer}"
        )
    positions = task.max_prompt + task.max_completion
    if positions > model.max_positions:
        raise ConfigError(
            f"prompts of {task.max_prompt} and completions of {task.max_completion} tokens do not"
            f" fit the model's context of {model.max_positions}"
        )
    try:
        implementation(model, positions)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not task.on_device:  # a data set may have too few prompts, or no demonstrations
        task.eval_prompts(config.evaluation.prompts)
        if config.warm_start.steps:
            task.demonstrations(config.warm_start.seed, 0, 1)
    return assemble(config, mesh, task, model, weights, methods)


def assemble(
    config: Config,
    mesh: Mesh,
    task: Task,
    model: ModelConfig,
    weights: Callable[..., Any] | None = None,
    methods: Sequence[tuple[str, dict]] = (),
) -> Experiment:
    """Puts parts that are there already together; see Experiment and `build_experiment`."""
    served = advantages.members_of([*methods, advantages.method_of(config)])
    rl = make_rl_fns(config, mesh, task, model, served)
    sft = make_sft_fns(config, mesh, model)
    reference = _reference(config, model)
    return Experiment(config, mesh, task, model, weights, reference, served, rl, sft)


def with_config(experiment: Experiment, config: Config) -> Experiment:
    """Returns the experiment of another run that shares the compiled functions."""
    old, new = experiment.config.warm_start, config.warm_start
    same = (old.batch, old.learning_rate) == (new.batch, new.learning_rate)
    sft = experiment.sft if same else make_sft_fns(config, experiment.mesh, experiment.model)
    return experiment._replace(config=config, sft=sft)


def _task_and_model(config: Config) -> tuple[Task, ModelConfig, Callable[..., Any] | None]:
    try:
        make = task_factory(config.task.name)
    except ValueError as error:
        raise ConfigError(f"config.task.name = {config.task.name!r}: {error}") from error
    kwargs = config.task.kwargs.to_dict()
    check_arguments(make, kwargs, "task.kwargs")
    if not config.model.path:
        task = make(None, **kwargs)
        return task, _fresh_model(config.model, task), None
    from experiments.models import tokenizer

    tokens = tokenizer.load(config.model.path).with_end_tokens(config.sampling.end_tokens)
    task = make(tokens, **kwargs)
    model, weights = huggingface.open_model(
        config.model.path,
        dtype=config.model.dtype,
        remat=config.model.remat,
        remat_keeps=config.model.remat_keeps,
        attention=config.model.attention,
    )
    largest = max(task.vocab_size - 1, task.pad_id, *eos_ids(task))
    if largest >= model.vocab_size:
        raise ConfigError(
            f"config.model.path = {config.model.path!r}: its embedding must have a row for every"
            f" token id up to {largest}, got {model.vocab_size} rows"
        )
    return task, model, weights


def _fresh_model(sizes: Config, task: Task) -> ModelConfig:
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
        attention=sizes.attention,
        max_positions=task.max_prompt + task.max_completion,
    )


def _reference(config: Config, policy: ModelConfig):
    """A function that reads the model that a KL term names by path, as Experiment.weights."""
    path = config.learner.kl.reference
    if path == "start" or not has_kl(config):
        return None
    model, weights = huggingface.open_model(
        path,
        dtype=policy.dtype,
        remat=policy.remat,
        remat_keeps=policy.remat_keeps,
        attention=policy.attention,
    )
    model = dataclasses.replace(model, max_positions=policy.max_positions)
    if model != policy:
        raise ConfigError(
            f"config.learner.kl.reference = {path!r} must be a model of the policy's sizes,"
            f" {policy}, got {model}"
        )
    return weights


def reference_params(experiment: Experiment):
    """Returns the parameters of the reference that is named by path, on the mesh; else None."""
    weights = experiment.reference_weights
    if weights is None:
        return None
    shardings = parameter_shardings(experiment.model, experiment.mesh)
    return everywhere(lambda: weights(shardings))


def initial_params(experiment: Experiment):
    """Returns the policy before any training, on the mesh: as read, or fresh from the seed."""
    model, mesh, weights = experiment.model, experiment.mesh, experiment.weights
    if weights is not None:
        return everywhere(lambda: weights(parameter_shardings(model, mesh)))
    config = experiment.config
    options = compiler_options(config, model)
    init = _init_function(model, mesh, tuple(options.items()))
    return init(jax.random.key(np.uint32(config.warm_start.seed)))


# All runs of a sweep share one compilation: it took as long as their steps.
@cache
def _init_function(model: ModelConfig, mesh: Mesh, options: tuple[tuple[str, Any], ...]):
    return jax.jit(
        partial(transformer.init_params, model),
        out_shardings=parameter_shardings(model, mesh),
        compiler_options=dict(options),
    )


def _with_shardings(shapes, shardings):
    return jax.tree.map(
        lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, shardings
    )


def abstract_carry(experiment: Experiment):
    """Returns shapes, dtypes and shardings of a warm start's (params, opt_state)."""
    params = parameter_shapes(experiment.model)
    return _with_shardings(
        jax.eval_shape(experiment.sft.init, params), experiment.sft.carry_shardings
    )


def abstract_state(experiment: Experiment, hyper: Hyperparameters) -> TrainState:
    """Returns shapes, dtypes and shardings of a TrainState."""
    config, mesh, model = experiment.config, experiment.mesh, experiment.model
    shapes = jax.eval_shape(
        lambda: learner.init_state(
            model,
            config,
            experiment.methods,
            hyper,
            transformer.init_params(model, jax.random.key(0)),
            num_prompts=table_size(config, experiment.task),
        )
    )
    shardings = train_state_shardings(config, mesh, model)
    replicated = {
        name: jax.tree.map(lambda _: shardings.step, getattr(shapes, name))
        for name in ("advantage_state", "controllers", "solve_rates")
    }
    return _with_shardings(shapes, shardings._replace(**replicated))


def abstract_checkpoint(experiment: Experiment) -> TrainState:
    """Returns shapes, dtypes and shardings of what a run's checkpoint holds."""
    hyper = hyperparameters(experiment.config, experiment.methods)
    return learner.to_checkpoint(abstract_state(experiment, hyper), hyper)


def from_checkpoint(
    experiment: Experiment, hyper: Hyperparameters, restored: TrainState, base: Any = ()
) -> TrainState:
    """Returns the train state of a restored checkpoint: the inverse of `learner.to_checkpoint`.

    `base` is that of LoRA, which no checkpoint holds.
    """
    states = advantages.all_states(experiment.methods, hyper.advantage, restored.advantage_state)
    # Copied, since leaves of a first state may be one buffer, which cannot be donated twice.
    states = jax.device_put(jax.tree.map(jnp.copy, states), sharding.replicated(experiment.mesh))
    return TrainState(*restored)._replace(advantage_state=states, base=base)


class Scored(NamedTuple):
    """The outcome of verification on the host.

    Attributes:
      rewards: float32 [P, G], NaN where a completion could not be verified.
      metrics: counts of verdicts, and the means of several rewards.
      verdicts: of the prompts that this process has verified, by their index; empty for a task
        that gives rewards alone.
    """

    rewards: np.ndarray
    metrics: dict[str, float]
    verdicts: dict[int, list[Verdict]]


@contextmanager
def host_rewards(experiment: Experiment) -> Iterator[Callable[..., Scored] | None]:
    """Yields (verifier_inputs, rollouts) -> Scored for a host task; None otherwise.

    Each of several processes verifies its own prompts; all get all rewards and metrics.
    """
    task, settings = experiment.task, experiment.config.verification
    if task.on_device:
        yield None
        return
    with Verifier(
        task, workers=settings.workers, timeout_seconds=settings.timeout_seconds
    ) as verifier:

        def rewards_of(verifier_inputs, rollouts):
            rows, tokens = rows_of(rollouts.tokens)
            _, mask = rows_of(rollouts.token_mask)
            own = everywhere(
                lambda: verifier.verify(verifier_inputs[rows], tokens, mask), VerificationError
            )
            rewards = join_rows(rows, own.rewards, len(verifier_inputs))
            metrics = _verification_metrics(gather((count_verdicts(own), sum_parts(own))))
            return Scored(rewards, metrics, dict(zip(rows.tolist(), own.verdicts)))

        yield rewards_of


def _verification_metrics(processes: list[tuple[dict, dict]]) -> dict[str, float]:
    """Joins the counts and the (sum, number) of each reward of all processes."""
    metrics: dict[str, float] = {}
    for counts, _ in processes:
        for name, count in counts.items():
            metrics[f"verification/{name}"] = metrics.get(f"verification/{name}", 0) + count
    for name in dict.fromkeys(name for _, parts in processes for name in parts):
        found = [parts[name] for _, parts in processes if name in parts]
        metrics[f"reward/{name}"] = sum(s for s, _ in found) / sum(n for _, n in found)
    return metrics
