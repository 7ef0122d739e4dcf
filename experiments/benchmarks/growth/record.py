"""growth.json: the machine, the versions and the raw samples of every point."""

import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path

NAME = "growth.json"
PARTS = "parts"


def machine() -> dict:
    """What the figures depend on beside the code."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), ""
    )
    return {
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
        "day": time.strftime("%Y-%m-%d"),
    }


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
    saved[name] = {"machine": machine(), "repeats": repeats, "measured": measured}
    (folder / NAME).write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> dict[str, dict]:
    """Reads what `save` has written: by axis, its machine, repeats and what was measured."""
    return json.loads((folder / NAME).read_text(encoding="utf-8"))
