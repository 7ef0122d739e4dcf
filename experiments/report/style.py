"""Colours and lines of the methods, the same in every picture of a report."""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.report.runs import Run, by_method, setting

# Okabe and Ito's colours, which colour-blind readers can tell apart, without black and yellow,
# which vanish on a dark or on a light page; grey takes their place, and the blue is lighter.
_ORANGE, _SKY, _GREEN, BLUE = "#E69F00", "#56B4E9", "#009E73", "#1A80C4"
VERMILLION, _PURPLE, GREY = "#D55E00", "#CC79A7", "#7F7F7F"
_COLOURS = (VERMILLION, BLUE, _GREEN, _ORANGE, _PURPLE, _SKY, GREY)
_USUAL = {
    "fade": VERMILLION,
    "grpo": BLUE,
    "dr_grpo": BLUE,
    "power": _GREEN,
    "asym_grpo": _ORANGE,
    "power_asym": _PURPLE,
    "rloo": _SKY,
    "reinforce": GREY,
}
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))
# The methods of several sweeps, which look the same in all of them: one colour for a family.
_BY_NAME = {
    "fade": (VERMILLION, _DASHES[0]),
    "fade0.5": (VERMILLION, _DASHES[0]),
    "fade0.25": (VERMILLION, _DASHES[1]),
    "fade_rate0.98": (VERMILLION, _DASHES[2]),
    "fade_no_focal": (_PURPLE, _DASHES[0]),
    "fade_no_suppression": (_SKY, _DASHES[0]),
    "fade_from_entropy": (_PURPLE, _DASHES[1]),
    "fade_log_decay": (_SKY, _DASHES[1]),
    "grpo_no_std": (BLUE, _DASHES[0]),
    "power3": (_GREEN, _DASHES[0]),
    "power2": (_GREEN, _DASHES[1]),
    "asym0.5": (_ORANGE, _DASHES[0]),
    "asym2": (_ORANGE, _DASHES[1]),
    "reinforce": (GREY, _DASHES[0]),
}

# Of everything that is not data. Pictures inside the page have these two replaced by the colours of
# the reader's light or dark theme.
INK = "#24272b"
FAINT = "#d8dbdf"


@dataclass(frozen=True)
class Line:
    """A legend entry: what a line, or a marker, stands for."""

    label: str
    colour: str
    dashes: tuple[float, ...] = ()
    marker: str = ""


def method_lines(runs: Sequence[Run]) -> dict[str, Line]:
    """A colour and dashes for each method: its own, or the usual one of its advantage where free.

    Args:
      runs: of one report, in the order of the sweep.

    Returns:
      The lines by method; no two are alike up to 28 methods.
    """
    taken: dict[str, tuple[str, tuple[float, ...]]] = {}
    methods = by_method(runs)
    for method in methods:
        own = _BY_NAME.get(method)
        if own and own not in taken.values():
            taken[method] = own
    for method, members in methods.items():
        colour = _USUAL.get(setting(members[0].config, "advantage.name", ""))
        if method not in taken and colour and (colour, ()) not in taken.values():
            taken[method] = (colour, ())
    free = [(c, d) for d in _DASHES for c in _COLOURS if (c, d) not in taken.values()]
    rest = [method for method in methods if method not in taken]
    taken |= {method: free[i % len(free)] for i, method in enumerate(rest)}
    return {method: Line(method, *taken[method]) for method in methods}
