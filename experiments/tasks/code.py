"""Python code in the completion of a model, and the program that is made of it.

Nothing here parses the code: what a model wrote is parsed where it runs, behind a wall.

Above: programs.
"""

import re

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})(.*)", re.DOTALL)
_PYTHON = {"", "python", "python3", "py", "py3", "{python}"}


def extract_code(text: str) -> str | None:
    """Finds the code of a completion.

    It is the content of the last fenced block that is marked as Python or not at all; the last
    fence may stay open. A text without fences is code as a whole, a text whose only blocks are in
    other languages has none.

    Args:
      text: the completion, without special tokens.

    Returns:
      The code, its indentation kept unless the fence itself is indented; None if there is none.
    """
    blocks = _fenced_blocks(text)
    if blocks is None:
        code = text
    else:
        code = next((code for language, code in reversed(blocks) if language in _PYTHON), "")
    return code.strip("\n").rstrip() + "\n" if code.strip() else None


def _fenced_blocks(text: str) -> list[tuple[str, str]] | None:
    """Returns (language, content) of every fenced block; None for a text without fences."""
    blocks: list[tuple[str, list[str]]] = []
    indent, fence = "", ""
    for line in text.replace("\r\n", "\n").split("\n"):
        found = _FENCE.match(line)
        if not fence:
            # A line such as ```x``` is code within a sentence.
            if found and not (found[2][0] == "`" and "`" in found[3]):
                indent, fence = found[1], found[2]
                blocks.append((found[3].strip().lower().partition(" ")[0], []))
        elif found and not found[3].strip() and _closes(found, indent, fence):
            fence = ""
        else:
            blocks[-1][1].append(line.removeprefix(indent))
    if not blocks:
        return None
    contents = [(language, "\n".join(lines)) for language, lines in blocks]
    if fence:  # it may have been closed at the end of a line of code
        language, content = contents[-1]
        contents[-1] = (language, content.rstrip().removesuffix(fence))
    return contents


def _closes(found: re.Match[str], indent: str, fence: str) -> bool:
    return found[2].startswith(fence) and len(found[1]) <= len(indent) + 3


def defines(code: str, name: str) -> bool:
    """Tells whether some line that is not indented binds a name."""
    word = re.escape(name)
    pattern = rf"^(?:(?:async[ \t]+)?def[ \t]+{word}\b|class[ \t]+{word}\b|{word}[ \t]*(?:=[^=]|:))"
    return re.search(pattern, code, re.MULTILINE) is not None


def complete_function(prompt: str, before: str, code: str, name: str) -> str:
    """Makes a program of a prompt that ends within a function, and of its completion.

    The completion is the whole function, or the function's body alone, which ends at the next
    statement that is not indented. Models often drop the first indentation: it is put back.

    Args:
      prompt: up to the docstring of the function.
      before: what the prompt has in front of that function: imports and helpers.
      code: of the completion.
      name: of the function.
    """
    if defines(code, name):
        return put_before(before, code)
    lines = _indented_body(code).split("\n")
    ends = [i for i, line in enumerate(lines) if re.match(r"[\w@#`<]", line)]
    return prompt.rstrip() + "\n" + "\n".join(lines[: ends[0] if ends else None]) + "\n"


def _indented_body(code: str) -> str:
    lines = code.split("\n")
    first, *rest = [line for line in lines if line.strip()] or [""]
    if first[:1] in (" ", "\t"):
        return code
    indents = [len(line) - len(line.lstrip()) for line in rest]
    whole = not rest or 0 in indents or (first.rstrip().endswith(":") and indents[0] <= 4)
    return "\n".join(
        "    " + line if line.strip() and (whole or i == 0) else line
        for i, line in enumerate(lines)
    )


_FUTURE = re.compile(
    r"^from[ \t]+__future__[ \t]+import[ \t]*(?:\([^()]{0,500}\)|[ \t][^(\n]*)", re.MULTILINE
)


def put_before(before: str, code: str) -> str:
    """Puts statements before a program; its `from __future__` lines go first, as they must."""
    future = _FUTURE.findall(code) if before.strip() else []
    parts = (*future, before.strip("\n"), _FUTURE.sub("", code) if future else code)
    return "\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"
