"""Plans a run on devices that are not here, by compiling it for fake ones:

    python -m experiments.plan --config=configs/qwen2_5_7b.py --mesh=data=1,fsdp=8,tensor=1
    python -m experiments.plan --config=configs/qwen2_5_7b.py --mesh=fsdp=8 \
        --mesh=fsdp=16,tensor=4,learner.microbatches=4 --out=plan.json

Each --mesh is a column: the axes of the mesh, and with a dot any field of the config that goes with
it. Nothing is allocated; weights and data are not needed where the config file has a function
architecture(). --out writes the figures as JSON.
"""

import json
import shlex
import sys
from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

from experiments.command import config_module, one_line_errors
from experiments.config import ConfigError
from experiments.plan.meshes import device_count, with_mesh

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file of the run.")
_MESH = flags.DEFINE_multi_string("mesh", None, "data=1,fsdp=8,tensor=1; may be repeated.")
_OUT = flags.DEFINE_string("out", None, "File for the figures, as JSON.")


def main(argv):
    """Compiles, counts and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    out = Path(_OUT.value) if _OUT.value else None
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise ConfigError(f"--out must be a file in a directory that is there, got {str(out)!r}")
    configs = [with_mesh(_CONFIG.value, mesh) for mesh in _MESH.value]
    # Before the first use of a device, which starts the backend.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(map(device_count, configs)))
    from experiments.plan.estimate import make_plan
    from experiments.plan.table import plan_tables

    architecture = getattr(config_module(), "architecture", None)
    if architecture is None and _CONFIG.value.model.path:
        raise ConfigError(
            "a plan of config.model.path needs a function architecture() in the config file, as in"
            " configs/qwen2_5_7b.py: it does not read the weights"
        )
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]).stem
    plans = [make_plan(name, config, architecture and architecture()) for config in configs]
    if out is not None:
        command = "python -m experiments.plan " + shlex.join(sys.argv[1:])
        saved = {"command": command, "plans": [plan._asdict() for plan in plans]}
        out.write_text(json.dumps(saved, indent=1) + "\n")
    print(plan_tables(plans))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "mesh"])
    one_line_errors(main)
