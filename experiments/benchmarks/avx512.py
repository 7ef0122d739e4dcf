"""A fair BLAS for torch on AMD processors.

MKL, which torch brings, asks whether the processor is Intel's before it takes its AVX-512 path, and
takes AVX2 otherwise. A library loaded before it answers that question with yes.
"""

import shutil
import subprocess
from pathlib import Path

SOURCE = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


def reason_against(cpuinfo: str) -> str | None:
    """Why there is nothing to override here; None if there is.

    Args:
      cpuinfo: the text of /proc/cpuinfo.
    """
    if "AuthenticAMD" not in cpuinfo:
        return "not an AMD processor: torch takes its best path by itself"
    if "avx512f" not in cpuinfo:
        return "the processor has no AVX-512"
    if shutil.which("gcc") is None:
        return "needs gcc"
    return None


def build(directory: Path) -> Path:
    """Compiles the library into `directory`; returns its path, for LD_PRELOAD."""
    source, library = directory / "intel_cpu.c", directory / "intel_cpu.so"
    source.write_text(SOURCE)
    subprocess.run(
        ["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)],
        check=True,
        capture_output=True,
    )
    return library
