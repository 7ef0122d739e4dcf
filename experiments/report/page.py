"""The page: the same sections as Markdown with picture files, and as one HTML file."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from experiments.report.picture import Picture, to_svg
from experiments.report.style import INK, Line
from experiments.report.table import Table, as_markdown

_CSS = Path(__file__).with_name("page.css")


@dataclass(frozen=True)
class Text:
    """Paragraphs."""

    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A heading, and under it a text, or a table or a picture with its caption.

    Without a title it goes on with the section before it.
    """

    title: str
    body: Table | Picture | Text


@dataclass(frozen=True)
class Page:
    """What the page says, in order."""

    title: str
    lead: str
    sections: tuple[Section, ...]
    command: str  # that makes this page again


def markdown(page: Page) -> str:
    """The page as Markdown; each picture is the PNG file of its name, beside it."""
    parts = [f"# {page.title}", page.lead]
    for title, body in ((section.title, section.body) for section in page.sections):
        parts += [f"## {title}"] if title else []
        if isinstance(body, Text):
            parts += body.paragraphs
        elif isinstance(body, Picture):
            parts += [f"![{body.title}]({body.name}.png)", body.caption]
        else:
            parts += [as_markdown(body), body.caption]
    return "\n\n".join([*parts, f"This page is made by `{page.command}`."]) + "\n"


def html(page: Page, *, files: bool = False) -> str:
    """The page as HTML.

    Args:
      page: what it says.
      files: show the PNG files beside the page; by default the pictures are inside, so that the
        one file needs nothing else.

    Returns:
      The text of the file.
    """
    parts = [f"<h1>{escape(page.title)}</h1>", f"<p>{escape(page.lead)}</p>"]
    for title, body in ((section.title, section.body) for section in page.sections):
        if isinstance(body, Text):
            shown = "\n".join(f"<p>{escape(text)}</p>" for text in body.paragraphs)
        elif isinstance(body, Table):
            shown = _table(body)
        else:
            shown = _file(body) if files else _picture(body)
        parts += [f"<h2>{escape(title)}</h2>", shown] if title else [shown]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n"
        f"<style>\n{_CSS.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<footer><p>This page is made by <code>{escape(page.command)}</code>.</p></footer>\n"
        "</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    kind = "figures" if table.figures else ""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return (
        f'<div class="wide"><table class="{kind}">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n"
        f'<p class="caption">{escape(table.caption)}</p>'
    )


def _file(picture: Picture) -> str:
    source = f'src="{escape(picture.name)}.png" alt="{escape(picture.title)}"'
    caption = f'<p class="caption">{escape(picture.caption)}</p>'
    return f'<p class="picture"><img loading="lazy" {source}></p>\n{caption}'


def _picture(picture: Picture) -> str:
    legend = "".join(f"<span>{_swatch(line)}{escape(line.label)}</span>" for line in picture.legend)
    panels = "\n".join(to_svg(panel) for panel in picture.panels)
    return (
        (f'<div class="legend">{legend}</div>\n' if legend else "")
        + f'<div class="panels{" four" if len(picture.panels) == 4 else ""}">\n{panels}\n</div>\n'
        + f'<p class="caption">{escape(picture.caption)}</p>'
    )


def _swatch(line: Line) -> str:
    colour = "currentColor" if line.colour == INK else line.colour
    if line.marker:
        shape = f'<rect x="9" y="1" width="8" height="8" fill="none" stroke="{colour}"/>'
    else:
        dashes = " ".join(f"{2 * dash:g}" for dash in line.dashes)
        shape = (
            f'<line x1="0" y1="5" x2="28" y2="5" stroke="{colour}" stroke-width="2.5" '
            f'stroke-dasharray="{dashes}"/>'
        )
    return f'<svg viewBox="0 0 28 10" aria-hidden="true">{shape}</svg>'
