"""Measures how the time and the memory of a step grow with each of its sizes:

    python -m experiments.benchmarks.growth [--axis=batch --axis=group] [--repeats=3]
    python -m experiments.benchmarks.growth --render

Each point is a process of its own on one core. All axes take about half an hour on a machine that
does nothing else. growth.json, README.md and a picture of each axis go to --out, where axes that
are not measured now keep their figures; --render makes page and pictures again from growth.json.
"""

import argparse
from pathlib import Path

from experiments.benchmarks import record
from experiments.benchmarks.growth import collect
from experiments.benchmarks.growth.axes import AXES
from experiments.benchmarks.growth.write import NAME, PARTS, write_page


def main(arguments: list[str] | None = None) -> None:
    """Measures, writes, and says where the page is."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [*(axis.name for axis in AXES), PARTS]
    parser.add_argument(
        "--axis", action="append", choices=names, help="may be repeated; all of them by default"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of each step, at least")
    parser.add_argument("--out", type=Path, default=Path("docs/growth"))
    parser.add_argument("--render", action="store_true", help="measure nothing")
    flags = parser.parse_args(arguments)
    if not flags.render:
        wanted = flags.axis or names
        axes = [axis for axis in AXES if axis.name in wanted]
        for name, points in collect.measure_axes(axes, flags.repeats):
            record.save(flags.out / NAME, name, points, flags.repeats)
        if PARTS in wanted:
            parts = collect.measure_parts(flags.repeats)
            record.save(flags.out / NAME, PARTS, parts, flags.repeats)
    print(f"growth: {write_page(flags.out)}")


if __name__ == "__main__":
    main()
