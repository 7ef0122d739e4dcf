"""Report of a workdir as tables and figures: `python -m experiments.report --workdir=DIR`."""

from experiments.report.write import main_table, write_report

__all__ = ["main_table", "write_report"]
