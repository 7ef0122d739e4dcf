"""The commands of the installed wheel: fade-run, fade-evaluate, fade-plan and so on.

The wheel keeps `experiments` and `configs` inside fade_jax_experiments, away from other packages of
the same name. A command puts that directory first on the path and goes on as
`python -m experiments.run` does in a clone. Imports the standard library only.
"""

import os
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # holds experiments and configs

COMMANDS = {
    "fade-run": "experiments.run",
    "fade-evaluate": "experiments.evaluate",
    "fade-export": "experiments.export",
    "fade-report": "experiments.report",
    "fade-sampler": "experiments.sampler",
    "fade-plan": "experiments.perf.plan",
}
_NEEDED = ("absl", "flax", "ml_collections", "orbax", "pandas", "tensorboardX")


def main() -> None:
    """Runs the command that the script is named after; exits with 2 without the extra."""
    name = Path(sys.argv[0]).stem
    missing = [package for package in _NEEDED if find_spec(package) is None]
    if missing:
        line = f"{name} needs pip install 'fade-jax[experiments]': there is no {missing[0]}"
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    # As after `python -m`, but for a directory `experiments` of the user's.
    sys.path[:0] = (paths := [str(ROOT), os.getcwd()])
    if inherited := os.environ.get("PYTHONPATH"):
        paths.append(inherited)
    # For the processes that a command starts; without the second they would look here first.
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    sys.argv[1:] = with_installed_configs(sys.argv[1:])
    runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)


def with_installed_configs(arguments: Sequence[str], root: Path = ROOT) -> list[str]:
    """Completes `--config=configs/NAME.py:MODE` where only `root` has that file."""

    def complete(argument: str) -> str:
        flag, equals, value = argument.partition("=")
        path = value.split(":")[0]
        if flag.lstrip("-") == "config" and not Path(path).exists() and (root / path).is_file():
            return f"{flag}{equals}{root / value}"
        return argument

    return [complete(argument) for argument in arguments]
