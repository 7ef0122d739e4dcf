"""Advantages for the training loop of any framework: NumPy or torch arrays in, the same out.

    fade = HostAdvantage(transforms.fade())
    advantages = fade(rewards, prompt_ids, entropy=mean_token_entropy)              # [N]
    advantages = fade(rewards, prompt_ids, mask=response_mask, entropy=...)         # [N, T]
    torch.save({"fade": fade.state_dict(), ...}, path)
    fade.load_state_dict(torch.load(path)["fade"])

Imports no framework: a torch tensor is known by its methods. The arithmetic runs on JAX's CPU;
where JAX has an accelerator too, set JAX_PLATFORMS=cpu, so that it takes none of its memory.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fade_jax.transforms import AdvantageState, AdvantageTransformation

HostArray = Any  # a NumPy array, a torch tensor or nested lists


class HostAdvantage:
    """A transformation with its state, for flat batches in which groups are told by an index.

    Rows of one prompt need not be adjacent, and groups may differ in size. Groups are laid out as
    `[P, G]`, both padded to a power of two, and one function is compiled for each such shape. It is
    traced: checks of reward values, such as that they are 0 or 1, do not run.

    Example:
      >>> from fade_jax.integrations.host import HostAdvantage
      >>> advantage = HostAdvantage(fade_jax.transforms.rloo())
      >>> print(advantage([1.0, 1.0, 0.0, 1.0], ["a", "b", "a", "b"]))
      [ 1.  0. -1.  0.]
    """

    def __init__(self, transformation: AdvantageTransformation, *, per_group: Sequence[str] = ()):
        """Starts from the transformation's initial state.

        Args:
          transformation: from `fade_jax.transforms`.
          per_group: names of statistics that have one value for each group, such as `prompt` of
            `focal_by_prompt`; given for each row, of which the first of a group is read.

        Raises:
          ValueError: if `transformation` is not an `AdvantageTransformation`.
        """
        if not isinstance(transformation, AdvantageTransformation):
            raise ValueError(
                f"transformation must be an AdvantageTransformation, got {transformation}"
            )
        self._per_group = frozenset(per_group)
        with _on_cpu():
            self._state = transformation.init()

        def update(
            values: jax.Array, where: jax.Array, state: AdvantageState, statistics: dict[str, Any]
        ) -> tuple[jax.Array, AdvantageState]:
            return transformation.update(values, state, where=where, **statistics)

        self._update = jax.jit(update)

    @property
    def state(self) -> AdvantageState:
        """The state after the last batch; `optax.tree_utils.tree_get(state, "alpha")` reads α."""
        return self._state

    def __call__(
        self,
        rewards: HostArray,
        index: HostArray,
        *,
        where: HostArray | None = None,
        mask: HostArray | None = None,
        training: bool = True,
        **statistics: HostArray,
    ) -> HostArray:
        """Computes the advantages of a batch and moves the state.

            A[i, t] = A_i · mask[i, t],   A_i from the reward of row i and those of its group

        Args:
          rewards: `[N]`, or `[N, T]` of tokens, which are summed where the mask is true.
          index: `[N]`, what tells the groups apart: integers, strings or other hashable values.
          where: `[N]`, true for the rollouts that count; the others get 0 and do not enter the
            statistics of their group. Their rewards may be NaN. None counts all.
          mask: `[N, T]`, true for the tokens of the completion. A row without one counts still.
          training: whether the state moves; for a batch of evaluation it must not.
          **statistics: scalars, such as `entropy`, the mean token entropy in nats; or one value for
            each row, `[N]`, such as `lengths`.

        Returns:
          `[N]`, or `[N, T]` with a mask: a torch tensor on the device of the rewards if they are
          one, else a NumPy array; of their dtype if it is floating point, else float32.

        Raises:
          ValueError: if shapes do not match, or a statistic that the transformation reads is
            missing.
        """
        values = _to_numpy(rewards)
        if values.ndim not in (1, 2):
            raise ValueError(f"rewards must be [N] or [N, T], got shape {values.shape}")
        tokens = None if mask is None else _to_numpy(mask).astype(bool)
        if tokens is not None and (tokens.ndim != 2 or len(tokens) != len(values)):
            raise ValueError(f"mask must be [{len(values)}, T], got shape {tokens.shape}")
        if values.ndim == 2:
            if tokens is None or tokens.shape != values.shape:
                got = "none" if tokens is None else f"shape {tokens.shape}"
                raise ValueError(f"rewards [N, T] need a mask of shape {values.shape}, got {got}")
            values = np.where(tokens, values, 0).sum(axis=1)
        layout = _layout(index, len(values))
        counts = np.ones(len(values), bool) if where is None else _to_numpy(where).astype(bool)
        if counts.shape != values.shape:
            raise ValueError(f"where must be {values.shape}, got shape {counts.shape}")
        given = {
            name: layout.statistic(name, _to_numpy(value), name in self._per_group)
            for name, value in statistics.items()
        }
        with _on_cpu():
            grouped, state = self._update(
                layout.spread(values.astype(np.float32)), layout.spread(counts), self._state, given
            )
        if training:
            self._state = state
        advantages = np.asarray(grouped)[layout.group, layout.rank]
        if tokens is not None:
            advantages = np.where(tokens, advantages[:, None], 0)
        return _like(rewards, advantages)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as a flat dict of numbers and lists, such as {"1/alpha": 1.5, ...}.

        JSON, pickle and torch's loader of weights alone all hold it exactly.
        """
        return {name: np.asarray(leaf).tolist() for name, leaf in self._named_leaves()}

    def load_state_dict(self, saved: Mapping[str, HostArray]) -> None:
        """Sets the state.

        Args:
          saved: from `state_dict` of the same transformation; also with arrays or tensors in it.

        Raises:
          ValueError: if names or shapes are those of another transformation.
        """
        expected = dict(self._named_leaves())
        if saved.keys() != expected.keys():
            raise ValueError(f"state_dict must have {sorted(expected)}, got {sorted(saved)}")
        arrays = {name: _to_numpy(value) for name, value in saved.items()}
        for name, leaf in expected.items():
            if arrays[name].shape != leaf.shape:
                raise ValueError(
                    f"{name} of state_dict must have shape {leaf.shape}, got {arrays[name].shape}"
                )
        with _on_cpu():
            leaves = [jnp.asarray(arrays[name], leaf.dtype) for name, leaf in expected.items()]
        self._state = jax.tree.unflatten(jax.tree.structure(self._state), leaves)

    def _named_leaves(self) -> list[tuple[str, jax.Array]]:
        leaves = jax.tree_util.tree_leaves_with_path(self._state)
        return [(jax.tree_util.keystr(path, simple=True, separator="/"), x) for path, x in leaves]


class _Layout(NamedTuple):
    """Where each row of a flat batch lies in `[P, G]`."""

    group: np.ndarray
    rank: np.ndarray
    shape: tuple[int, int]

    def spread(self, rows: np.ndarray) -> np.ndarray:
        """`[N]` to `[P, G]`, 0 where no row is."""
        grouped = np.zeros(self.shape, rows.dtype)
        grouped[self.group, self.rank] = rows
        return grouped

    def statistic(self, name: str, value: np.ndarray, per_group: bool) -> np.ndarray:
        """A scalar as it is; values of rows as `[P, G]`, or `[P]`, the first of each group."""
        if value.ndim == 0 and not per_group:
            return value.astype(np.float32)
        if value.shape != self.group.shape:
            raise ValueError(
                f"{name} must be a scalar or [{len(self.group)}], one for each row, "
                f"got shape {value.shape}"
            )
        grouped = self.spread(value)
        return grouped[:, 0] if per_group else grouped


def _layout(index: HostArray, rows: int) -> _Layout:
    labels = index.tolist() if hasattr(index, "tolist") else list(index)
    if len(labels) != rows:
        raise ValueError(f"index must have one label for each of {rows} rows, got {len(labels)}")
    numbers: dict[Any, int] = {}
    sizes: list[int] = []
    group, rank = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    for row, label in enumerate(labels):
        number = numbers.setdefault(label, len(numbers))
        if number == len(sizes):
            sizes.append(0)
        group[row], rank[row] = number, sizes[number]
        sizes[number] += 1
    return _Layout(group, rank, (_power_of_two(len(sizes)), _power_of_two(max(sizes, default=1))))


def _power_of_two(size: int) -> int:
    """The smallest power of two of at least `size`."""
    return 1 << max(size - 1, 0).bit_length()


def _to_numpy(values: HostArray) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _like(rewards: HostArray, advantages: np.ndarray) -> HostArray:
    if hasattr(rewards, "new_tensor"):
        dtype = rewards.dtype if rewards.is_floating_point() else sys.modules["torch"].float32
        return rewards.new_tensor(advantages, dtype=dtype)
    dtype = np.asarray(rewards).dtype
    return advantages.astype(dtype if np.issubdtype(dtype, np.floating) else np.float32)


def _on_cpu():
    return jax.default_device(jax.local_devices(backend="cpu")[0])
