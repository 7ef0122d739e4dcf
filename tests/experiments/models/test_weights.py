"""Parameters read onto devices, slice by slice."""

import dataclasses
import json
import socket

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments.models import huggingface, weights
from experiments.models.config import ModelConfig
from experiments.sharding import make_mesh
from experiments.step_functions import parameter_shardings
from tests.experiments.models.checkpoints import write_gguf
from tests.experiments.models.common import random_params

SIZES = ModelConfig(
    vocab_size=40,
    num_layers=3,
    d_model=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    d_ff=24,
    tied_head=False,
    qkv_bias=True,
)
MESHES = {
    "replicated": {"data": 8, "fsdp": 1, "tensor": 1},
    "fsdp": {"data": 1, "fsdp": 8, "tensor": 1},
    "fsdp of half": {"data": 2, "fsdp": 4, "tensor": 1},
    "all": {"data": 2, "fsdp": 2, "tensor": 2},
    "one device": {"data": 1, "fsdp": 1, "tensor": 1},
}
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def shardings_on(sizes, config=SIZES):
    return parameter_shardings(config, make_mesh(sizes))


def assert_equal(found, expected, dtype=np.float32):
    def check(x, y):
        assert x.dtype == dtype
        np.testing.assert_array_equal(x, y)

    jax.tree.map(check, jax.device_get(found), expected)


@pytest.mark.parametrize(
    ("mesh", "block_bytes"), [*((mesh, 500) for mesh in MESHES), ("all", 1), ("fsdp", 2**25)]
)
def test_load_onto_devices_keeps_every_bit(tmp_path, monkeypatch, mesh, block_bytes):
    monkeypatch.setattr(weights, "BLOCK_BYTES", block_bytes)
    params = random_params(SIZES)
    huggingface.save(tmp_path, SIZES, params, shard_bytes=3000)
    _, load = huggingface.open_model(tmp_path)
    shardings = shardings_on(MESHES[mesh])
    found = load(shardings)
    assert jax.tree.map(lambda x: x.sharding, found) == shardings
    assert_equal(found, params)


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [("float32", "bfloat16"), ("float16", "float32"), ("float16", "bfloat16"), ("bfloat16",) * 2],
)
def test_load_casts_once(tmp_path, stored, dtype):
    params = random_params(SIZES)
    params["layers"]["up"][0, 0, 0] = 2.0**-24  # subnormal in float16
    huggingface.save(tmp_path, SIZES, params, dtype=stored)
    _, load = huggingface.open_model(tmp_path)
    expected = jax.tree.map(lambda x: x.astype(DTYPES[stored]).astype(DTYPES[dtype]), params)
    assert_equal(load(shardings_on(MESHES["all"]), dtype), expected, DTYPES[dtype])
    assert_equal(load(dtype=dtype), expected, DTYPES[dtype])


def test_load_gguf_onto_devices(tmp_path):
    params = random_params(SIZES)
    write_gguf(tmp_path / "model.gguf", "qwen2", SIZES, params)
    _, load = huggingface.open_model(tmp_path / "model.gguf")
    assert_equal(load(shardings_on(MESHES["all"])), params)


def test_load_returns_arrays_that_can_be_donated(tmp_path):
    params = random_params(SIZES)
    huggingface.save(tmp_path, SIZES, params)
    _, load = huggingface.open_model(tmp_path)
    shardings = shardings_on(MESHES["fsdp"])
    zero = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)
    for _ in range(2):
        found = load(shardings)
        assert_equal(found, params)
        zero(found)


@pytest.mark.parametrize("mesh", ["replicated", "fsdp", "one device"])
def test_load_reads_every_number_once(tmp_path, mesh):
    huggingface.save(tmp_path, SIZES, random_params(SIZES), dtype="bfloat16")
    seen = {}

    def read(name, index):
        part = checkpoint.read(name, index)
        seen.setdefault(name, np.zeros(checkpoint.shapes[name], int))[index] += 1
        return part

    with huggingface.open_directory(tmp_path) as (config, checkpoint):
        weights.load(config, checkpoint._replace(read=read), shardings_on(MESHES[mesh]))
        assert seen.keys() == checkpoint.shapes.keys()
    assert all(np.all(count == 1) for count in seen.values())


def test_load_refuses_numbers_that_are_not_finite(tmp_path):
    params = random_params(SIZES)
    params["layers"]["down"][1, 3, 5] = 3.4e38  # finite in float32, not in bfloat16
    huggingface.save(tmp_path, SIZES, params)
    _, load = huggingface.open_model(tmp_path)
    name = r"model\.layers\.1\.mlp\.down_proj\.weight"
    for shardings in (None, shardings_on(MESHES["fsdp"])):
        load(shardings)
        with pytest.raises(ValueError, match=f"{tmp_path.name} cannot be read: {name} holds numb"):
            load(shardings, "bfloat16")


def test_load_refuses_layers_that_are_split(tmp_path):
    config = dataclasses.replace(SIZES, num_layers=2)
    huggingface.save(tmp_path, config, random_params(config))
    _, load = huggingface.open_model(tmp_path)
    shardings = shardings_on({"data": 1, "fsdp": 1, "tensor": 2}, config)
    split = NamedSharding(shardings["embedding"].mesh, PartitionSpec("tensor"))
    shardings["layers"]["up"] = split
    with pytest.raises(ValueError, match="the layers of up must not be split over devices"):
        load(shardings)


def test_save_from_devices_equals_save_from_the_host(tmp_path):
    params = random_params(SIZES)
    huggingface.save(tmp_path / "host", SIZES, params, shard_bytes=3000)
    placed = jax.device_put(params, shardings_on(MESHES["all"]))
    huggingface.save(tmp_path / "devices", SIZES, placed, shard_bytes=3000)
    files = sorted(path.name for path in (tmp_path / "host").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "devices").iterdir())
    for name in files:
        assert (tmp_path / "host" / name).read_bytes() == (tmp_path / "devices" / name).read_bytes()


WIDE = ModelConfig(
    vocab_size=65536,
    num_layers=10,
    d_model=512,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
    d_ff=2048,
    tied_head=False,
    qk_norm=True,
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A checkpoint of 213 MB in bfloat16, whose largest tensor has 67 MB: (directory, params)."""
    directory = tmp_path_factory.mktemp("wide")
    params = jax.tree.map(
        lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), random_params(WIDE)
    )
    huggingface.save(directory, WIDE, params, "bfloat16", shard_bytes=50 * 10**6)
    return directory, params


@pytest.mark.slow
def test_load_takes_little_more_memory_than_the_devices_hold(command, wide):
    directory, params = wide
    process = command("tests.experiments.models.load_run", directory, 8, 8, 1)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    said = json.loads(out)
    once = sum(x.nbytes for x in jax.tree.leaves(params))
    heads = 2 * params["layers"]["query_norm"].nbytes  # norms of heads are whole on every device
    held, largest = once + 7 * heads, 2 * WIDE.vocab_size * WIDE.d_model
    assert (said["held"], said["read"]) == (held, once // 2)
    assert held <= said["peak"] <= held + 1.2 * largest
    # A file of 2^26 bytes, or of one tensor; and the next in float32, on the devices and the host.
    assert said["saving"] <= 2**26 + 1.2 * 2 * 2 * largest
    _, saved = huggingface.load_model(directory / "saved")
    assert_equal(saved, params)


@pytest.mark.slow
@pytest.mark.parametrize(("fsdp", "tensor"), [(4, 1), (2, 2)])
def test_each_of_two_processes_reads_its_slices(command, wide, fsdp, tensor):
    directory, params = wide
    with socket.socket() as server:
        server.bind(("localhost", 0))
        port = server.getsockname()[1]
    processes = [
        command("tests.experiments.models.load_run", directory, 2, fsdp, tensor, port, 2, i)
        for i in range(2)
    ]
    said = []
    for process in processes:
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, err
        said.append(json.loads(out.splitlines()[-1]))
    leaves = jax.tree.leaves(params)
    total = sum(x.nbytes for x in leaves) // 2
    for line in said:  # norms of heads are whole on every device
        assert line["read"] == pytest.approx(total / 2, rel=1e-3)
    expected = sum(float(np.sum(x, dtype=np.float64)) for x in leaves)
    assert sum(line["sum"] for line in said) == pytest.approx(expected, rel=1e-9)
