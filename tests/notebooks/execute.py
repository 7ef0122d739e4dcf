"""Executes the code cells of a notebook in order, in one namespace, without a notebook server.

    python -m tests.notebooks.execute NOTEBOOK [CODE]

CODE is executed after the cells. Of IPython's own, `display` and a cell that is %%writefile are
known, no more. It has to be run by `-m` or `-c`, so that the processes of a sweep, which import
what started them, find nothing to execute.
"""

import json
import sys
from pathlib import Path

WRITEFILE = "%%writefile "


def code_cells(notebook: Path) -> list[str]:
    """The sources of the code cells."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def execute(notebook: Path, after: str = "") -> None:
    """Executes every cell, then `after`, in one namespace."""
    namespace = {"__name__": "__main__", "display": print}
    for number, source in enumerate([*code_cells(notebook), after]):
        if source.startswith(WRITEFILE):
            first, _, rest = source.partition("\n")
            Path(first.removeprefix(WRITEFILE)).write_text(rest, encoding="utf-8")
        else:
            exec(compile(source, f"{notebook.name}[{number}]", "exec"), namespace)


if __name__ == "__main__":
    execute(Path(sys.argv[1]), *sys.argv[2:])
