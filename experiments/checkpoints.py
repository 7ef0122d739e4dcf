"""Checkpoints of the whole training state that survive a kill at any moment.

Orbax copies the arrays to the host, then writes them in a background thread into a temporary
directory that it renames when complete: a killed save leaves nothing behind, and the next training
step may donate its buffers. Beside the arrays lie SHA-256 hashes of the files, made in the same
thread; of several processes each hashes the files that it wrote. Training sets a checkpoint aside
only when its files are proven damaged, and uses the one before; a command that only reads a run
moves nothing. Below: multihost. Above: loop, evaluate.
"""

import dataclasses
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from experiments.multihost import blocks, everywhere, first

logger = logging.getLogger(__name__)
# Orbax logs with a traceback what fails in its threads, which `Checkpoints` raises, and warns of
# what a killed process left.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


class DifferentStateError(ValueError):
    """A checkpoint is whole, but holds another state than the one to restore into."""


class DamagedError(ValueError):
    """The files of a checkpoint are not the ones that were written."""


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turns what the system, Orbax or tensorstore raise into an OSError of one line.

    Raises:
      OSError: `what`, and why without tensorstore's specifications of its arrays.
    """
    try:
        yield
    except (DamagedError, DifferentStateError, MemoryError):
        raise
    except Exception as error:
        why = re.sub(r" \[(tensorstore_spec|source locations).*", "", str(error), flags=re.DOTALL)
        raise OSError(f"{what}: {' '.join(why.split())[:300] or repr(error)}") from error


def tree_sha256(tree) -> str:
    """Returns the SHA-256 of the paths, dtypes, shapes and bytes of a pytree's arrays.

    To be called by all processes; none of them holds more than a block of a sharded array.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        shape = leaf.shape or (1,)  # of a scalar too, as hashes have been since the first ones
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {shape}".encode())
        for block in blocks(leaf):
            digest.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


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


def _as_tree(restored, like):
    """The NamedTuple of the fields that were read; those left out are as in `like`, empty."""
    if isinstance(restored, dict) and hasattr(like, "_replace"):
        return like._replace(**restored)
    return restored


def _unpack(arrays, like):
    return jax.tree.map(lambda x, t: jax.random.wrap_key_data(x) if _is_key(t) else x, arrays, like)


def _write_hashes(path: Path, files: Iterable[Path]) -> None:
    """Writes the SHA-256 of `files`, which lie below the directory of `path`, as JSON."""
    hashes = {}
    for file in files:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        hashes[file.relative_to(path.parent).as_posix()] = digest
    path.write_text(json.dumps(hashes))


def _files_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


class _HashOwnFiles:
    """A future of Orbax: waits for this process's writes, then hashes the files they made."""

    def __init__(self, directory: Path, writes: Iterable):
        self._directory, self._writes = directory, list(writes)

    def result(self, timeout: float | None = None) -> None:
        """Waits and hashes; called in the thread that writes the checkpoint."""
        for write in self._writes:
            write.result(timeout)
        name = f"process_{jax.process_index()}"
        own = _files_below(self._directory / f"ocdbt.{name}")
        _write_hashes(self._directory / f"hashes.{name}.json", own)


class _HashedHandler(ocp.StandardCheckpointHandler):
    """Writes `hashes.process_I.json` of each process's files and `hashes.json` of all others."""

    async def async_save(self, directory, item=None, save_args=None, args=None):
        """Starts the writes; returns futures that also hash."""
        writes = await super().async_save(directory, item, save_args, args) or []
        path: Any = getattr(directory, "path", directory)
        return [*writes, _HashOwnFiles(Path(path), writes)]

    def finalize(self, directory) -> None:
        """Completes the checkpoint; called by the first process, before the rename."""
        super().finalize(directory)
        directory = Path(directory)
        others = [p for p in _files_below(directory) if "ocdbt.process_" not in p.as_posix()]
        _write_hashes(directory / "hashes.json", others)


@ocp.args.register_with_handler(_HashedHandler, for_save=True)
@dataclasses.dataclass
class _HashedSave(ocp.args.StandardSave):
    """Arguments of `_HashedHandler`."""


@ocp.args.register_with_handler(_HashedHandler, for_restore=True)
@dataclasses.dataclass
class _HashedRestore(ocp.args.StandardRestore):
    """Arguments of `_HashedHandler`."""


def _check_files(state: Path) -> None:
    """Compares the files of a checkpoint with their hashes; each process reads its share.

    Raises:
      DamagedError: if a file is missing or holds other bytes.
    """
    try:
        expected = json.loads((state / "hashes.json").read_text())
        for name in [name for name in expected if name.startswith("hashes.process_")]:
            expected |= json.loads((state / name).read_text())
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise DamagedError(f"its hashes cannot be read: {error}") from error
    for name in sorted(expected)[jax.process_index() :: jax.process_count()]:
        path = state / name
        if not path.exists():
            raise DamagedError(f"{path} is missing")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected[name]:
                raise DamagedError(f"{path} does not have the bytes that were written")


class Checkpoints:
    """The checkpoints of one directory; the newest `keep` are kept."""

    def __init__(self, directory: Path, keep: int):
        self._directory = Path(directory).absolute()
        self._keep = keep
        self._saving: int | None = None
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        with _one_line(f"checkpoints in {self._directory} cannot be opened"):
            return ocp.CheckpointManager(
                self._directory,
                options=ocp.CheckpointManagerOptions(max_to_keep=self._keep),
                item_handlers={"state": _HashedHandler(), "digest": ocp.JsonCheckpointHandler()},
            )

    def save(self, step: int, state) -> None:
        """Starts writing `state` as checkpoint `step`; its buffers may be donated at once.

        Waits for the save before, and raises what went wrong with it.
        """
        self.wait()
        self._saving = step
        args = ocp.args.Composite(state=_HashedSave(_pack(state)))
        with self._saved():
            self._manager.save(step, args=args)

    def wait(self) -> None:
        """Returns when the last save is complete; raises what went wrong with it."""
        with self._saved():
            self._manager.wait_until_finished()

    def _saved(self):
        return _one_line(f"checkpoint {self._saving} in {self._directory} cannot be written")

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def restore(self, like, step: int | None = None, *, set_aside: bool = False):
        """Reads the newest readable checkpoint, or exactly `step`.

        Args:
          like: arrays or ShapeDtypeStructs with the shapes, dtypes and shardings to restore to.
          step: None for the newest that is whole; damaged ones are passed over, with a warning.
          set_aside: move damaged checkpoints to unreadable_checkpoints/.

        Returns:
          (step, state), or None where no checkpoint is whole.

        Raises:
          FileNotFoundError: if `step` is given and is not there.
          DifferentStateError: if a checkpoint holds other arrays than `like`.
          DamagedError: if `step` is given and is damaged.
          Other errors of reading, such as OSError and MemoryError: nothing is moved.
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
            except DamagedError as error:
                logger.warning(
                    "checkpoint %d in %s is damaged (%s); falling back to the one before",
                    candidate,
                    self._directory,
                    str(error).strip().splitlines()[0][:200],
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
        with _one_line(f"checkpoint {step} in {self._directory} cannot be read"):
            return self._read_whole(step, like)

    def _read_whole(self, step: int, like):
        everywhere(lambda: self._check_same_arrays(step, like), DifferentStateError)
        state = _HashedRestore(self._fields_there(step, _packed_shapes(like)))
        folder = self._directory / str(step)
        if (folder / "digest").exists():  # saved before files were hashed
            return _unpack(self._read_hashed_arrays(step, state, like), like)
        everywhere(lambda: _check_files(folder / "state"), DamagedError)
        args = ocp.args.Composite(state=state)
        restored = everywhere(lambda: self._manager.restore(step, args=args))
        return _unpack(_as_tree(restored.state, like), like)

    def _fields_there(self, step: int, like):
        """Leaves out the empty fields of a NamedTuple that came after checkpoint `step`."""
        if not hasattr(like, "_asdict"):
            return like
        try:
            saved = self._manager.item_metadata(step).state
            names = set(getattr(saved, "tree", saved))
        except Exception:  # damaged metadata: reading it will say so
            return like
        fields = like._asdict()
        return {n: value for n, value in fields.items() if n in names or jax.tree.leaves(value)}

    def _read_hashed_arrays(self, step: int, state: _HashedRestore, like):
        """Reads a checkpoint that holds one SHA-256 of its arrays, not of its files."""
        args = ocp.args.Composite(state=state, digest=ocp.args.JsonRestore())

        def read():
            try:
                return self._manager.restore(step, args=args)
            except (OSError, MemoryError) as error:
                if isinstance(error, FileNotFoundError):
                    raise DamagedError(str(error)) from error
                raise
            except Exception as error:  # of tensorstore, for bytes that it cannot decode
                raise DamagedError(str(error) or repr(error)) from error

        restored = everywhere(read, DamagedError)
        tree = _as_tree(restored.state, like)
        if tree_sha256(tree) != restored.digest["sha256"]:
            raise DamagedError("its bytes do not match their SHA-256")
        return tree

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
        """Completes the last save and releases the directory; raises what went wrong with it."""
        with self._saved():
            self._manager.close()
