"""Checkpoints of the whole training state that survive a kill at any moment.

Orbax writes into a temporary directory and renames it when complete, so a killed save leaves
nothing behind; of several processes each writes what its devices hold. Beside the arrays lies a
SHA-256 of their bytes. Training sets a damaged checkpoint aside and uses the one before it; what
only reads a run moves nothing.
"""

import hashlib
import logging
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.multihost import everywhere, first, whole

logger = logging.getLogger(__name__)


class DifferentStateError(ValueError):
    """A checkpoint is whole, but holds another state than the one to restore into."""


def tree_sha256(tree) -> str:
    """SHA-256 over the paths, dtypes, shapes and bytes of a pytree's arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.ascontiguousarray(whole(leaf))
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _pack(state):
    """PRNG keys become their uint32 data: every leaf is a plain array."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, state)


def _packed_shapes(like):
    def shape(leaf):
        if _is_key(leaf):
            data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
            return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    return jax.tree.map(shape, like)


def _named_shapes(tree) -> dict[str, str]:
    """The dtype and shape of every array of a pytree, by its path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype}{tuple(leaf.shape)}"
        for path, leaf in leaves
        if getattr(leaf, "shape", None) is not None
    }


def _unpack(arrays, like):
    return jax.tree.map(lambda x, t: jax.random.wrap_key_data(x) if _is_key(t) else x, arrays, like)


class Checkpoints:
    """The checkpoints of one directory; the newest `keep` are kept."""

    def __init__(self, directory: Path, keep: int):
        self._directory = Path(directory).absolute()
        self._keep = keep
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        # Saves block until they are on disk: the next step donates the buffers being saved.
        return ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=self._keep, enable_async_checkpointing=False
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "digest": ocp.JsonCheckpointHandler(),
            },
        )

    def save(self, step: int, state) -> None:
        """Writes `state` as checkpoint `step`; returns when it is complete."""
        arrays = _pack(state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays),
                digest=ocp.args.JsonSave({"sha256": tree_sha256(arrays)}),
            ),
        )

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def restore(self, like, step: int | None = None, *, set_aside: bool = False):
        """Reads the newest readable checkpoint, or exactly `step`.

        Args:
          like: arrays or ShapeDtypeStructs with the shapes, dtypes and shardings to restore to.
          step: None for the newest that can be read; damaged ones are passed over, with a warning.
          set_aside: move damaged checkpoints to unreadable_checkpoints/.

        Returns:
          (step, state), or None where there is no readable checkpoint.

        Raises:
          FileNotFoundError: if `step` is given and is not there.
          DifferentStateError: if a checkpoint holds other arrays than `like`.
          OSError, MemoryError: from reading, but for a missing file; nothing is moved.
        """
        if step is not None:
            if step not in self.steps():
                raise FileNotFoundError(
                    f"no checkpoint of step {step} in {self._directory}; there are {self.steps()}"
                )
            return step, self._read(step, like)
        for candidate in reversed(self.steps()):
            try:
                return candidate, self._read(candidate, like)
            except (DifferentStateError, MemoryError):
                raise
            except Exception as error:
                if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                    raise
                reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
                logger.warning(
                    "checkpoint %d in %s cannot be read (%s); falling back to the one before",
                    candidate,
                    self._directory,
                    reason[:200],
                )
                if set_aside:
                    self._set_aside(candidate)
        return None

    def _check_same_arrays(self, step: int, like) -> None:
        """Raises DifferentStateError if the metadata of checkpoint `step` names other arrays."""
        try:
            saved = self._manager.item_metadata(step).state
            there = _named_shapes(getattr(saved, "tree", saved))
        except Exception:  # damaged metadata: reading it will say so
            return
        here = _named_shapes(_packed_shapes(like))
        if not there or there == here:
            return
        name = min(n for n in there.keys() | here.keys() if there.get(n) != here.get(n))
        raise DifferentStateError(
            f"checkpoint {step} in {self._directory} is of a run with another config:"
            f" {name} is {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        )

    def _read(self, step: int, like):
        everywhere(lambda: self._check_same_arrays(step, like))
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(_packed_shapes(like)), digest=ocp.args.JsonRestore()
        )
        restored = everywhere(lambda: self._manager.restore(step, args=arguments))
        if tree_sha256(restored.state) != restored.digest["sha256"]:
            raise ValueError("its bytes do not match their SHA-256")
        return _unpack(restored.state, like)

    def _set_aside(self, step: int) -> None:
        self._manager.close()
        broken = self._directory.parent / "unreadable_checkpoints"

        def move():
            broken.mkdir(exist_ok=True)
            shutil.rmtree(broken / str(step), ignore_errors=True)
            shutil.move(self._directory / str(step), broken / str(step))

        first(move)
        self._manager = self._open()

    def close(self) -> None:
        """Releases the directory."""
        self._manager.close()
