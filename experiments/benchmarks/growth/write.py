"""The page of a growth.json, README.md, and its pictures."""

from pathlib import Path

from experiments.benchmarks import record
from experiments.benchmarks.growth.axes import AXES, Axis, Sizes
from experiments.benchmarks.growth.findings import ABOUT, FINDINGS
from experiments.benchmarks.growth.pictures import picture
from experiments.benchmarks.growth.series import STEPS
from experiments.benchmarks.growth.tables import (
    attention_table,
    decode_table,
    drawing_table,
    exponents_table,
    points_table,
    products_table,
)
from experiments.report.page import Page, Section, Text, markdown
from experiments.report.picture import to_png

_PICTURE_INCHES = (10.2, 3.2)
_IDLE_ENOUGH = 0.1
NAME = "growth.json"
PARTS = "parts"


def write_page(folder: Path) -> Path:
    """Writes README.md and a picture of each axis; returns the path of the page.

    Args:
      folder: holds growth.json.
    """
    saved = record.load(folder / NAME)
    axes = [axis for axis in AXES if axis.name in saved]
    points = {axis.name: saved[axis.name]["measured"] for axis in axes}
    sections = [
        Section("How it is measured", Text((*ABOUT, *_machines(saved)))),
        Section("Exponents", exponents_table(axes, points)),
    ]
    for axis in axes:
        drawn = picture(axis, points[axis.name])
        (folder / f"{drawn.name}.png").write_bytes(to_png(drawn, inches=_PICTURE_INCHES))
        sections += [Section(drawn.title, drawn), *_tables(axis, points[axis.name])]
        if axis.name in FINDINGS:
            sections.append(Section("", Text(FINDINGS[axis.name])))
    if PARTS in saved:
        parts = saved[PARTS]["measured"]
        sections.append(Section("Four parts alone", decode_table(parts["decode"])))
        sections.append(Section("", attention_table(parts["attention"])))
        sections.append(Section("", drawing_table(parts["drawing"])))
        sections.append(Section("", products_table(parts["products"])))
    page = Page("How a step grows", _lead(), tuple(sections), _command(folder))
    path = folder / "README.md"
    path.write_text(markdown(page), encoding="utf-8")
    return path


def _tables(axis: Axis, points: list[dict]) -> list[Section]:
    return [Section("", points_table(axis, points, step)) for step in STEPS]


def _lead() -> str:
    base = Sizes()
    return (
        "Seconds and memory of the rollout step and the train step of a run as one size grows at a"
        f" time, around a base point of {base.prompts} prompts of {base.prompt} tokens x"
        f" {base.group} completions of {base.completion} tokens, a model of {base.layers} layers of"
        f" width {base.width} and a vocabulary of {base.vocabulary}."
    )


def _machines(saved: dict) -> list[str]:
    """What was measured on what, and a warning where the machine had other work."""
    texts = record.provenance(saved)
    waiting = _waiting(saved)
    if waiting > _IDLE_ENOUGH:
        texts.append(
            f"**The machine was busy with other work**: in {waiting:.0%} of the measured seconds"
            " the process waited for its core. Seconds and rates are preliminary."
        )
    return texts


def _waiting(saved: dict) -> float:
    """Share of all measured seconds in which the process did not run."""
    steps = [
        point[step]
        for name, axis in saved.items()
        if name != PARTS
        for point in axis["measured"]
        for step in STEPS
    ]
    total = sum(sum(step["seconds"]) for step in steps)
    if not total:
        return 0.0
    return 1 - sum(sum(step["cpu_seconds"]) for step in steps) / total


def _command(folder: Path) -> str:
    out = "" if folder == Path("docs/growth") else f" --out={folder}"
    return f"python -m experiments.benchmarks.growth{out}"
