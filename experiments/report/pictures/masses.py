"""Gradient masses: exact over the solve rate, and measured over training."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from matplotlib.axes import Axes

import fade_jax
from experiments.advantages import factory_of, is_own
from experiments.report.picture import Panel, Picture
from experiments.report.pictures.lines import (
    curve_panel,
    curves,
    legend,
    panels,
    smoothing_window,
    what_lines_are,
)
from experiments.report.runs import Run, by_method, furthest, series, setting
from experiments.report.style import method_lines
from fade_jax.decomposition import GradientMasses, gradient_masses

_SOLVE_RATES = np.linspace(0, 1, 101)


def masses(runs: Sequence[Run]) -> Picture | None:
    """m_S and m_F of each method: exact as functions of p, and of the batches over steps."""
    exact = {method: exact_masses(members) for method, members in by_method(runs).items()}
    window = smoothing_window(runs)
    found = panels(
        _exact_panel(runs, exact, "success", "successes: $m_S(p)$, exact"),
        _exact_panel(runs, exact, "failure", "failures: $m_F(p)$, exact"),
        _measured_panel(runs, "mass_success", "successes: $m_S$ of the batches"),
        _measured_panel(runs, "mass_failure", "failures: $m_F$ of the batches"),
    )
    if not found:
        return None
    sizes = sorted({setting(run.config, "group_size", 0) for run in runs} - {0})
    smooth = f", running mean over {window} logged steps" if window > 1 else ""
    caption = (
        "Exact: total advantage on successes, E[(K/G) w_S(K)], and on failures, E[(1-K/G) w_F(K)], "
        f"K ~ Binomial(G, p), G = {' / '.join(map(str, sizes))}. Methods whose α and δ move are "
        "frozen, of their first seed: pale at the first step, full at the last. "
        f"Of the batches: the same masses measured over training steps{smooth}. "
        + what_lines_are(runs)
    )
    without = [method for method, pairs in exact.items() if not pairs]
    if without:
        caption += (
            " Without exact curves (not a function of one group, or one's own and moving, or not "
            f"to be imported here): {', '.join(without)}."
        )
    return Picture("masses", "Gradient masses", caption, found, legend(runs))


def exact_masses(runs: Sequence[Run]) -> list[GradientMasses]:
    """The exact masses of one method on `_SOLVE_RATES`, at the group size of its runs.

    Args:
      runs: of one method; the first of those that got furthest counts.

    Returns:
      One pair of masses; two, at the first and at the last step, where alpha or delta move; none
      where the advantage is not a function of one group's rewards, or is not here.
    """
    run = furthest(runs)[0]
    group = setting(run.config, "group_size", 0)
    if not group:
        return []
    try:
        return [gradient_masses(fn, _SOLVE_RATES, group) for fn in advantage_functions(run)]
    except (TypeError, ValueError):
        return []


def advantage_functions(run: Run) -> list[Callable[[jax.Array], jax.Array]]:
    """The advantage of a run; frozen at its first and at its last (α, δ) where these move.

    Raises:
      ConfigError: if the advantage cannot be imported here.
    """
    name, kwargs = (setting(run.config, f"advantage.{field}") for field in ("name", "kwargs"))
    alphas, deltas = (series(run.train, key)[1] for key in ("alpha", "delta"))
    if any(len(values) and np.ptp(values) > 0 for values in (alphas, deltas)):
        # What α and δ do in an advantage that is not ours is not known here.
        return [] if is_own(name) else [_frozen(alphas, deltas, at) for at in (0, -1)]
    link = factory_of(str(name))(**(kwargs or {}))

    def advantage(rewards: jax.Array) -> jax.Array:
        return link.update(rewards, link.init())[0]

    return [jax.jit(advantage)]


def _frozen(alphas: np.ndarray, deltas: np.ndarray, at: int) -> Callable[[jax.Array], jax.Array]:
    alpha = float(alphas[at]) if len(alphas) else 1.0
    delta = float(deltas[at]) if len(deltas) else 1.0
    return jax.jit(lambda rewards: fade_jax.fade(rewards, alpha=alpha, delta=delta))


def _measured_panel(runs: Sequence[Run], key: str, title: str) -> Panel | None:
    """Both measured panels have the same limits, so that the eye can divide m_S by m_F."""
    window = smoothing_window(runs)
    found = [*curves(runs, "mass_success", window).values()]
    found += curves(runs, "mass_failure", window).values()
    if not found:
        return None
    every = np.concatenate(
        [
            values
            for curve in found
            for values in (curve.mean, curve.low, curve.high, *(v for _, v in curve.single))
            if values is not None
        ]
    )
    limits = (1.05 * min(float(every.min()), 0.0), 1.05 * float(every.max()) or None)
    return curve_panel(runs, key, title, "mass", window=window, limits=limits)


def _exact_panel(runs: Sequence[Run], exact: dict, side: str, title: str) -> Panel | None:
    lines = method_lines(runs)
    if not any(exact.values()):
        return None
    every = np.stack([mass for pairs in exact.values() for pair in pairs for mass in pair])
    lowest, largest = min(float(every.min()), 0.0), float(every.max())

    def draw(axes: Axes) -> None:
        for method, pairs in exact.items():
            for pair in pairs:
                axes.plot(
                    _SOLVE_RATES,
                    getattr(pair, side),
                    color=lines[method].colour,
                    dashes=lines[method].dashes or (None, None),
                    linewidth=1.8,
                    alpha=1.0 if pair is pairs[-1] else 0.45,
                )
        axes.set_ylim(1.05 * lowest, 1.05 * largest)

    return Panel(title, "solve rate p", "mass", draw)
