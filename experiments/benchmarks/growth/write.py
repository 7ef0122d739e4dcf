"""The page of a growth.json, README.md, and its pictures."""

from pathlib import Path

from experiments.benchmarks.growth import record
from experiments.benchmarks.growth.axes import AXES, Sizes
from experiments.benchmarks.growth.findings import ABOUT, FINDINGS
from experiments.benchmarks.growth.pictures import picture
from experiments.benchmarks.growth.tables import exponents_table, points_table
from experiments.report.page import Page, Section, Text, markdown
from experiments.report.picture import to_png

_PICTURE_INCHES = (10.2, 3.2)


def write_page(folder: Path) -> Path:
    """Writes README.md and a picture of each axis; returns the path of the page.

    Args:
      folder: holds growth.json.
    """
    saved = record.load(folder)
    axes = [axis for axis in AXES if axis.name in saved["axes"]]
    sections = [
        Section("How it is measured", Text((_machine(saved), *ABOUT))),
        Section("Exponents", exponents_table(axes, saved["axes"])),
    ]
    for axis in axes:
        points = saved["axes"][axis.name]
        drawn = picture(axis, points)
        (folder / f"{drawn.name}.png").write_bytes(to_png(drawn, inches=_PICTURE_INCHES))
        sections += [Section(drawn.title, drawn), Section("", points_table(axis, points))]
        if axis.name in FINDINGS:
            sections.append(Section("", Text(FINDINGS[axis.name])))
    page = Page("How a step grows", _lead(), tuple(sections), _command(folder))
    path = folder / "README.md"
    path.write_text(markdown(page), encoding="utf-8")
    return path


def _lead() -> str:
    base = Sizes()
    return (
        "Seconds and memory of the rollout step and the train step of a run as one size grows at a"
        f" time, around a base point of {base.prompts} prompts of {base.prompt} tokens x"
        f" {base.group} completions of {base.completion} tokens, a model of {base.layers} layers of"
        f" width {base.width} and a vocabulary of {base.vocabulary}."
    )


def _machine(saved: dict) -> str:
    machine = saved["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    busy = _waiting(saved)
    text = (
        f"One core of {machine['cores']} of {machine['processor']},"
        f" {machine['memory_bytes'] / 1e9:.0f} GB, {machine['system']}; Python"
        f" {machine['python']}, {versions}; {machine['day']}; at least {saved['repeats']} repeats."
    )
    if busy > 0.1:
        text += (
            f" **The machine was busy with other work**: {busy:.0%} of the seconds were spent"
            " waiting for the core, so that seconds and rates are preliminary."
        )
    return text


def _waiting(saved: dict) -> float:
    """Share of all measured seconds in which the process did not run."""
    steps = [
        p[step] for points in saved["axes"].values() for p in points for step in ("sample", "learn")
    ]
    total = sum(sum(step["seconds"]) for step in steps)
    return max(0.0, 1 - sum(sum(step["cpu_seconds"]) for step in steps) / total)


def _command(folder: Path) -> str:
    out = "" if folder == Path("docs/growth") else f" --out={folder}"
    return f"python -m experiments.benchmarks.growth{out}"
