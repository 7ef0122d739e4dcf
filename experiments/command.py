"""Shared by the commands: the module of --config, and user errors as one line."""

import importlib.util
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from experiments.config import ConfigError
from experiments.loop import NonFiniteError, Stopped


def config_module():
    """Imports the file of --config, for the functions that it has beside get_config."""
    path = Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0])
    spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _exit(status: int) -> None:
    """Ends the process at once.

    An orderly exit would wait for threads, and for other processes, which wait for this one.
    """
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def print_unraisable(found) -> None:
    """Leaves out what names no object: from tensorstore's threads, which outlive a failed save."""
    if found.object is not None or found.err_msg:
        sys.__unraisablehook__(found)


def one_line_errors(main: Callable) -> None:
    """Runs an absl main; prints user errors as one line and exits with status 2 or 3.

    Any other error of one of several processes ends all of them at once.
    """

    def guarded(argv):
        logging.set_verbosity(logging.WARNING)
        sys.unraisablehook = print_unraisable
        try:
            return main(argv)
        except Stopped as stopped:
            print(f"{stopped}; the same command goes on", file=sys.stderr)
            return 0
        except KeyboardInterrupt:
            print("interrupted; the same command goes on where it was", file=sys.stderr)
            _exit(128 + signal.SIGINT)
        except (ConfigError, NonFiniteError, OSError, ValueError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            if isinstance(error, OSError) and jax.distributed.is_initialized():
                _exit(2)
            return 2 if not isinstance(error, NonFiniteError) else 3
        except Exception:
            if not jax.distributed.is_initialized():
                raise
            traceback.print_exc()
            _exit(1)

    app.run(guarded)
