"""growth.json: the machine, the versions and the raw samples of every point."""

import json
import time
from importlib import metadata
from pathlib import Path

from experiments.benchmarks import machine

NAME = "growth.json"
PARTS = "parts"


def save(folder: Path, name: str, measured: dict | list, repeats: int) -> None:
    """Puts one axis, or the parts, into growth.json; what it holds of others stays.

    Args:
      folder: made where it is missing.
      name: of the axis, or PARTS.
      measured: the records of its points, from point.measure; or the parts, from parts.
      repeats: that were asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = load(folder) if (folder / NAME).exists() else {}
    saved[name] = {
        "machine": machine.describe(core=None),
        "versions": {package: metadata.version(package) for package in ("jax", "jaxlib", "numpy")},
        "commit": machine.commit(),
        "day": time.strftime("%Y-%m-%d"),
        "repeats": repeats,
        "measured": measured,
    }
    (folder / NAME).write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> dict[str, dict]:
    """Reads what `save` has written, by axis."""
    return json.loads((folder / NAME).read_text(encoding="utf-8"))
