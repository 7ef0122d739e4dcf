"""Shared by the commands: the module of --config, and user errors as one line."""

import difflib
import importlib.util
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from experiments.compilation import use_cache
from experiments.config import ConfigError, SweepError
from experiments.loop import NonFiniteError, Stopped
from experiments.remote import SamplerError
from experiments.sandbox import UnavailableError
from experiments.tasks.verdict import VerificationError
from experiments.validation import CHECKS


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


def parse_flags(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the command line, as absl does; a parser for `app.run`.

    Raises:
      ConfigError: for a flag, a field or a value that cannot be, or a config file that fails.
    """
    if any(arg.lstrip("-") in ("help", "helpfull", "helpshort", "?") for arg in argv[1:]):
        return app.parse_flags_with_usage(list(argv))
    try:
        rest = values(list(argv))
        if "config" in values and (config := values["config"].value) is not None:
            config.lock()  # raises if there is no such file
    except Exception as error:  # of absl, of ml_collections, or whatever the config file does
        raise ConfigError(_flag_error(argv, error)) from error
    if len(rest) > 1:
        raise ConfigError(f"unknown arguments {' '.join(rest[1:])}: a flag begins with --")
    return rest


def _flag_error(argv: Sequence[str], error: BaseException) -> str:
    """The error of a command line in one line."""
    path = next((a.split("=", 1)[1] for a in argv if a.startswith("--config=")), "")
    if isinstance(error, flags.Error) and "Error whilst parsing config file" not in str(error):
        return " ".join(str(error).split())
    # absl and ml_collections wrap some errors of the file.
    while not isinstance(error, ConfigError) and (inner := error.__cause__ or error.__context__):
        error = inner
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    text = " ".join(f"{type(error).__name__}: {error}".split())
    raised = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in path and path]
    if raised:
        return f"{raised[-1].filename}, line {raised[-1].lineno}: {text}"
    for name in (arg.partition("=")[0] for arg in argv if arg.startswith("--config.")):
        if (field := name.removeprefix("--config.")) not in CHECKS:
            if found := re.match(r"(task|advantage)\.kwargs\.(\w+)$", field):
                whole = f"--config.{found[1]}.kwargs=\"{{'{found[2]}': ...}}\""
                return f"the config has no config.{field}; {whole} gives all arguments anew"
            near = difflib.get_close_matches(field, CHECKS, 1, 0.5)
            hint = f"; did you mean config.{near[0]}?" if near else ""
            return f"there is no field config.{field}{hint}"
    return f"--config must be a file with a function get_config(), got {path!r}: {text}"


def print_unraisable(found) -> None:
    """Leaves out what names no object: from tensorstore's threads, which outlive a failed save."""
    if found.object is not None or found.err_msg:
        sys.__unraisablehook__(found)


def one_line_errors(main: Callable) -> None:
    """Runs an absl main; prints user errors as one line and exits with status 2 or 3.

    Any other error of one of several processes ends all of them at once.
    """

    def say(error: Exception, status: int) -> int:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return status

    def parse(argv):
        try:
            return parse_flags(argv)
        except ConfigError as error:
            sys.exit(say(error, 2))

    def guarded(argv):
        logging.set_verbosity(logging.WARNING)
        sys.unraisablehook = print_unraisable
        use_cache()
        try:
            return main(argv)
        except Stopped as stopped:
            print(f"{stopped}; the same command goes on", file=sys.stderr)
            return 0
        except KeyboardInterrupt:
            print("interrupted; the same command goes on where it was", file=sys.stderr)
            _exit(128 + signal.SIGINT)
        except (NonFiniteError, SamplerError, VerificationError) as error:
            return say(error, 3)
        except (ConfigError, OSError, ValueError, UnavailableError) as error:
            status = say(error, 2)
            if isinstance(error, OSError) and jax.distributed.is_initialized():
                _exit(status)
            return status
        except SweepError as error:
            return say(error, 1)
        except Exception:
            if not jax.distributed.is_initialized():
                raise
            traceback.print_exc()
            _exit(1)

    app.run(guarded, flags_parser=parse)
