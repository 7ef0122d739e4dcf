"""What the figures were measured on."""

import os
import platform
from pathlib import Path


def describe(core: int | None) -> dict:
    """The machine, for results.json.

    Args:
      core: the one that the processes are pinned to; None for none.
    """
    return {
        "cpu": cpu_model(read("/proc/cpuinfo")) or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "pinned_to": core,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def read(path: str) -> str:
    """The text of a file of the system, or nothing."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def cpu_model(cpuinfo: str) -> str:
    """The model of the first processor in the text of /proc/cpuinfo."""
    fields = dict(
        [part.strip() for part in line.split(":", 1)]
        for line in cpuinfo.splitlines()
        if ":" in line
    )
    name = fields.get("model name", "")
    family, model = fields.get("cpu family"), fields.get("model")
    return f"{name} (family {family}, model {model})" if name and family else name


def slug(name: str) -> str:
    """A directory name of a device's name."""
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return "_".join(words)
