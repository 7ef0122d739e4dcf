"""Checkpoints against damage of their files, and against buffers that are donated meanwhile."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import checkpoints, multihost
from experiments.checkpoints import Checkpoints, DamagedError, DifferentStateError, tree_sha256


def state_of(value):
    return {"w": jnp.full((64, 128), value, jnp.float32), "key": jax.random.key(int(value))}


def restore(directory, step=None, **options):
    store = Checkpoints(directory, keep=3)
    try:
        return store.restore(jax.eval_shape(lambda: state_of(0)) | {}, step, **options)
    finally:
        store.close()


@pytest.fixture(name="directory")
def directory_fixture(tmp_path):
    store = Checkpoints(tmp_path / "checkpoints", keep=3)
    for step in (1, 2):
        store.save(step, state_of(step))
    store.close()
    return tmp_path / "checkpoints"


def test_save_is_not_changed_by_a_step_that_donates_its_buffers(tmp_path):
    """Each call may overwrite the 16 MB that are being saved: 8 times.

    A CPU keeps such a buffer until it is written, and the call takes a new one.
    """
    size = 4 * 2**20
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    store = Checkpoints(tmp_path, keep=8)
    x = jnp.arange(size, dtype=jnp.float32)
    for step in range(8):
        store.save(step, {"x": x})
        x = add(x)
    store.close()
    store = Checkpoints(tmp_path, keep=8)
    for step in range(8):
        _, restored = store.restore({"x": x}, step)
        np.testing.assert_array_equal(restored["x"], np.arange(size, dtype=np.float32) + step)
    store.close()


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "empty"])
def test_restore_falls_back_from_every_damaged_file(directory, tmp_path, damage, caplog):
    files = [p.relative_to(directory) for p in (directory / "2/state").rglob("*") if p.is_file()]
    for number, file in enumerate(files):
        if file.name == "commit_success.txt":  # says nothing of the arrays
            continue
        copy = tmp_path / str(number)
        shutil.copytree(directory, copy)
        path = copy / file
        content = bytearray(path.read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 1
        elif damage == "truncate":
            content = content[:-1]
        elif damage == "empty":
            content = b""
        path.write_bytes(content)
        if damage == "delete":
            path.unlink()
        step, state = restore(copy)
        assert step == 1, file
        np.testing.assert_array_equal(state["w"], state_of(1)["w"])
        assert (copy / "2").exists()  # reading alone moves nothing
        with pytest.raises(DamagedError):
            restore(copy, 2)


def test_restore_sets_a_damaged_checkpoint_aside(directory):
    (directory / "2/state/manifest.ocdbt").unlink()
    assert restore(directory, set_aside=True)[0] == 1
    assert (directory.parent / "unreadable_checkpoints/2").exists()
    assert not (directory / "2").exists()


def test_restore_of_other_arrays_names_one(directory):
    store = Checkpoints(directory, keep=3)
    like = {"w": jax.ShapeDtypeStruct((64, 64), jnp.float32), "key": jax.random.key(0)}
    with pytest.raises(DifferentStateError, match=r"w is float32\(64, 128\) there, .*\(64, 64\)"):
        store.restore(like, set_aside=True)
    store.close()
    assert (directory / "2").exists()


def test_save_reports_an_error_of_the_thread_that_writes(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write_hashes", fail)
    store = Checkpoints(tmp_path, keep=3)
    store.save(1, state_of(1))
    with pytest.raises(OSError, match="No space left"):
        store.wait()
    assert not list(tmp_path.glob("1"))


def test_tree_sha256_is_that_of_the_bytes_in_order():
    import hashlib

    tree = {"b": np.arange(6, dtype=np.int32).reshape(2, 3), "a": jnp.ones(3)}
    expected = hashlib.sha256()
    for name, text in (("a", "float32 (3,)"), ("b", "int32 (2, 3)")):
        expected.update(f"['{name}'] {text}".encode())
        expected.update(np.asarray(tree[name]).tobytes())
    assert tree_sha256(tree) == expected.hexdigest()


def test_tree_sha256_does_not_depend_on_the_sharding():
    x = jnp.arange(48.0).reshape(8, 6)
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("a", "b"))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("a", "b")))
    assert tree_sha256({"x": sharded}) == tree_sha256({"x": x})


@pytest.mark.parametrize("max_bytes", [1, 24, 60, 2**20])
def test_blocks_of_an_array_that_no_process_holds(monkeypatch, max_bytes):
    """As if the array were spread over processes: each block is gathered."""
    x = jnp.arange(48.0).reshape(8, 6)
    gathered = []

    class Spread(np.ndarray):
        is_fully_addressable = is_fully_replicated = False

    monkeypatch.setattr(multihost.jax, "Array", Spread)
    monkeypatch.setattr(
        multihost.multihost_utils,
        "process_allgather",
        lambda block, tiled: gathered.append(block.nbytes) or np.asarray(block),
    )
    spread = np.asarray(x).view(Spread)
    found = list(multihost.blocks(spread, max_bytes))
    np.testing.assert_array_equal(np.concatenate(found), x)
    assert max(gathered) <= max(max_bytes, x.nbytes // 8)


def test_hashes_name_every_file_but_their_own(directory):
    state = directory / "2/state"
    named = set(json.loads((state / "hashes.json").read_text()))
    named |= set(json.loads((state / "hashes.process_0.json").read_text()))
    files = {p.relative_to(state).as_posix() for p in state.rglob("*") if p.is_file()}
    assert files - named <= {"hashes.json", "commit_success.txt"}
