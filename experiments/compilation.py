"""How programs are compiled: XLA's options, and the cache that all commands of a user share.

JAX keeps the cache, and its own variables hold: JAX_COMPILATION_CACHE_DIR names another directory,
and JAX_ENABLE_COMPILATION_CACHE=0 turns the cache off. A cache that cannot be read or written costs
the time of compiling, never a run. Below: models. Above: step_functions, command.
"""

import functools
import os
import re
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import jax

from experiments.config import Config
from experiments.models.config import ModelConfig
from experiments.models.layers import is_wide, on_cpu

# XLA's newer emitters of CPU code take a quarter of the time of compiling a small program. Without
# them its steps take as long and end with the same bits (docs/performance.md).
_OLD_EMITTERS = {"xla_cpu_use_fusion_emitters": False}
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def compiler_options(config: Config, model: ModelConfig) -> dict:
    """Returns XLA's options for the step functions of a run; none where they were not measured."""
    measured = on_cpu() and model.dtype == "float32" and not is_wide(model)
    if not measured or not _is_known(*_OLD_EMITTERS):
        return {}
    return _OLD_EMITTERS | (_QUICK if config.quick_compile else {})


def compile_quickly() -> None:
    """Sets what `compiler_options` do not: the small programs around the step functions."""
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of the processes that this one starts


@functools.cache
def _is_known(option: str) -> bool:
    """Whether this XLA has an option; those of its CPU backend come and go."""
    try:
        jax.jit(lambda: 0, compiler_options={option: False}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


MAX_BYTES = 2 << 30  # of the programs in the cache; those of a smoke run have 2 MB


def default_directory() -> Path:
    """Returns fade_jax/compilation in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fade_jax/compilation"


def use_cache(directory: Path | None = None) -> None:
    """Lets this process, and those that it starts, read and write compiled programs.

    Also the programs that compile in no time: there are many.

    Args:
      directory: of the cache; by default the one that JAX is set to, else `default_directory`.
    """
    if not jax.config.values["jax_enable_compilation_cache"]:
        return
    set_already = jax.config.values["jax_compilation_cache_dir"]
    folder = directory or Path(set_already or default_directory())
    settings = {"JAX_COMPILATION_CACHE_DIR": str(folder)}
    if not set_already:  # else all is as the user has it
        settings["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    os.environ.update(settings)  # of the processes that this one starts
    warn_once()
    with suppress(OSError):
        remove_oldest(folder, MAX_BYTES)


def remove_oldest(folder: Path, max_bytes: int) -> None:
    """Removes the programs written longest ago until those left have at most `max_bytes`."""
    found = []
    for path in folder.glob("*-cache"):
        with suppress(FileNotFoundError):  # another process may do the same
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= max_bytes:
            return
        path.unlink(missing_ok=True)
        total -= size


def warn_once() -> None:
    """Replaces JAX's warnings, one for each program that cannot be read or written, by one line."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    show, said = warnings.showwarning, []

    def show_other(message, category, *where):
        error = re.match(r"Error (reading|writing) persistent compilation cache", str(message))
        if error is None:
            return show(message, category, *where)
        # XLA:CPU cannot write a program that uses oneDNN: it is compiled in each process.
        if "ToProto is not implemented for thunk kind: onednn" in str(message):
            return None
        if error[1] == "reading":  # cut off, as by a full disk: JAX would not write it anew
            _remove_damaged(Path(folder), str(message))
        if not said:
            said.append(message)
            what = " ".join(str(message).splitlines()[0].split())
            print(f"compiling without the cache in {folder}: {what}", file=sys.stderr)
        return None

    # Each of them, or one text would be seen once by Python and never by `show_other`.
    warnings.filterwarnings("always", "Error (reading|writing) persistent compilation cache")
    warnings.showwarning = show_other


def _remove_damaged(folder: Path, message: str) -> None:
    """Removes the entries of the program that a warning names, for the next process to write."""
    name = re.search(r"entry for '(\w[^'/]*)'", message)
    with suppress(OSError):
        for path in folder.glob(f"{name[1]}-*-cache") if name else ():
            path.unlink(missing_ok=True)
