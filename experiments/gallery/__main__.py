"""The command `python -m experiments.gallery --out=DIR`."""

import argparse
from pathlib import Path

from experiments.gallery.write import write_gallery


def main(arguments: list[str] | None = None) -> None:
    """Draws the gallery and says where the page is."""
    parser = argparse.ArgumentParser(prog="python -m experiments.gallery", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the page goes")
    print(f"gallery: {write_gallery(parser.parse_args(arguments).out)}")


if __name__ == "__main__":
    main()
