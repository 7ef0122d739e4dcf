"""Writes the report of a run or a sweep, and results.csv of a sweep.

python -m experiments.report --workdir=DIR [--out=DIR]
"""

from pathlib import Path

from absl import flags

from experiments.command import one_line_errors
from experiments.report import main_table, write_report
from experiments.results import write_results

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run or a sweep.", required=True)
_OUT = flags.DEFINE_string("out", None, "Directory of the report (default: WORKDIR/report).")


def main(argv):
    """Writes the report and prints the main table and the path of the page."""
    del argv
    if (Path(_WORKDIR.value) / "sweep.json").exists():
        write_results(Path(_WORKDIR.value))
    page = write_report(_WORKDIR.value, _OUT.value)
    print(main_table(_WORKDIR.value))
    print(f"\nreport: {page}")


if __name__ == "__main__":
    one_line_errors(main)
