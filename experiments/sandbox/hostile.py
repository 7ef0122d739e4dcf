"""Programs that try to get out of a sandbox, to harm the machine, or to pass without an answer.

They are in `hostile_programs`, one after another, each below a line

    === NAME +SNIPPET -> STATUSES : what it tries

where NAME.before is a program that runs before NAME in the same sandbox, and SNIPPET, which may be
left out, is text to begin with. `selftest` runs them and tells by what the host sees whether they
were contained. Words between @ stand for things of the host that it keeps watch over: @CANARY@,
@SOCKET@, @PROJECT@ and @HOME@ are paths, @SLEEPER@ and @HOST@ process ids, @TCP@ and @UDP@ ports,
@STREAM@ and @DATAGRAM@ abstract addresses; @SECRET@ is what only the program before knows. A
program prints what it gets hold of, and ESCAPED where only it can know.
"""

import re
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent / "hostile_programs"
_HEADER = re.compile(r"=== (\S+)(?: \+(\w+))?(?: -> ([\w ]+) : (.*))?")


class Hostile(NamedTuple):
    """One program.

    Attributes:
      name: of the program.
      tries: what it tries.
      program: its text.
      statuses: in one of which it must end; "wrong" is an answer to a call that is not right.
      mode: "script", or "calls": then the host calls its add(a, b) for numbers that only the host
        knows. No program answers rightly, so none may pass.
      before: a program that runs before it.
    """

    name: str
    tries: str
    program: str
    statuses: tuple[str, ...]
    mode: str = "script"
    before: str = ""


def read_programs(path: Path) -> list[Hostile]:
    """Reads a file of programs.

    Raises:
      ValueError: if a line that begins with === is none of the form above.
    """
    texts: dict[str, tuple[re.Match, list[str]]] = {}
    program: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("==="):
            header = _HEADER.fullmatch(line)
            if header is None:
                raise ValueError(f"{path.name}, line {number}: not a header: {line!r}")
            program = []
            texts[header[1]] = (header, program)
        else:
            program.append(line)
    programs = []
    for name, (header, lines) in texts.items():
        _, snippet, statuses, tries = header.groups()
        if statuses is None:  # a snippet, or what runs before
            continue
        start = texts[f"+{snippet}"][1] if snippet else []
        before = "\n".join(texts[f"{name}.before"][1]) if f"{name}.before" in texts else ""
        mode = "calls" if path.stem == "calls" else "script"
        text = "\n".join([*start, *lines])
        programs.append(Hostile(name, tries, text, tuple(statuses.split()), mode, before))
    return programs


def all_programs() -> list[Hostile]:
    """Returns all programs, with those that do not fit into a text file."""
    programs = [
        program for path in sorted(_FOLDER.glob("*.txt")) for program in read_programs(path)
    ]
    ended = ("ok", "error", "memory", "timeout")
    deep = "(" * 10**5 + ")" * 10**5
    return [
        *programs,
        Hostile("null_byte", "has a null byte", "print(1)\0", ("error",)),
        Hostile("surrogate", "has a lone surrogate", "print('\ud800')", ("error",)),
        Hostile("deep_text", "has a deeply nested text", deep, ended),
        Hostile("long_text", "has a text of 8 MB", "x = [" + "1," * 4 * 10**6 + "]", ended),
        Hostile("long_line", "has a line of 8 MB", "x = '" + "a" * 8 * 10**6 + "'", ended),
    ]
