"""What a policy update minimizes: a token loss by name, KL to a reference, entropy.

    Σ_t w_t L(π, π_old, A)_t + c_KL KL(π ‖ π_ref)_t - c_H H(π)_t

reduced as config.learner.reduction says; w are truncated importance weights. Below: fade_jax.losses
and schedules, optimizers. Above: learner, experiment, jobs.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from experiments.config import Config, ConfigError
from experiments.gradients import Batch, Parts
from experiments.optimizers import SCHEDULES, make_schedule
from experiments.validation import check_arguments
from fade_jax import controllers, losses
from fade_jax.losses import Total, constant_length_mean, sequence_mean, token_mean
from fade_jax.schedules import Schedule, by_step

LOSSES: dict[str, Callable[..., jax.Array]] = {
    function.__name__: function
    for function in (
        losses.policy_gradient,
        losses.clipped_surrogate,
        losses.sequence_surrogate,
        losses.cispo,
    )
}
KL_ESTIMATORS = {"k1": losses.kl_k1, "k2": losses.kl_k2, "k3": losses.kl_k3}
CONTROLLERS = {
    function.__name__: function for function in (controllers.pi_controller, controllers.adaptive_kl)
}
# What a token loss may take, by these names; the last is also what may be missing.
_GIVEN = ("log_probs", "old_log_probs", "advantages", "entropies", "where")


def sequence_sum(losses, mask) -> Total:
    """Sums over tokens and averages over rollouts: (1/PG) Σ_i Σ_t."""
    return constant_length_mean(losses, mask, length=1)


def constant_length(losses, mask) -> Total:
    """Sums over tokens and divides by the longest completion T: (1/PG) Σ_i Σ_t / T (Dr. GRPO)."""
    return constant_length_mean(losses, mask, length=mask.shape[-1])


# By config.learner.reduction: (losses, mask) -> (sum, denominator). The two stay apart, so that
# gradient accumulation and sharding divide once.
REDUCTIONS = {
    "sequence_sum": sequence_sum,
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "constant_length_mean": constant_length,
}


class Coefficients(NamedTuple):
    """Of the terms beside the token loss; float32 []."""

    kl: ArrayLike
    entropy: ArrayLike


class Compared(NamedTuple):
    """What other policies than the one that moves say of the rollouts; all [P, G, T], float32.

    Attributes:
      old_log_probs: of the policy that ratios are taken to, nats.
      importance: truncated importance weights; () without learner.importance_cap.
      reference_log_probs: of the reference, nats; () without a KL term.
      divergence: estimates of KL(π_old ‖ π_ref), nats, 0 where masked; () without a KL term.
    """

    old_log_probs: jax.Array
    importance: Any
    reference_log_probs: Any
    divergence: Any


def has_kl(settings: Config) -> bool:
    """Whether a run compares its policy with a reference."""
    return settings.learner.kl.coefficient != 0 or settings.learner.kl.measured


def counts_all_rollouts(settings: Config) -> bool:
    """Whether rollouts without an advantage have a gradient too."""
    in_loss = settings.learner.kl.coefficient != 0 and settings.learner.kl.place == "loss"
    return in_loss or settings.learner.entropy.coefficient != 0


def loss_arguments(settings: Config) -> dict[str, Any]:
    """Returns the keyword arguments of the token loss of a config."""
    loss = settings.learner.loss
    bounds = {}
    if loss.name == "clipped_surrogate":
        bounds = {"low": settings.learner.clip_low, "high": settings.learner.clip_high}
        bounds = {name: float(value) for name, value in bounds.items()}
    return bounds | loss.kwargs.to_dict()


def traced_arguments(settings: Config) -> dict[str, np.float32]:
    """Returns those that a compiled program takes as values: the floating-point numbers."""
    return {k: np.float32(v) for k, v in loss_arguments(settings).items() if isinstance(v, float)}


def compiled_fields(config: Config) -> dict[str, Any]:
    """Returns fields of a config as a program is compiled for them: what is traced has no value."""
    learner = config.learner
    traced = traced_arguments(config)
    kwargs = {name: "traced" if name in traced else v for name, v in loss_arguments(config).items()}
    return {
        "learner.clip_low": "traced",
        "learner.clip_high": "traced",
        "learner.loss.kwargs": kwargs,
        "learner.kl.coefficient": learner.kl.coefficient != 0,
        "learner.entropy.coefficient": learner.entropy.coefficient != 0,
    }


def loss_function(name: str) -> Callable[..., jax.Array]:
    """Returns a token loss by name.

    Args:
      name: a key of LOSSES, or the import path of a function that takes any of log_probs,
        old_log_probs, entropies ([P, G, T]), advantages ([P, G]) and where by name, and returns
        losses [P, G, T] that are not reduced.

    Raises:
      ConfigError: if there is no such function.
    """
    if name in LOSSES:
        return LOSSES[name]
    return _imported(name, "learner.loss.name", f"one of {', '.join(LOSSES)}")


def _imported(name: str, field: str, others: str) -> Callable:
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
        inspect.signature(found)
    except Exception as error:  # the module's code may raise anything
        raise ConfigError(
            f"config.{field} must be {others}, or the import path of a function, got {name!r}:"
            f" {type(error).__name__}: {error}"
        ) from error
    return found


def token_loss(settings: Config, traced: Mapping[str, ArrayLike], **given: ArrayLike) -> jax.Array:
    """Computes the token losses of a config, not reduced.

    Args:
      settings: the run's config.
      traced: see `traced_arguments`.
      **given: log_probs, old_log_probs, entropies and where [P, G, T], advantages [P, G].
    """
    function = loss_function(settings.learner.loss.name)
    parameters = inspect.signature(function).parameters
    taken = {name: value for name, value in given.items() if name in parameters}
    return function(**taken, **(loss_arguments(settings) | dict(traced)))


def batch_loss(
    settings: Config,
    traced: Mapping[str, ArrayLike],
    coefficients: Coefficients,
    batch: Batch,
    log_probs: jax.Array,
    entropies: jax.Array,
) -> tuple[jax.Array, Parts]:
    """Computes the loss of a batch, summed by the reduction but not divided, and its statistics.

    Args:
      settings: the run's config.
      traced: see `traced_arguments`.
      coefficients: of KL and entropy.
      batch: P prompts.
      log_probs: float32 [P, G, T], nats; of the policy that is trained.
      entropies: float32 [P, G, T], nats.

    Returns:
      float32 [], and Parts with the sums over tokens `tokens`, `clipped`, `absolute_log_ratio`,
      `ratio` and `squared_ratio`, and the maximum `absolute_log_ratio`. Ratios are those to the
      sampler; a token is clipped if it has an advantage and the loss no gradient there.
    """
    where = batch.mask > 0

    def weighted(log_probs):
        token_losses = token_loss(
            settings,
            traced,
            log_probs=log_probs,
            old_log_probs=batch.old_log_probs,
            entropies=entropies,
            advantages=batch.advantages,
            where=where,
        )
        return token_losses * batch.importance if settings.learner.importance_cap else token_losses

    total = weighted(log_probs)
    slopes = jax.grad(lambda x: jnp.sum(weighted(x)))(jax.lax.stop_gradient(log_probs))
    clipped = where & (batch.advantages[..., None] != 0) & (slopes == 0)
    if has_kl(settings) and settings.learner.kl.place == "loss":
        kl = KL_ESTIMATORS[settings.learner.kl.estimator](log_probs, batch.reference_log_probs)
        total += coefficients.kl * jnp.where(where, kl, 0)
    if settings.learner.entropy.coefficient != 0:
        total -= coefficients.entropy * jnp.where(where, entropies, 0)
    log_ratio = jnp.where(where, jax.lax.stop_gradient(log_probs) - batch.sampler_log_probs, 0)
    ratio = jnp.where(where, jnp.exp(jnp.clip(log_ratio, -40, 40)), 0)
    absolute = jnp.abs(log_ratio)
    add = partial(jnp.sum, dtype=jnp.float32)
    sums = {
        "tokens": add(where),
        "clipped": add(clipped),
        "absolute_log_ratio": add(absolute),
        "ratio": add(ratio),
        "squared_ratio": add(ratio**2),
    }
    loss = REDUCTIONS[settings.learner.reduction](total, batch.mask)[0]
    return loss, Parts(sums, {"absolute_log_ratio": jnp.max(absolute)})


def mismatch_metrics(parts: Parts) -> dict[str, jax.Array]:
    """Compares the policy that is trained with whatever sampled, over the tokens of some rollouts.

    Returns:
      The mean and the largest |log ratio| in nats, and the effective sample size of the ratios as a
      fraction of the tokens, (Σρ)² / (n Σρ²).
    """
    sums = parts.sums
    tokens = jnp.maximum(sums["tokens"], 1)
    squares = jnp.maximum(sums["squared_ratio"], 1e-30)
    return {
        "mismatch/mean_log_ratio": sums["absolute_log_ratio"] / tokens,
        "mismatch/max_log_ratio": parts.maxima["absolute_log_ratio"],
        "mismatch/effective_sample_size": sums["ratio"] ** 2 / (tokens * squares),
    }


def term_metrics(
    settings: Config, coefficients: Coefficients, compared: Compared, mask: jax.Array
) -> dict[str, jax.Array]:
    """Returns the metrics of the terms that a run has."""
    tokens, learner = jnp.maximum(jnp.sum(mask), 1), settings.learner
    metrics = {}
    if cap := learner.importance_cap:
        metrics["mismatch/capped_fraction"] = jnp.sum((compared.importance >= cap) * mask) / tokens
    if has_kl(settings):
        metrics["kl"] = jnp.sum(compared.divergence) / tokens
    if learner.kl.coefficient != 0:
        metrics["kl_coefficient"] = jnp.asarray(coefficients.kl, jnp.float32)
    if learner.entropy.coefficient != 0:
        metrics["entropy_coefficient"] = jnp.asarray(coefficients.entropy, jnp.float32)
    return metrics


def truncated_importance(old_log_probs, sampler_log_probs, cap: float) -> jax.Array:
    """Returns min(π_old / μ, cap) of each token, for rollouts that μ has sampled.

    Truncated importance sampling corrects for a sampler of another policy or another precision,
    beside the ratio π / π_old that the loss itself takes.
    """
    log_ratio = jnp.minimum(old_log_probs - sampler_log_probs, np.log(cap))
    return jnp.exp(jnp.maximum(log_ratio, -80.0))


def make_controller(settings: Config, field: str) -> Schedule:
    """Returns the schedule of a coefficient: what config.{field}.coefficient is multiplied by.

    Args:
      settings: config.learner.kl or config.learner.entropy, with a schedule.
      field: its name, for error messages.

    Raises:
      ConfigError: if there is no such schedule, or it does not take its arguments.
    """
    name, kwargs = settings.schedule.name, settings.schedule.kwargs.to_dict()
    if name in SCHEDULES:
        return by_step(make_schedule(name, kwargs, f"{field}.schedule"))
    others = f"one of {', '.join([*SCHEDULES, *CONTROLLERS])}"
    function = CONTROLLERS.get(name) or _imported(name, f"{field}.schedule.name", others)
    check_arguments(function, kwargs, f"{field}.schedule.kwargs")
    try:
        made = function(**kwargs)
    except Exception as error:  # a user's function may raise anything
        raise ConfigError(f"config.{field}.schedule.kwargs of {name}: {error}") from error
    return made if isinstance(made, Schedule) else by_step(made)


def init_controllers(settings: Config) -> tuple:
    """Returns the states of the schedules of the terms that a run has."""
    return tuple(schedule.init() for schedule in _controllers(settings).values())


def _controllers(settings: Config) -> dict[str, Schedule]:
    parts = {"kl": settings.learner.kl, "entropy": settings.learner.entropy}
    return {
        name: make_controller(part, f"learner.{name}")
        for name, part in parts.items()
        if part.coefficient != 0
    }


def update_coefficients(
    settings: Config, base: Coefficients, states: tuple, **statistics: ArrayLike
) -> tuple[Coefficients, tuple]:
    """Returns the coefficients of a step, and the states of their schedules after it.

    Args:
      settings: the run's config.
      base: what the schedules' values are multiplied by.
      states: see `init_controllers`.
      **statistics: scalars of the batch: entropy, solve_rate, length and, with a KL term, kl.
    """
    values, after = base._asdict(), []
    for (name, schedule), state in zip(_controllers(settings).items(), states, strict=True):
        factor, state = schedule.update(state, **statistics)
        values[name] = values[name] * factor
        after.append(state)
    return Coefficients(**values), tuple(after)


def check_objective(config: Config) -> None:
    """Computes the loss and its gradient on a small batch, before any work.

    Raises:
      ConfigError: naming what does not fit.
    """
    name = config.learner.loss.name
    function = loss_function(name)
    for bound in ("low", "high") if name == "clipped_surrogate" else ():
        if bound in config.learner.loss.kwargs:
            raise ConfigError(
                f"config.learner.clip_{bound} must hold what config.learner.loss.kwargs has as"
                f" {bound!r}, got {config.learner.loss.kwargs[bound]!r} there"
            )
    check_arguments(function, loss_arguments(config), "learner.loss.kwargs", _GIVEN)
    log_probs = -jnp.arange(1.0, 9.0).reshape(2, 2, 2) / 4
    ones = jnp.ones_like(log_probs)
    advantages = jnp.array([[1.0, -1.0], [0.5, -0.5]])

    def loss(log_probs, traced):
        found = token_loss(
            config,
            traced,
            log_probs=log_probs,
            old_log_probs=jax.lax.stop_gradient(log_probs) - 0.01,
            entropies=ones,
            advantages=advantages,
            where=ones > 0,
        )
        return jnp.sum(found), found

    try:
        loss(log_probs, {})  # with concrete numbers, whose ranges can be checked
        differentiated = jax.jit(jax.value_and_grad(loss, has_aux=True))  # as programs will
        (_, found), slopes = differentiated(log_probs, traced_arguments(config))
    except ConfigError:
        raise
    except Exception as error:  # a user's function may raise anything
        text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ConfigError(
            f"config.learner.loss.name = {name!r} with kwargs {loss_arguments(config)}: {text}"
        ) from error
    if found.shape != log_probs.shape:
        raise ConfigError(
            f"config.learner.loss.name = {name!r} must return a loss of each token,"
            f" {log_probs.shape}, got {found.shape}"
        )
    if not np.all(np.isfinite(slopes)) or not np.any(slopes):
        raise ConfigError(
            f"config.learner.loss.name = {name!r} must have a finite gradient in log_probs,"
            f" got {np.asarray(slopes).tolist()}"
        )
    make_controller(config.learner.kl, "learner.kl")  # also where the coefficient is 0
    make_controller(config.learner.entropy, "learner.entropy")
    statistics = {"entropy": 1.0, "solve_rate": 0.5, "length": 1.0}
    statistics |= {"kl": 0.1} if has_kl(config) else {}
    try:
        update_coefficients(config, Coefficients(1.0, 1.0), init_controllers(config), **statistics)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"config.learner.kl.schedule or config.learner.entropy.schedule: {error}; there are"
            f" {', '.join(statistics)}"
        ) from error
