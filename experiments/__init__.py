"""The training system: from a config to a trained policy and a report."""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m` sets this while it looks for the module
    from experiments.moved import exit_if_moved

    exit_if_moved(sys.orig_argv)
