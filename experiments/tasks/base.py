"""The task interface, and what tasks share: prompts, draws on the device, the held-out split."""

import importlib
import importlib.util
import inspect
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Prompts(NamedTuple):
    """A batch of prompts.

    tokens: i32 [P, S], right-padded with the task's pad_id.
    length: i32 [P], the number of real tokens of each prompt.
    verifier_inputs: a pytree of arrays with leading axis P, which `verify` needs.
    index: i32 [P], which of a finite set of training prompts each is; empty where there is none.
    """

    tokens: jax.Array | np.ndarray
    length: jax.Array | np.ndarray
    verifier_inputs: Any
    index: Any = ()


class Demonstrations(NamedTuple):
    """Prompts with one completion each to imitate.

    prompts: P prompts.
    tokens: i32 [P, T], completions with their EOS, right-padded with pad_id.
    token_mask: f32 [P, T], 1 on the tokens to imitate (EOS included), 0 after.
    """

    prompts: Prompts
    tokens: jax.Array | np.ndarray
    token_mask: jax.Array | np.ndarray


def is_end(tokens: jax.Array, eos_id: int | Sequence[int]) -> jax.Array:
    """Tells which tokens end a completion, bool of the same shape."""
    return reduce(operator.or_, (tokens == i for i in np.ravel(eos_id).tolist()))


def token_mask(tokens: jax.Array, eos_id: int | Sequence[int]) -> jax.Array:
    """Marks the tokens that the policy chose: all up to and including the first EOS.

        mask_t = 1 if no token before t is EOS, else 0

    Args:
      tokens: i32 [..., T] sampled tokens.
      eos_id: the id or ids that end a completion.

    Returns:
      f32 [..., T] of zeros and ones.
    """
    is_eos = is_end(tokens, eos_id).astype(jnp.int32)
    eos_before = jnp.cumsum(is_eos, axis=-1) - is_eos
    return (eos_before == 0).astype(jnp.float32)


# Streams of random numbers, so that the same (seed, step) never draws the same problem twice.
TRAIN, EVAL, DEMONSTRATIONS = 0, 1, 2

# Drawing loops until a draw is accepted: outside jit every call would compile that loop again.
jit_by_count = partial(jax.jit, static_argnames="count")


def draw_keys(seed: jax.Array | int, stream: int, step: jax.Array | int, count: int) -> jax.Array:
    """Makes one key per problem.

    Args:
      seed: i32 or u32, may be traced.
      stream: TRAIN, EVAL or DEMONSTRATIONS.
      step: i32, may be traced.
      count: P.

    Returns:
      keys [P]; key i does not depend on `count`.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count))


def first_accepted(draw: Callable[[jax.Array], tuple[Any, jax.Array]], key: jax.Array) -> Any:
    """Draws with new keys until a draw is accepted.

    Args:
      draw: key -> (value, accepted bool []); a task makes sure that some draw is accepted.
      key: the first draw's key is split from it.

    Returns:
      The first accepted value.
    """

    def again(carry: tuple[jax.Array, Any, jax.Array]) -> tuple[jax.Array, Any, jax.Array]:
        key, draw_key = jax.random.split(carry[0])
        return key, *draw(draw_key)

    # Zeros to start from rather than a first draw: the loop's body is then compiled only once.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(draw, key))
    return lax.while_loop(lambda carry: ~carry[2], again, (key, *zeros))[1]


def hash_bits(*parts: jax.Array | int) -> jax.Array:
    """Hashes tuples of integers to 32 bits that look random.

        h ← mix(h + (part + 1) · c)   for each part in order, modulo 2³²

    where mix is the 32-bit finaliser of MurmurHash3.

    Args:
      *parts: i32 arrays or integers that broadcast together; the order of the parts counts.

    Returns:
      u32 of the broadcast shape; the same on every machine, traced or not.
    """
    h = jnp.uint32(0x9E3779B9)
    for part in parts:
        h = h + (jnp.asarray(part, jnp.int32).astype(jnp.uint32) + 1) * jnp.uint32(0x9E3779B1)
        h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
        h = h ^ (h >> 16)
    return h


def is_held_out(fraction: float, *parts: jax.Array | int) -> jax.Array:
    """Tells whether a problem is held out, by its hash.

        held out  iff  hash_bits(parts) < fraction · 2³²

    Args:
      fraction: of all problems, between 0 and 1.
      *parts: i32 arrays or integers that broadcast together and identify a problem.

    Returns:
      bool of the broadcast shape.
    """
    return hash_bits(*parts) < jnp.uint32(round(fraction * 2**32))


class DeviceTask(ABC):
    """Prompts drawn inside jit; the base class of tasks that are verified on the device.

    A subclass is a pytree with a `seed`, and defines `_draw_inputs` and `_prompts`.
    """

    on_device: ClassVar[bool] = True
    seed: int

    @jit_by_count
    def train_prompts(self, seed: jax.Array | int, step: jax.Array | int, count: int) -> Prompts:
        """Draws the training prompts of one step.

        Args:
          seed: i32 or u32, may be traced.
          step: i32, may be traced.
          count: P, static.

        Returns:
          P prompts of problems that are not held out; the same for the same (seed, step).
        """
        keys = draw_keys(seed, TRAIN, step, count)
        return self._prompts(jax.vmap(partial(self._draw_inputs, False))(keys))

    @jit_by_count
    def eval_prompts(self, count: int) -> Prompts:
        """Returns the first `count` prompts of the fixed evaluation set, all held out."""
        keys = draw_keys(self.seed, EVAL, 0, count)
        return self._prompts(jax.vmap(partial(self._draw_inputs, True))(keys))

    @abstractmethod
    def _draw_inputs(self, held_out: bool, key: jax.Array) -> Any:
        """Draws the verifier inputs of one problem, held out or not."""

    @abstractmethod
    def _prompts(self, verifier_inputs: Any) -> Prompts:
        """Writes the prompts of P problems."""


class AnswerFirstTask(DeviceTask):
    """A device task whose problems are drawn by drawing an answer, so that each can be solved.

    A subclass defines `_draw_answer` and `_prompts`.
    """

    @abstractmethod
    def _draw_answer(self, held_out: bool, key: jax.Array) -> tuple[tuple, jax.Array]:
        """Draws ((verifier inputs, *answer), accepted): whether it is in range and in the split."""

    def _draw_problem(self, held_out: bool, key: jax.Array) -> tuple:
        """Draws the verifier inputs of a problem, and an answer to it."""
        return first_accepted(partial(self._draw_answer, held_out), key)

    def _draw_inputs(self, held_out: bool, key: jax.Array) -> Any:
        return self._draw_problem(held_out, key)[0]

    def check_problems(self, fields: str, got: str, draws: int = 4096) -> None:
        """Raises ValueError, naming the fields and their values, if a split has no problem.

        Drawing goes on until a problem is accepted, so there have to be some.
        """
        keys = jax.random.split(jax.random.key(self.seed), draws)
        for name, held_out in (("training", False), ("held-out", True)):
            if not bool(jnp.any(jax.vmap(partial(self._draw_answer, held_out))(keys)[1])):
                raise ValueError(f"{fields} leave no {name} problem among {draws} draws, got {got}")


def fixed_length_prompts(*columns: jax.Array | int, verifier_inputs: Any) -> Prompts:
    """Concatenates columns to prompts of one length.

    Args:
      *columns: a token id that is the same in every prompt, or i32 [P] or [P, k]; at least one
        array.
      verifier_inputs: with leading axis P.
    """
    count = next(len(column) for column in columns if not isinstance(column, int))
    tokens = jnp.concatenate(
        [
            column
            if jnp.ndim(column) == 2
            else jnp.broadcast_to(jnp.asarray(column, jnp.int32), count)[:, None]
            for column in columns
        ],
        axis=1,
    )
    return Prompts(tokens, jnp.full(count, tokens.shape[1], jnp.int32), verifier_inputs)


def check_at_least(name: str, value: float, least: float) -> None:
    """Raises ValueError, naming the field and its value, unless value >= least."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_at_most(name: str, value: float, most: float) -> None:
    """Raises ValueError, naming the field and its value, unless value <= most."""
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}")


def check_fraction(name: str, value: float) -> None:
    """Raises ValueError, naming the field and its value, unless 0 < value < 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")


def check_seed(seed: int) -> None:
    """Raises ValueError unless 0 <= seed < 2^31, which all generators here accept."""
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed must lie in 0..2^31 - 1, got {seed}")


class Task(Protocol):
    """The interface of a task.

    To add a task, write a module with a function `make(tokenizer, ...)` that returns one, and set
    `config.task.name` to its import path. The arguments of `make` are `config.task.kwargs`;
    `tokenizer` is None if `config.model.path` is empty.

    Attributes:
      on_device: whether `verify` can be traced. The task is then a pytree, whose `train_prompts`,
        `demonstrations` and `verify` are traced. If not, completions are verified on the host: by
        `texts(tokens, token_mask)` and either `score(text, answer)` or `open_checker(workers,
        timeout_seconds)` if the task has them, as text_task.TextTask does and
        `config.verification.workers` requires, else by `verify`.
      vocab_size: number of token ids. It is that of a fresh model; the rows from there on of a
        larger model are never sampled.
      eos_id: ends a completion. A task with several such tokens names all of them in `eos_ids`.
      pad_id: fills prompts and completions.
      max_prompt: tokens, S.
      max_completion: tokens, T.

    A task with a finite set of training prompts gives each its `Prompts.index` in 0..N-1, and has
    `num_prompts`, N, for advantages with a state per prompt; a curriculum needs
    `prompts_at(index)` beside it, and verification on the host.
    """

    on_device: bool
    vocab_size: int
    eos_id: int
    pad_id: int
    max_prompt: int
    max_completion: int

    def train_prompts(self, seed: Any, step: Any, count: int) -> Prompts:
        """Returns the prompts [count] of a step, a pure function of (seed, step)."""
        ...

    def eval_prompts(self, count: int) -> Prompts:
        """Returns the first `count` held-out prompts, which are never trained on."""
        ...

    def demonstrations(self, seed: Any, step: Any, count: int) -> Demonstrations:
        """Returns prompts with a completion each, for the warm start."""
        ...

    def verify(self, verifier_inputs: Any, tokens: Any, token_mask: Any) -> Any:
        """Returns the rewards [P, G] of completions [P, G, T]."""
        ...


def eos_ids(task: Any) -> tuple[int, ...]:
    """Returns all tokens that end a completion, of a task or of a tokenizer."""
    return getattr(task, "eos_ids", (task.eos_id,))


def task_factory(name: str) -> Callable[..., Task]:
    """Resolves `config.task.name` to a function that makes the task.

    A name without a dot is a module of this folder. A dotted path names a module with a function
    make(), or such a function.

    Raises:
      ValueError: if it cannot be imported, or has no make().
    """
    if "." not in name:
        module = f"experiments.tasks.{name}"
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"there is no module {module}")
        found = importlib.import_module(module)
    else:
        module = name
        try:
            found = _imported(name)
        except Exception as error:  # the module's code may raise anything
            raise ValueError(
                f"it must be the import path of a task, but importing it gives"
                f" {type(error).__name__}: {error}"
            ) from error
    make = found if inspect.isfunction(found) else getattr(found, "make", None)
    if make is None:
        raise ValueError(f"{module} is no task, it has no make()")
    return make


def _imported(name: str) -> Any:
    """Imports the module `name`; if there is none, the last part of `name` from its module."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(module), function)
