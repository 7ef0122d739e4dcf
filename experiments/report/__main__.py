"""The command `python -m experiments.report --workdir=DIR [--out=DIR]`."""

import argparse
import sys
from pathlib import Path

from experiments.report.table import main_table
from experiments.report.write import write_report


def main(arguments: list[str] | None = None) -> None:
    """Writes the report, prints the main table and says where the page is."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="of a run or a sweep")
    parser.add_argument("--out", type=Path, help="where the page goes (default: WORKDIR/report)")
    options = parser.parse_args(arguments)
    try:
        page = write_report(options.workdir, options.out)
        print(main_table(options.workdir))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"\nreport: {page}")


if __name__ == "__main__":
    main()
