"""Audits the advantages of the frameworks installed beside this library.

    python -m experiments.audit --out=DIR           # in the environment of each framework
    python -m experiments.audit --out=DIR --page    # DIR/audit.md, audit.csv and audit.png

The first writes DIR/FRAMEWORK.json for each of TRL, verl, google-tunix and OpenRLHF that it can
import, and says why it cannot import the others; `make audit` does it in every environment. The
page needs the extra experiments.
"""

import importlib
import json
import sys
from pathlib import Path

from absl import app, flags

from experiments.audit.measures import measure_cases, measure_curves, measure_pass_at_k

_OUT = flags.DEFINE_string("out", "runs/audit", "Directory of the measurements and the page.")
_PAGE = flags.DEFINE_boolean("page", False, "Write the page from the measurements in --out.")

MODULES = ("trl_estimators", "verl_estimators", "tunix_estimators", "openrlhf_estimators")


def main(argv):
    """Measures the installed frameworks, or writes the page."""
    del argv
    out = Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    if _PAGE.value:
        from experiments.audit.page import write_page

        try:
            print(write_page(out))
        except ValueError as error:
            sys.exit(str(error))
        return
    for module in MODULES:
        try:
            report = importlib.import_module(f"experiments.audit.{module}").report()
        except ImportError as error:
            print(f"{module}: {error}")
            continue
        measured = {
            "framework": report.framework,
            "version": report.version,
            "estimators": [
                {
                    "name": estimator.name,
                    "claim": estimator.claim,
                    "curves": measure_curves(estimator),
                    "cases": measure_cases(estimator),
                }
                for estimator in report.estimators
            ],
            "pass_at_k": {name: measure_pass_at_k(fn) for name, fn in report.pass_at_k.items()},
            "statements": report.statements,
        }
        path = out / f"{report.framework}.json"
        path.write_text(json.dumps(measured, indent=1))
        print(path)


if __name__ == "__main__":
    app.run(main)
