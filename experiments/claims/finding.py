"""A finding: what a criterion says of the runs, with the figures it says it from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.report.intervals import Estimate

REPRODUCES, DOES_NOT, UNDECIDED, NOT_RUN = "reproduces", "does not", "undecided", "not run"


@dataclass(frozen=True)
class Figure:
    """A number of a finding.

    Attributes:
      label: what it is of.
      estimate: the value and its interval.
      unit: "points" (of per cent, the estimate being a share), "nats", "steps" or "share".
    """

    label: str
    estimate: Estimate
    unit: str

    def __str__(self) -> str:
        return f"{self.label}: {interval_text(self.estimate, self.unit)}"


@dataclass(frozen=True)
class Finding:
    """The verdict on one criterion, its figures, and one sentence that puts it in words."""

    verdict: str
    figures: tuple[Figure, ...]
    sentence: str


def interval_text(estimate: Estimate, unit: str) -> str:
    """A difference with its sign, its interval and its unit."""
    scale, digits = {"points": (100, 1), "nats": (1, 3), "steps": (1, 0), "share": (1, 3)}[unit]
    value, low, high = (scale * x for x in estimate[:3])
    if math.isnan(value):
        return "no value"
    name = "" if unit == "share" else f" {unit}"
    if math.isnan(low):
        return f"{value:+.{digits}f}{name}"
    return f"{value:+.{digits}f}{name} [{low:+.{digits}f}, {high:+.{digits}f}]"


def side(estimate: Estimate) -> int:
    """1 if the whole interval is above 0, -1 if it is below, 0 if it includes 0 or is none."""
    if estimate.low > 0:
        return 1
    return -1 if estimate.high < 0 else 0


def all_of(figures: Sequence[Figure], wanted: Sequence[int]) -> str:
    """The verdict on a claim that needs every interval on its side of 0.

    Args:
      figures: whose intervals count.
      wanted: 1 or -1 for each.

    Returns:
      reproduces if all are there, does not if one is on the other side, undecided otherwise.
    """
    sides = [side(figure.estimate) for figure in figures]
    if any(found == -want for found, want in zip(sides, wanted, strict=True)):
        return DOES_NOT
    return REPRODUCES if list(wanted) == sides else UNDECIDED


def together(verdicts: Sequence[str]) -> str:
    """The verdict on a claim of several parts: not run if one is not, does not if one does not."""
    for verdict in (NOT_RUN, DOES_NOT, UNDECIDED):
        if verdict in verdicts:
            return verdict
    return REPRODUCES
