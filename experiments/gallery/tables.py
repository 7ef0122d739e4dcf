"""The tables: figures at G = 8, and formulas."""

from collections.abc import Sequence

import numpy as np

from experiments.gallery.curves import GROUP, Curves, ratio
from experiments.gallery.entries import Entry
from experiments.report.table import Table
from fade_jax.decomposition import outcome_weights

_SOLVE_RATES = np.linspace(0, 1, 1001)


def figures(entries: Sequence[Entry]) -> Table:
    """A row of figures for each advantage, exact at the finite group."""
    head = (
        "advantage",
        "ratio at ½",
        "peak",
        "peak, large G",
        "all-0",
        "all-1",
        "h(½)",
        "F(1)",
        "size",
    )
    caption = (
        f"Exact at G = {GROUP}, apart from the peak in a large group. Ratio: m_S/m_F at p = ½. "
        "Peak: the p with the most mass on successes. all-0, all-1: the advantage that every "
        "rollout of an all-failed and of an all-solved group receives. Size: the mean of "
        "|m_S| + |m_F| over solve rates spread evenly from 0 to 1; two sizes differ like two "
        "learning rates, and a comparison has to make them equal."
    )
    return Table(head, tuple(_row(entry) for entry in entries), caption)


def formulas(entries: Sequence[Entry]) -> Table:
    """Ratio, expected weight and objective of each advantage in a large group."""
    caption = (
        "In a large group, or at G where G stands in the formula; q = 1 - p, pass@k = 1 - q^k. F "
        "up to a constant. E ĝ = h(p) ∇p = ∇F(p) for the gradient estimate ĝ of one prompt."
    )
    rows = tuple(
        (entry.title, entry.ratio, entry.weight, entry.objective, entry.arxiv or "–")
        for entry in entries
    )
    return Table(("advantage", "m_S/m_F", "h(p)", "F(p)", "arXiv"), rows, caption, figures=False)


def _row(entry: Entry) -> tuple[str, ...]:
    advantage = entry.advantage(GROUP)
    weights = outcome_weights(advantage, GROUP)
    curves = entry.exact(advantage, GROUP, _SOLVE_RATES)
    half, one = len(_SOLVE_RATES) // 2, -1
    return (
        entry.title,
        _number(ratio(curves)[half]),
        _peak(curves.success),
        _peak(np.asarray(entry.masses(_SOLVE_RATES).success)),
        entry.degenerate or _number(-weights.failure[0]),
        entry.degenerate or _number(weights.success[-1]),
        _number(curves.weight[half]),
        _number(curves.objective[one]),
        _number(_size(curves)),
    )


def _peak(mass: np.ndarray) -> str:
    mass = np.nan_to_num(mass)
    return f"{_SOLVE_RATES[np.argmax(mass)]:.3g}" if np.any(mass > 0) else "–"


def _size(curves: Curves) -> float:
    total = np.nan_to_num(np.abs(curves.success) + np.abs(curves.failure))
    return float(np.trapezoid(total, _SOLVE_RATES))


def _number(value: float) -> str:
    if np.isinf(value):
        return "∞"
    return f"{value:.3g}" if abs(value) > 1e-6 else "0"
