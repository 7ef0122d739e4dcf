"""Shows where the time of works of the benchmark suite goes, on a CPU:

    python -m experiments.benchmarks.profile --only=rollout_smollm2,update_tiny
    python -m experiments.benchmarks.profile --render

profile.json and README.md, the page that is made of it alone, go to --out, where works that are not
profiled now keep their figures.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmarks import processes, record
from experiments.benchmarks.profile.page import NAME, write_page
from experiments.benchmarks.works import WORKS

KINDS = ("rollout", "update", "step")


def main(arguments: Sequence[str] | None = None) -> None:
    """Profiles, writes, and says where the page is."""
    works = {work.name: work for work in WORKS if work.kind in KINDS}
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", help=f"comma-separated: {', '.join(works)}")
    parser.add_argument("--repeats", type=int, default=3, help="of each work without a trace")
    parser.add_argument("--out", type=Path, default=Path("docs/profile"))
    parser.add_argument("--render", action="store_true", help="measure nothing")
    flags = parser.parse_args(arguments)
    wanted = [name for name in flags.only.split(",") if name] or list(works)
    for name in wanted:
        if name not in works:
            parser.error(f"--only: there is no {name!r}; there are {', '.join(works)}")
    if flags.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {flags.repeats}")
    if flags.render and not (flags.out / NAME).is_file():
        parser.error(f"--render: there is no {flags.out / NAME}")
    for number, name in enumerate([] if flags.render else wanted):
        print(f"{number + 1}/{len(wanted)}  {name}", file=sys.stderr, flush=True)
        sizes = json.dumps(works[name]._asdict())
        core = processes.first_core()
        measured = processes.report_of("profile.measure", sizes, str(flags.repeats), core=core)
        record.save(flags.out / NAME, name, measured, flags.repeats)
    print(f"profile: {write_page(flags.out)}")


if __name__ == "__main__":
    main()
