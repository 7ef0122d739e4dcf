"""What goes into a sandbox and what comes out: limits and results.

Below: nothing. Above: the rest of this package.
"""

import dataclasses
import math

_LEAST_MEMORY = 1 << 26


class SandboxError(RuntimeError):
    """A sandbox cannot be made, or not be replaced; the machine's fault, in one line."""


class UnavailableError(SandboxError):
    """The chosen backend is not on this machine; the message names what to install."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes:
      seconds: processor time of all threads; and, too, time that a program takes by the clock
        without waiting for a busy processor or for the host, so that it cannot sleep for longer.
      memory_bytes: of address space, which bounds the memory.
      output_bytes: of standard output; and of one answer to a call.
      file_bytes: of one file that it writes. All its files together are held by the sandbox's
        file system in memory, `disk_bytes`.
      disk_bytes: of all files.
      files: that it makes; counted twice a second, so that a fast one makes some more.
      open_files: file descriptors.
      threads: of its one process; it cannot start another.
    """

    seconds: float = 5.0
    memory_bytes: int = 1 << 30
    output_bytes: int = 1 << 20
    file_bytes: int = 1 << 24
    disk_bytes: int = 1 << 26
    files: int = 10_000
    open_files: int = 64
    threads: int = 64

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not 0 < value < math.inf:
                raise ValueError(f"{field.name} must be positive and finite, got {value!r}")
            if field.name != "seconds" and not (isinstance(value, int) and value < 1 << 62):
                raise ValueError(f"{field.name} must be a whole number, got {value!r}")
        if self.memory_bytes < _LEAST_MEMORY:
            raise ValueError(
                f"memory_bytes must be at least {_LEAST_MEMORY}, which the interpreter takes,"
                f" got {self.memory_bytes}"
            )


# Every status of a Result. A program that ends by itself is "ok" where its exit code is 0, and has
# an "error" otherwise. The next three are limits; "killed" is any other signal. With "unknown" the
# sandbox failed and not the program: nothing can be said about the program.
STATUSES = ("ok", "error", "timeout", "memory", "output", "killed", "unknown")


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one program.

    Attributes:
      status: one of STATUSES.
      output: its standard output, or the text of its answer to a call.
      seconds: processor time that it used.
      peak_bytes: largest resident memory, that of a bare interpreter included.
      detail: why the status is not "ok": the end of standard error, or one line.
    """

    status: str
    output: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0
    detail: str = ""
