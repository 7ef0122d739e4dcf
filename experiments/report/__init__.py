"""From a workdir to tables, pictures and one page: `python -m experiments.report --workdir=DIR`."""

from experiments.report.table import main_table
from experiments.report.write import write_report

__all__ = ["main_table", "write_report"]
