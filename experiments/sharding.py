"""One mesh, its named axes, and the rules that lay arrays out on it.

One device is a mesh of one: the same code path serves a laptop and a pod.
"""

import contextlib

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.config import ConfigError

MESH_AXES = ("data", "fsdp", "tensor")

# Prompts and their rollouts are split over both of these; parameters over fsdp and tensor.
BATCH = PartitionSpec(("data", "fsdp"))

# Where each logical axis of a parameter (experiments.models.transformer.parameter_axes) goes.
RULES = {
    "layers": None,
    "embed": "fsdp",
    "vocab": "tensor",
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "norm": None,
}


def make_mesh(sizes, devices=None) -> Mesh:
    """Returns the mesh of `sizes` (a mapping with data, fsdp, tensor; data = -1 takes the rest).

    Raises:
      ConfigError: if the devices cannot be split that way.
    """
    devices = jax.devices() if devices is None else devices
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
    if count < len(devices) and jax.process_count() > 1:
        raise ConfigError(
            f"config.mesh must use all {len(devices)} devices of the {jax.process_count()}"
            f" processes, got {count}"
        )
    return jax.make_mesh(
        (data, fsdp, tensor), MESH_AXES, (AxisType.Auto,) * 3, devices=devices[:count]
    )


def layout(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Makes `by_prompt` lay arrays out over `mesh` in what is traced inside."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def by_prompt(x: jax.Array, *rest) -> jax.Array:
    """Splits an activation [P, ...] by its prompts; outside of a `layout` it stays as it is.

    Parameters are split over the same mesh axis as the prompts, fsdp. Left to itself XLA would at
    times rather split the width of the activations too, and every device would hold all prompts.

    Args:
      x: an activation whose leading axis is the prompts.
      *rest: mesh axis, or None for whole, of every other axis; left to XLA if not given.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    rest = rest or (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*BATCH, *rest))


def whole_over_fsdp(shardings):
    """The same shardings without a split over fsdp: every data rank holds whole parameters."""

    def without(sharding):
        spec = (None if axis == "fsdp" else axis for axis in sharding.spec)
        return NamedSharding(sharding.mesh, PartitionSpec(*spec))

    return jax.tree.map(without, shardings)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def place(tree, shardings):
    """Lays arrays of the host out on the mesh; each process gives only what its devices hold.

    Args:
      tree: of numpy arrays, whole on every process.
      shardings: one for all, or a pytree of them.
    """
    if isinstance(shardings, NamedSharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, tree)
    return jax.tree.map(
        lambda x, s: jax.make_array_from_callback(x.shape, s, lambda index: x[index]),
        tree,
        shardings,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose leading axis is the prompts."""
    return NamedSharding(mesh, BATCH)


def stacked(shardings):
    """The shardings of arrays stacked along a new leading axis, which every device holds whole."""
    return jax.tree.map(lambda s: NamedSharding(s.mesh, PartitionSpec(None, *s.spec)), shardings)


def check_batch(mesh: Mesh, field: str, size: int) -> None:
    """Raises ConfigError when `size` prompts cannot be split evenly over the mesh."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if size % parts:
        raise ConfigError(
            f"{field} must be a multiple of config.mesh.data x config.mesh.fsdp = {parts},"
            f" got {size}"
        )


def check_batches(mesh: Mesh, config) -> None:
    """Raises ConfigError when a batch of the run cannot be split evenly over the mesh."""
    check_batch(mesh, "config.prompts", config.prompts)
    per_update = config.prompts // (config.learner.minibatches * config.learner.microbatches)
    check_batch(mesh, "the prompts of a microbatch", per_update)
    check_batch(mesh, "config.evaluation.prompts_per_call", config.evaluation.prompts_per_call)
    if config.warm_start.steps:
        check_batch(mesh, "config.warm_start.batch", config.warm_start.batch)


def parameter_shardings(mesh: Mesh, axes, shapes):
    """Returns the sharding of each parameter from its logical axis names.

    Args:
      mesh: the mesh.
      axes: pytree of tuples of logical axis names, one per dimension.
      shapes: the same pytree of arrays or ShapeDtypeStructs.

    Raises:
      ConfigError: if a dimension cannot be split evenly over its mesh axis.
    """

    def sharding(names, leaf):
        spec = tuple(RULES[name] for name in names)
        for size, name, axis in zip(leaf.shape, names, spec, strict=True):
            if axis is not None and size % mesh.shape[axis]:
                raise ConfigError(
                    f"config.mesh.{axis} = {mesh.shape[axis]} must divide the {name} dimension"
                    f" {size} of a parameter of shape {leaf.shape}"
                )
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(sharding, axes, shapes, is_leaf=lambda x: isinstance(x, tuple))
