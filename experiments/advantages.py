"""From `config.advantage` to a transformation, and several methods as one traced choice."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.config import Config, ConfigError
from experiments.validation import check_arguments
from fade_jax import center, transforms
from fade_jax.transforms import AdvantageTransformation, PromptState, lift


class Member(NamedTuple):
    """A hashable method: what is compiled in, and the names of what is traced."""

    name: str
    static: tuple[tuple[str, Any], ...]
    traced: tuple[str, ...]


class Choice(NamedTuple):
    """Which member a run uses, and the traced arguments of all members."""

    chosen: Any  # int32 []
    arguments: tuple[dict[str, Any], ...]  # float32 [] each


def method_of(config: Config) -> tuple[str, dict]:
    """Returns (name, kwargs) of a config's advantage."""
    return config.advantage.name, config.advantage.kwargs.to_dict()


def member_of(name: str, kwargs: Mapping[str, Any]) -> Member:
    """Returns the member for `factory_of(name)(**kwargs)`.

    Raises:
      ConfigError: if there is no such factory, or it does not take these arguments or values.
    """
    factory = factory_of(name)
    check_arguments(factory, kwargs, "advantage.kwargs")
    try:
        factory(**kwargs)
    except ConfigError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise ConfigError(f"config.advantage.kwargs of {name}: {_line(error)}") from error
    traced = tuple(sorted(k for k, v in kwargs.items() if isinstance(v, float)))
    static = tuple(sorted((k, v) for k, v in kwargs.items() if k not in traced))
    return Member(name, static, traced)


def _line(error: Exception) -> str:
    """The first line of an error; with its type, if it is not one that users know."""
    text = (str(error).splitlines() or [""])[0]
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def members_of(methods: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[Member, ...]:
    """Returns the distinct members of `methods`, in order of appearance."""
    return tuple(dict.fromkeys(member_of(name, kwargs) for name, kwargs in methods))


def choose(members: Sequence[Member], name: str, kwargs: Mapping[str, Any]) -> Choice:
    """Returns the choice of `name(**kwargs)` among `members`.

    The members that are not chosen get 1 for each traced argument: they are not run, or, in a
    program vmapped over runs, run and thrown away.
    """
    chosen = members.index(member_of(name, kwargs))
    arguments = tuple(
        {k: np.float32(kwargs[k] if i == chosen else 1.0) for k in member.traced}
        for i, member in enumerate(members)
    )
    return Choice(np.int32(chosen), arguments)


def check_gradient(config: Config) -> None:
    """Checks that the advantage gives a gradient, on groups of every number of successes.

    Raises:
      ConfigError: when all advantages are 0 or some are not finite, or when the advantage cannot be
        compiled or changes the shape of the rewards.
    """
    name, kwargs = method_of(config)
    members = members_of([(name, kwargs)])
    choice = choose(members, name, kwargs)
    size = config.group_size
    successes = np.unique(np.linspace(0, size, min(size + 1, 257)).astype(int))
    rewards = (np.arange(size) < successes[:, None]).astype(np.float32)
    statistics = _statistics(rewards)

    @jax.jit  # as programs will
    def weigh(choice, rewards, statistics):
        states = init(members, choice)
        return update(members, choice, rewards, states, **statistics)[0]

    try:
        weights = weigh(choice, rewards, statistics)
    except jax.errors.JAXTypeError as error:
        raise ConfigError(
            f"config.advantage.name = {name!r} must be traceable by jax, in its floating-point"
            f" arguments too (jnp for np, jnp.where for if): {str(error).splitlines()[0]}"
        ) from error
    except Exception as error:  # a user's function may raise anything
        raise ConfigError(
            f"config.group_size = {size} with config.advantage.name = {name!r}: {_line(error)}"
        ) from error
    weights = np.asarray(weights)
    if weights.shape != rewards.shape:
        raise ConfigError(
            f"config.advantage.name = {name!r} must return the shape of the rewards,"
            f" {rewards.shape}, got {weights.shape}"
        )
    if not np.all(np.isfinite(weights)) or not np.any(weights):
        raise ConfigError(
            f"config.group_size must be large enough to give a gradient with"
            f" config.advantage.name = {name!r}, got {size}"
        )


def _statistics(rewards: np.ndarray) -> dict[str, Any]:
    """Some value of every statistic that `update` gets, of prompts without an index."""
    prompt = np.full(len(rewards), -1, np.int32)
    return {"entropy": np.float32(1.0), "lengths": np.ones_like(rewards), "prompt": prompt}


def check_prompts(methods: Sequence[tuple[str, Mapping[str, Any]]], config: Config, task) -> None:
    """Checks that tables of solve rates have a row for every training prompt.

    Args:
      methods: (name, kwargs) of advantages.
      config: names the task.
      task: with `num_prompts` if its training prompts have an index.

    Raises:
      ConfigError: if a table is too small, or the task's prompts have no index.
    """
    size = getattr(task, "num_prompts", None)
    for name, kwargs in methods:
        state = factory_of(name)(**kwargs).init()
        nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, PromptState))
        for rows in (node.samples.size for node in nodes if isinstance(node, PromptState)):
            if size is None:
                raise ConfigError(
                    f"config.advantage.name = {name!r} needs a task with a finite set of training"
                    f" prompts, got config.task.name = {config.task.name!r}"
                )
            if rows < size:
                raise ConfigError(
                    f"config.advantage.kwargs.num_prompts must be at least {size}, the number of"
                    f" training prompts of config.task.name = {config.task.name!r}, got {rows}"
                )


def check_shaped_rewards(config: Config) -> None:
    """Checks that the advantage is defined for rewards that something is taken off.

    Raises:
      ConfigError: if it is for rewards of 0 and 1 alone, as MaxRL's is.
    """
    kl = config.learner.kl
    if config.learner.overlong_buffer:
        field = f"overlong_buffer must be 0, got {config.learner.overlong_buffer},"
    elif kl.coefficient and kl.place == "reward":
        field = "kl.place must be 'loss', got 'reward',"
    else:
        return
    name, kwargs = method_of(config)
    members = members_of([(name, kwargs)])
    choice = choose(members, name, kwargs)
    size = config.group_size
    shaped = np.linspace(-config.learner.overlong_penalty, 1, size + 1, dtype=np.float32)[None, 1:]
    statistics = _statistics(shaped)
    try:
        update(members, choice, shaped, init(members, choice), **statistics)
    except ValueError as error:
        raise ConfigError(
            f"config.learner.{field} with config.advantage.name = {name!r}, whose"
            f" {_line(error).split(',')[0]}"
        ) from error


def equalize_mass(advantages, rewards) -> jax.Array:
    """Gives a batch of advantages the total weight of the plainest ones, those of GRPO without std.

        A ← A · Σ|r - r̄| / Σ|A|

    A factor on an advantage is a factor on the learning rate; with this two methods differ in where
    they put their weight, no longer in how much of it there is. The batch itself is the density of
    solve rates, so a method whose α and δ move is held to the same total at every step.

    Args:
      advantages: [P, G].
      rewards: [P, G].

    Returns:
      [P, G]; 0 where Σ|A| = 0.
    """
    total = jnp.sum(jnp.abs(advantages))
    plainest = jnp.sum(jnp.abs(center(rewards)))
    return advantages * jnp.where(total > 0, plainest / jnp.maximum(total, 1e-30), 0)


def own_state(choice: Choice, states: tuple):
    """The state of the chosen member: all that a checkpoint needs to hold."""
    return states[int(choice.chosen)]


def all_states(members: Sequence[Member], choice: Choice, own) -> tuple:
    """The states of all members from that of the chosen one; the others never moved."""
    states, index = init(members, choice), int(choice.chosen)
    return (*states[:index], own, *states[index + 1 :])


def _build(member: Member, arguments: Mapping[str, Any]):
    return factory_of(member.name)(**dict(member.static), **arguments)


def init(members: Sequence[Member], choice: Choice) -> tuple:
    """Returns the states of all members."""
    return tuple(_build(m, a).init() for m, a in zip(members, choice.arguments, strict=True))


def update(members: Sequence[Member], choice: Choice, rewards, states: tuple, **statistics):
    """Runs the chosen member.

    Returns:
      The advantages, the states of all members, and a dict of the scalars alpha and delta that
      the chosen member used (NaN where it has none).
    """

    def branch(i):
        def run(states):
            transformation = _build(members[i], choice.arguments[i])
            advantages, state = transformation.update(rewards, states[i], **statistics)
            readings = {
                name: jnp.asarray(
                    optax.tree_utils.tree_get(state, name, default=jnp.nan), jnp.float32
                )
                for name in ("alpha", "delta")
            }
            return advantages, (*states[:i], state, *states[i + 1 :]), readings

        return run

    branches = [branch(i) for i in range(len(members))]
    if len(branches) == 1:
        return branches[0](states)
    return jax.lax.switch(choice.chosen, branches, states)


# What fade_jax.transforms exports beside factories that a config can call.
NOT_A_METHOD = ("chain", "init_prompts", "lift", "solve_rates", "stateless", "update_prompts")
_FIRST = "rewards"  # the first parameter of a plain advantage, here as in fade_jax


def is_own(name: str) -> bool:
    """Whether a name is that of an import, not of a factory of fade_jax.transforms."""
    return "." in name


def factory_of(name: str) -> Callable[..., AdvantageTransformation]:
    """Returns the factory that takes config.advantage.kwargs.

    Args:
      name: of a factory of fade_jax.transforms, or dotted.

    Raises:
      ConfigError: if there is no such factory, or the function cannot be imported.
    """
    if is_own(name):
        return _imported(name)
    factories = [n for n in transforms.__all__ if n[0].islower() and n not in NOT_A_METHOD]
    if name not in factories:
        raise ConfigError(
            f"config.advantage.name must be one of {factories}, or a dotted import path such as"
            f" 'my_advantages.mine', got {name!r}"
        )
    return getattr(transforms, name)


def _imported(name: str) -> Callable[..., AdvantageTransformation]:
    module, _, function = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), function)
        parameters = inspect.signature(found).parameters
    except Exception as error:  # whatever the module does when it is run
        raise ConfigError(
            f"config.advantage.name = {name!r} must be the import path of a function, but"
            f" importing it gives {type(error).__name__}: {error}"
        ) from error
    if next(iter(parameters), None) != _FIRST:
        return _checked(found, name)
    return lift(found if "where" in parameters else _masking_groups(found))


def _masking_groups(function: Callable) -> Callable:
    """A plain advantage that takes no mask: groups with a rollout that does not count get 0."""

    @wraps(function)
    def masked(rewards, *args, where=None, **kwargs):
        advantages = function(rewards, *args, **kwargs)
        if where is None:
            return advantages
        return jnp.where(jnp.all(where, axis=-1, keepdims=True), advantages, 0)

    return masked


def _checked(function: Callable, name: str) -> Callable[..., AdvantageTransformation]:
    """The same factory, which must return a transformation."""

    def factory(**kwargs):
        made = function(**kwargs)
        if not (callable(getattr(made, "init", None)) and callable(getattr(made, "update", None))):
            raise ConfigError(
                f"config.advantage.name = {name!r} must be a function whose first parameter is"
                f" {_FIRST!r}, or return (init, update) as the factories of fade_jax.transforms,"
                f" got {type(made).__name__}"
            )
        return made

    factory.__signature__ = inspect.signature(function)
    return factory
