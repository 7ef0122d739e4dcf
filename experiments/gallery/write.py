"""The files of the gallery."""

from collections.abc import Sequence
from pathlib import Path

from experiments.gallery.entries import Entry, entries
from experiments.gallery.pictures import overview, picture
from experiments.gallery.tables import figures, formulas
from experiments.report.page import Page, Section, markdown
from experiments.report.picture import to_png

_PICTURE_INCHES = (9.6, 2.1)
_OVERVIEW_INCHES = (9.6, 6.6)
_LEAD = (
    "What each advantage does to a prompt of solve rate p, for binary rewards. The expected "
    "gradient of the prompt is m_S ∇_S - m_F ∇_F: m_S is the mass that pushes successes up, m_F "
    "the mass that pushes failures down. On-policy both act through one weight alone, h(p) = m_S/p "
    "+ m_F/(1-p), and the advantage ascends the objective F with F' = h. Thin lines are exact at "
    "G = 8, pale ones and filled areas are a large group."
)


def write_gallery(out: Path | str) -> Path:
    """Writes README.md and its pictures.

    Args:
      out: directory of the files, made where it is missing.

    Returns:
      The path of README.md.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    every = entries()
    for entry in every:
        image = to_png(picture(entry), columns=4, inches=_PICTURE_INCHES)
        (out / f"{entry.name}.png").write_bytes(image)
    (out / "overview.png").write_bytes(to_png(overview(every), columns=6, inches=_OVERVIEW_INCHES))
    path = out / "README.md"
    path.write_text(markdown(gallery(every, out)), encoding="utf-8")
    return path


def gallery(every: Sequence[Entry], out: Path | str) -> Page:
    """The page; nothing is drawn yet.

    Args:
      every: the advantages.
      out: for the command at its end.

    Returns:
      The page: an overview, two tables, and a section for each advantage.
    """
    glance = overview(every)
    return Page(
        title="The advantages, drawn",
        lead=_LEAD,
        sections=(
            Section(glance.title, glance),
            Section("In figures", figures(every)),
            Section("In formulas", formulas(every)),
            *(Section(entry.title, picture(entry)) for entry in every),
        ),
        command=f"python -m experiments.gallery --out {out}",
    )
