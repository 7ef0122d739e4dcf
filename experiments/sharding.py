"""The device mesh, its named axes, and the rules that lay arrays out on it.

A single device is a mesh of size 1: a laptop and a pod share the code path.

Below: config. Above: step_functions. Parameters and activations declare logical axes in
experiments.models; RULES maps them to mesh axes.
"""

import contextlib

import flax.linen as nn
import jax
from flax.linen import spmd
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.config import ConfigError

MESH_AXES = ("data", "fsdp", "tensor")

# The mesh axis of each logical axis. Prompts and their rollouts are split over two of them.
RULES = (
    ("prompts", ("data", "fsdp")),
    ("layers", None),
    ("embed", "fsdp"),
    ("vocab", "tensor"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("head_dim", None),
    ("rank", None),
)


def make_mesh(sizes, devices=None) -> Mesh:
    """Returns the mesh of `sizes` (a mapping with data, fsdp, tensor; data = -1 takes the rest).

    The last `samplers` devices are left out, if `sizes` has that too.

    Raises:
      ConfigError: if the devices cannot be split that way.
    """
    devices = jax.devices() if devices is None else devices
    if samplers := sizes.get("samplers", 0):
        devices = _beside_samplers(sizes, devices)
    data, fsdp, tensor = (sizes[axis] for axis in MESH_AXES)
    if data == -1:
        if len(devices) % (fsdp * tensor):
            raise ConfigError(
                f"config.mesh.fsdp x config.mesh.tensor = {fsdp * tensor} must divide the number"
                f" of devices, {len(devices)}"
            )
        data = len(devices) // (fsdp * tensor)
    count = data * fsdp * tensor
    if count > len(devices):
        raise ConfigError(f"config.mesh needs {count} devices, there are {len(devices)}")
    if count < len(devices) and not samplers and jax.process_count() > 1:
        raise ConfigError(
            f"config.mesh must use all {len(devices)} devices of the {jax.process_count()}"
            f" processes, got {count}"
        )
    return jax.make_mesh(
        (data, fsdp, tensor), MESH_AXES, (AxisType.Auto,) * 3, devices=devices[:count]
    )


def _beside_samplers(sizes, devices) -> list:
    samplers, tensor = sizes["samplers"], sizes["tensor"]
    if jax.process_count() > 1:
        raise ConfigError(
            f"config.mesh.samplers must be 0 in a run of {jax.process_count()} processes, got"
            f" {samplers}: one process must see the devices of both sides"
        )
    if samplers % tensor or samplers >= len(devices):
        raise ConfigError(
            f"config.mesh.samplers must be a multiple of config.mesh.tensor = {tensor} below the"
            f" number of devices, {len(devices)}, got {samplers}"
        )
    return devices[: len(devices) - samplers]


def sampler_mesh(sizes, devices=None) -> Mesh:
    """Returns the mesh of the last `sizes.samplers` devices; parameters are not split over fsdp.

    Raises:
      ConfigError: if the devices cannot be split that way.
    """
    devices = jax.devices() if devices is None else devices
    devices = devices[len(_beside_samplers(sizes, devices)) :]
    shape = len(devices) // sizes["tensor"], 1, sizes["tensor"]
    return jax.make_mesh(shape, MESH_AXES, (AxisType.Auto,) * 3, devices=devices)


@contextlib.contextmanager
def layout(mesh: Mesh):
    """Activates the logical constraints of the models, over `mesh`, for what is traced inside."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(RULES):
        yield


def whole_over_fsdp(shardings):
    """Returns the shardings without a split over fsdp: every data rank holds whole parameters."""

    def without(sharding):
        spec = (None if axis == "fsdp" else axis for axis in sharding.spec)
        return NamedSharding(sharding.mesh, PartitionSpec(*spec))

    return jax.tree.map(without, shardings)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def place(tree, shardings):
    """Lays arrays of the host out on the mesh; each process copies only its devices' shards.

    Args:
      tree: of numpy arrays, whole on every process.
      shardings: a sharding for all arrays, or a pytree of them.
    """
    if isinstance(shardings, NamedSharding):
        shared = shardings
        shardings = jax.tree.map(lambda _: shared, tree)
    return jax.tree.map(
        lambda x, s: jax.make_array_from_callback(x.shape, s, lambda index: x[index]),
        tree,
        shardings,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose leading axis is the prompts."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def stacked(shardings):
    """Returns the shardings of stacked arrays, with the new leading axis whole on every device."""
    return jax.tree.map(lambda s: NamedSharding(s.mesh, PartitionSpec(None, *s.spec)), shardings)


def check_batch(mesh: Mesh, field: str, size: int) -> None:
    """Raises ConfigError if `size` prompts cannot be split evenly over the mesh."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if size % parts:
        raise ConfigError(
            f"{field} must be a multiple of config.mesh.data x config.mesh.fsdp = {parts},"
            f" got {size}"
        )


def check_batches(mesh: Mesh, config) -> None:
    """Raises ConfigError if a batch of the run cannot be split evenly over the mesh."""
    check_batch(mesh, "config.prompts", config.prompts)
    if config.mesh.samplers:
        parts = sampler_mesh(config.mesh).shape["data"]
        if config.prompts % parts:
            raise ConfigError(
                f"config.prompts must be a multiple of config.mesh.samplers / config.mesh.tensor ="
                f" {parts}, got {config.prompts}"
            )
    per_update = config.prompts // (config.learner.minibatches * config.learner.microbatches)
    check_batch(mesh, "the prompts of a microbatch", per_update)
    check_batch(mesh, "config.evaluation.prompts_per_call", config.evaluation.prompts_per_call)
    if config.warm_start.steps:
        check_batch(mesh, "config.warm_start.batch", config.warm_start.batch)


def parameter_shardings(mesh: Mesh, params):
    """Returns the sharding of each parameter from its logical axes.

    Args:
      mesh: the mesh.
      params: pytree of nn.LogicallyPartitioned, such as transformer.abstract_params returns.

    Raises:
      ConfigError: if a dimension cannot be split evenly over its mesh axis.
    """
    shardings = spmd.logical_to_mesh_sharding(nn.get_partition_spec(params), mesh, RULES)

    def check(sharding, boxed):
        shape = boxed.value.shape
        for size, name, axis in zip(shape, boxed.names, sharding.spec, strict=True):
            if axis is not None and size % mesh.shape[axis]:
                raise ConfigError(
                    f"config.mesh.{axis} = {mesh.shape[axis]} must divide the {name} dimension"
                    f" {size} of a parameter of shape {shape}"
                )

    jax.tree.map(check, shardings, params)
    return shardings
