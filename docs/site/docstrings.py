"""Reads the docstrings of fade_jax as they are written: formulas set apart, code in backticks."""

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.roles import XRefRole

SECTION = re.compile(r"(Args|Attributes|Example|Raises|Returns):$")
FORMULA = " " * 4
PAPER = re.compile(r"(?<!`)arXiv:(\d{4}\.\d{4,5})")
LINK = r"`arXiv:\1 <https://arxiv.org/abs/\1>`__"


class CodeOrLink(XRefRole):
    """Text in backticks: a link if it names something of the reference, else code."""

    def create_xref_node(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Makes a reference that `keep_code` replaces by its text if nothing is found."""
        self.refdomain, self.reftype, self.classes = "py", "obj", ["xref", "py", "py-obj"]
        return super().create_xref_node()

    def process_link(
        self, env: Any, refnode: Any, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        """Looks in the module and class of the docstring first."""
        refnode["py:module"] = env.ref_context.get("py:module")
        refnode["py:class"] = env.ref_context.get("py:class")
        refnode["code_or_link"] = True
        return title, target


def keep_code(
    app: Sphinx, env: Any, node: addnodes.pending_xref, text: nodes.TextElement
) -> nodes.TextElement | None:
    """Returns the text of a `code_or_link` that names nothing, as plain code."""
    del app, env
    if not node.get("code_or_link"):
        return None
    text["classes"] = ["docutils", "literal", "notranslate"]
    return text


def set_apart(lines: list[str], style: str = "formula") -> list[str]:
    """Makes blocks of preformatted text of the indented lines before the first section."""
    text, inside = [], False
    for number, line in enumerate(lines):
        if SECTION.match(line):
            return text + lines[number:]
        indented = line.startswith(FORMULA)
        if indented and not inside:
            text += [".. code-block:: text", f"   :class: {style}", ""]
        inside = indented or (inside and not line.strip())
        text.append(line[1:] if indented else line)
    return text


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrites a docstring: an alias or a lifted advantage points to what it is made of."""
    del app, options
    own = name.rpartition(".")[2]
    if what == "function" and lines and lines[0].startswith("Lifts `"):
        lines[:] = [f"Lifts `fade_jax.{own}`: `update` takes its rewards, mask and statistics."]
    elif what == "function" and getattr(obj, "__name__", own) != own:
        lines[:] = [f"An alias of `{obj.__name__}`."]
    apart = set_apart(lines, "example" if what == "module" else "formula")
    lines[:] = [PAPER.sub(LINK, line) for line in apart]


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the role, and the rewriting before napoleon's."""
    app.add_role("code_or_link", CodeOrLink())
    app.connect("missing-reference", keep_code)
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True}
