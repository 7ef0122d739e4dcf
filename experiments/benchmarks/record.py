"""A JSON file of measurements, each with the machine, the versions and the commit measured."""

import json
import time
from importlib import metadata
from pathlib import Path

from experiments.benchmarks import machine


def save(path: Path, name: str, measured: dict | list, repeats: int) -> None:
    """Puts one measurement into the file; what it holds of others stays.

    Args:
      path: of the file; made, with its folder, where it is missing.
      name: of the measurement.
      measured: its samples.
      repeats: that were asked for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = load(path) if path.exists() else {}
    saved[name] = {
        "machine": machine.describe(core=None),
        "versions": {package: metadata.version(package) for package in ("jax", "jaxlib", "numpy")},
        "commit": machine.commit(),
        "day": time.strftime("%Y-%m-%d"),
        "repeats": repeats,
        "measured": measured,
    }
    path.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> dict[str, dict]:
    """Reads what `save` has written, by name."""
    return json.loads(path.read_text(encoding="utf-8"))


def provenance(saved: dict[str, dict]) -> list[str]:
    """A paragraph for each machine, commit and day of some measurements."""
    names_of: dict[str, list[str]] = {}
    for name, entry in saved.items():
        names_of.setdefault(_provenance(entry), []).append(name)
    return [
        (f"{', '.join(names)}: " if len(names_of) > 1 else "") + text
        for text, names in names_of.items()
    ]


def _provenance(entry: dict) -> str:
    machine = entry["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in entry["versions"].items())
    return (
        f"One core of {machine['cores']} of {machine['cpu']}, {machine['memory_gb']:.0f} GB,"
        f" {machine['system']}; Python {machine['python']}, {versions}; commit"
        f" {entry['commit']}, {entry['day']}; at least {entry['repeats']} repeats."
    )
