"""Runs commands as `python -m` does, in forks of one process that has imported what they need.

As a command: reads a list of [module, arguments] and prints a list of [out, errors, status].
"""

import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import warnings

# What takes long to import; not a module that defines flags, since it runs again as the command.
IMPORTED = ("evaluate", "export", "sweep", "report.write")


def run_commands(repository, commands, **environment):
    """Returns (out, errors, status) of each (module, arguments); imports take most of the time."""
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(commands),
        cwd=repository,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _run(module, arguments):
    """Returns what a fork of this process prints as the command, and its status."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        pid = os.fork()
        if pid == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            sys.exit()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        errors.seek(0)
        return out.read(), errors.read(), status


def _main():
    commands = json.load(sys.stdin)
    for module in IMPORTED:
        importlib.import_module(f"experiments.{module}")
    warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
    outcomes = [_run(module, arguments) for module, arguments in commands]
    print(json.dumps(outcomes))


if __name__ == "__main__":
    _main()
