"""Builds the explorer: one HTML page that opens from disk and loads nothing.

Run from the root of the repository: `python explorer/build.py`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "build" / "explorer" / "index.html"
LARGEST = 150_000  # bytes
# Each after the modules that it imports.
MODULES = ("weights", "dynamics", "link", "chart", "controls", "page")
# The browser itself refuses whatever is not in the page.
POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:\">"
)


def module(name: str) -> str:
    """Returns a module as a block whose exports are one constant, so that names stay apart."""
    text = (HERE / f"{name}.js").read_text()
    text = re.sub(
        r'^import \* as (\w+) from "\./(\w+)\.js";$', r"const \1 = modules.\2;", text, flags=re.M
    )
    text = re.sub(
        r'^import (\{[^}]*\}) from "\./(\w+)\.js";$', r"const \1 = modules.\2;", text, flags=re.M
    )
    exported = re.findall(r"^export (?:const|function) (\w+)", text, flags=re.M)
    text = re.sub(r"^export ", "", text, flags=re.M)
    left = re.findall(r"^(?:import|export).*", text, flags=re.M)
    if left or "</script" in text:
        raise ValueError(
            f"explorer/{name}.js has a line that build.py cannot put in a page: {left}"
        )
    return f"modules.{name} = (() => {{\n{text}return {{ {', '.join(exported)} }};\n}})();\n"


def page() -> str:
    """Returns the whole page."""
    scripts = "const modules = {};\n" + "".join(module(name) for name in MODULES)
    html = (HERE / "index.html").read_text()
    parts = {
        '<meta charset="utf-8">': f'<meta charset="utf-8">\n{POLICY}',
        '<link rel="stylesheet" href="style.css">': (
            f"<style>\n{(HERE / 'style.css').read_text()}</style>"
        ),
        '<script type="module" src="page.js"></script>': (
            f'<script type="module">\n{scripts}</script>'
        ),
    }
    for place, content in parts.items():
        if html.count(place) != 1:
            raise ValueError(f"explorer/index.html must have {place} once")
        html = html.replace(place, content)
    return html


def main() -> None:
    """Writes build/explorer/index.html."""
    content = page().encode()
    if len(content) > LARGEST:
        sys.exit(f"error: the page has {len(content)} bytes, at most {LARGEST} are allowed")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_bytes(content)
    print(f"{OUT}: {len(content)} bytes")


if __name__ == "__main__":
    main()
