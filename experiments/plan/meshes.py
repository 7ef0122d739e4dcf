"""The --mesh of a plan, `data=1,fsdp=8,tensor=1`: mesh axes, and fields that change with them."""

import ast

from ml_collections import ConfigDict

from experiments.config import ConfigError
from experiments.sharding import MESH_AXES


def with_mesh(config: ConfigDict, text: str) -> ConfigDict:
    """Returns a copy of the config with the mesh of `text`.

    Args:
      config: of the run.
      text: `name=value` with commas between. A name is an axis of the mesh (1 if it is not named),
        or, with a dot, any field of the config, such as learner.microbatches.

    Raises:
      ConfigError: if it cannot be read, or names no axis or field.
    """
    config = config.copy_and_resolve_references()
    config.mesh.update(dict.fromkeys(MESH_AXES, 1))
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        path = name.split(".") if "." in name else ["mesh", name]
        section = config
        for step in path[:-1]:
            section = section.get(step) if isinstance(section, ConfigDict) else None
        if not isinstance(section, ConfigDict) or path[-1] not in section:
            raise ConfigError(
                "--mesh must be like data=1,fsdp=8,tensor=1 or learner.microbatches=4,"
                f" got {part!r}"
            )
        try:
            section[path[-1]] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError) as error:
            raise ConfigError(f"--mesh: {name} cannot be {value!r}") from error
    for axis in MESH_AXES:
        size = config.mesh[axis]
        if not isinstance(size, int) or size < 1:
            raise ConfigError(f"--mesh: {axis} must be a whole number >= 1, got {size!r}")
    return config


def device_count(config: ConfigDict) -> int:
    """How many devices the mesh of a config has; data is a number."""
    return config.mesh.data * config.mesh.fsdp * config.mesh.tensor
