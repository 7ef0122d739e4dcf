"""The page of a profile.json: for each work, its kinds of operation and the longest of them."""

import statistics
from pathlib import Path

from experiments.benchmarks import record
from experiments.benchmarks.profile.measure import PRODUCT
from experiments.benchmarks.profile.operations import KINDS
from experiments.benchmarks.works import WORKS
from experiments.report.page import Page, Section, Text, markdown
from experiments.report.table import Table

NAME = "profile.json"
_LONGEST = 15


def write_page(folder: Path) -> Path:
    """Writes README.md from the profile.json of a folder; returns its path."""
    saved = record.load(folder / NAME)
    titles = {work.name: work.title() for work in WORKS}
    sections = [Section("How it is measured", Text((_ABOUT, *record.provenance(saved))))]
    for name, entry in saved.items():
        measured = entry["measured"]
        sections += [
            Section(titles.get(name, name), Text((floor_text(measured),))),
            Section("", kinds_table(measured)),
            Section("", longest_table(measured)),
        ]
    command = f"python -m experiments.benchmarks.profile --only={','.join(saved)} --out={folder}"
    page = Page("Where the time goes", _LEAD, tuple(sections), command)
    path = folder / "README.md"
    path.write_text(markdown(page), encoding="utf-8")
    return path


_LEAD = (
    "One repetition of works of the benchmark suite, by the operations of the program that XLA made"
    " of it for the CPU, and the floor: the time that its matrix products would take at the rate"
    " of a plain product, if all else were free."
)
_ABOUT = (
    "Each work is done twice to warm up, then without a trace, then once with one, in a process of"
    " its own on one core with one thread. Writing the trace takes time too, most where operations"
    " are many and short; seconds and shares of operations are those of the trace. FLOP are those"
    " of the products as compiled, counted by their shapes. The plain product is timed with XLA's"
    " own products and with oneDNN's; the faster counts."
)


def floor_text(measured: dict) -> str:
    """What the whole takes, and what its products would at the rate of the plain product."""
    seconds = statistics.median(measured["seconds"])
    flop = sum(each["flop"] * each["times"] for each in measured["operations"])
    rate = plain_rate(measured)
    return (
        f"{_figure(seconds)} s without a trace, {_figure(measured['traced_seconds'])} s with it."
        f" The products are {_figure(flop / 1e9)} GFLOP; at the {_figure(rate / 1e9)} GFLOP/s of a"
        f" plain product of {PRODUCT} x {PRODUCT} they take {_figure(flop / rate)} s, which is"
        f" {flop / rate / seconds:.0%} of the time without a trace."
    )


def plain_rate(measured: dict) -> float:
    """FLOP/s of the plain product beside the work."""
    return 2 * PRODUCT**3 / statistics.median(measured["product_seconds"])


def kinds_table(measured: dict) -> Table:
    """A row for each kind of operation, and one for what lies between operations."""
    whole, rate, rows = measured["traced_seconds"], plain_rate(measured), []
    inside = 0.0
    for kind in KINDS:
        own = [each for each in measured["operations"] if each["kind"] == kind]
        seconds = sum(each["seconds"] for each in own)
        flop = sum(each["flop"] * each["times"] for each in own)
        inside += seconds
        speed = (_figure(flop / 1e9), _figure(flop / seconds / 1e9)) if flop else ("", "")
        times = f"{sum(each['times'] for each in own):,}"
        rows.append(
            (kind, times, _figure(seconds), f"{seconds / whole:.0%}", *speed, _figure(flop / rate))
        )
    between = whole - inside
    rows.append(("between operations", "", _figure(between), f"{between / whole:.0%}", "", "", ""))
    head = ("operations", "times", "s", "share", "GFLOP", "GFLOP/s", "floor, s")
    return Table(head, tuple(rows), "By kind.")


def longest_table(measured: dict) -> Table:
    """A row for each of the operations that take longest in all."""
    longest = sorted(measured["operations"], key=lambda each: -each["seconds"])[:_LONGEST]
    rows = [
        (
            each["what"],
            f"{each['times']:,}",
            _figure(each["seconds"]),
            f"{each['seconds'] / measured['traced_seconds']:.1%}",
            _figure(each["flop"] * each["times"] / each["seconds"] / 1e9) if each["flop"] else "",
        )
        for each in longest
    ]
    head = ("result and operands", "times", "s", "share", "GFLOP/s")
    return Table(head, tuple(rows), f"The {len(rows)} longest.")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
