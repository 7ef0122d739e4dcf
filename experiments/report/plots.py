"""Figures of a report, one function each: returns the figure and its caption, or None without data.

Plots the runs of `runs.py` as `statistics.py` aggregates them; `write.py` saves the figures.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiments.report.runs import Run, by_method, furthest, pass_ks, series, setting
from experiments.report.statistics import (
    OUTCOMES,
    SOLVE_RATES,
    exact_masses,
    final_estimate,
    method_curve,
    outcome_shares,
    start_estimate,
)

Captioned = tuple[Figure, str]

STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d8dbdf",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": 100,
}
# Okabe and Ito's palette for color-blind readers, without yellow, with gray for black.
_COLOR_OF_ADVANTAGE = {
    "fade": "#D55E00",
    "grpo": "#1A80C4",
    "dr_grpo": "#1A80C4",
    "power": "#009E73",
    "asym_grpo": "#E69F00",
    "power_asym": "#CC79A7",
    "rloo": "#56B4E9",
    "reinforce": "#7F7F7F",
}
_COLOR_OF_OUTCOME = dict(
    zip(OUTCOMES, ("#009E73", "#7F7F7F", "#56B4E9", "#E69F00", "#D55E00", "#CC79A7", "#E3E5E8"))
)
_COLORS = tuple(dict.fromkeys(_COLOR_OF_ADVANTAGE.values()))
_LINE_STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))

_LINES = (
    "Line: mean over seeds. Band: its 95% interval as in the table, or, for a single run, "
    "the 95% interval over prompts. Thin: the runs themselves if there are two, and runs that "
    "stopped early, left out of the mean. Training metrics but α, δ and the rank-one fraction: "
    "running mean over a thirtieth of the run."
)
_HISTOGRAM_TIMES = 40  # columns of the solve-rate histogram, each a mean over several steps


def overview(runs: Sequence[Run]) -> Captioned | None:
    """Plots the sweep at a glance: smallest and largest pass@k, entropy, α and δ."""
    ks = pass_ks(runs)
    panels = [
        *(_pass_panel(k) for k in sorted({*ks[:1], *ks[-1:]})),
        ("entropy", "token entropy", {"ylabel": "nats", "window": smoothing_window(runs)}),
        ("alpha", "focus α", {}),
        ("delta", "suppression δ", {"from_zero": True}),
    ]
    return _plot_panels(runs, panels, "The sweep at a glance.", columns=5, size=(12.0, 3.3))


def pass_rates(runs: Sequence[Run]) -> Captioned | None:
    """Plots held-out pass@k over steps, a panel per k."""
    caption = "Unbiased pass@k on held-out prompts; step 0 is before training."
    return _plot_panels(runs, [_pass_panel(k) for k in pass_ks(runs)], caption)


def tradeoff(runs: Sequence[Run]) -> Captioned | None:
    """Plots pass@k against pass@1 over training, a panel per k > 1."""
    ks = [k for k in pass_ks(runs) if k > 1]
    if not ks or 1 not in pass_ks(runs):
        return None
    figure, grid = _subplots(len(ks))
    styles = method_styles(runs)
    for axes, k in zip(grid, ks):
        axes.set(title=f"pass@{k} against pass@1", xlabel="pass@1, %", ylabel=f"pass@{k}, %")
        keys = ("eval/pass@1", f"eval/pass@{k}")
        for method, members in by_method(runs).items():
            curves = [method_curve(members, key) for key in keys]
            if any(curve is None for curve in curves):
                continue
            x, y = (100 * curve.table["mean"] for curve in curves if curve is not None)
            axes.plot(*x.align(y, join="inner"), **styles[method], linewidth=1.2, marker=".")
            _plot_end(axes, members, keys, styles[method]["color"])
        start = [start_estimate(runs, key) for key in keys]
        if all(start):
            point = [100 * estimate.value for estimate in start if estimate]
            axes.plot(*point, "ks", markerfacecolor="none", markersize=8)
    _add_legend(figure, styles)
    return figure, (
        "Each path leads from before training (square) to the last evaluation (large dot, with its "
        "95% intervals as in the table); a small dot is an evaluation, averaged over seeds. "
        "Higher pass@1 is exploitation, higher pass@k is diversity."
    )


def entropies(runs: Sequence[Run]) -> Captioned | None:
    """Plots the token entropy of the training batches: all rollouts, successes, failures."""
    look = {"ylabel": "nats", "window": smoothing_window(runs), "from_zero": True}
    panels = [
        ("entropy", "token entropy", look),
        ("entropy_success", "of successes", look),
        ("entropy_failure", "of failures", look),
    ]
    caption = "Mean token entropy of the sampled rollouts: all, successful and failed ones."
    return _plot_panels(runs, panels, caption)


def schedules(runs: Sequence[Run]) -> Captioned | None:
    """Plots α and δ over steps, for the methods that have them."""
    panels = [
        ("alpha", "focus α", {"ylabel": "exponent α"}),
        ("delta", "suppression δ", {"ylabel": "$\\delta = m_S / m_F$", "from_zero": True}),
    ]
    caption = (
        "The two feedback schedules: α from the solve rate (larger: more weight on hard prompts), "
        "δ from the token entropy (below 1: more weight on failures)."
    )
    return _plot_panels(runs, panels, caption)


def training(runs: Sequence[Run]) -> Captioned | None:
    """Plots the reward signal of the training batches and the size of the update."""
    smooth = {"window": smoothing_window(runs), "from_zero": True}
    percent = {"ylabel": "%", "scale": 100}
    panels = [
        ("solve_rate", "solve rate, training prompts", percent | smooth),
        ("zero_variance_fraction", "prompts without signal", percent | smooth),
        ("gradient_norm", "gradient norm", {"ylabel": "norm", **smooth}),
        ("rank_one_fraction", "head: rank-one fraction", {**percent, "from_zero": True}),
    ]
    if any(not series(run.train, "reward").equals(series(run.train, "solve_rate")) for run in runs):
        panels.insert(0, ("reward", "reward, training prompts", {"ylabel": "mean", **smooth}))
    caption = (
        "Of the training batches: solve rate; share of prompts whose rollouts all fail or all "
        "succeed, which most advantages ignore; gradient norm before clipping; share of the head's "
        "update since the start in its first singular direction (σ₁² / Σσ²)."
    )
    return _plot_panels(runs, panels, caption)


def masses(runs: Sequence[Run]) -> Captioned | None:
    """Plots m_S and m_F of each method: exact as functions of p, and measured over steps."""
    exact = {method: exact_masses(members) for method, members in by_method(runs).items()}
    has_exact = any(exact.values())
    has_measured = _has(runs, "mass_success") and _has(runs, "mass_failure")
    if not has_exact and not has_measured:
        return None
    figure, grid = _subplots(2 * (has_exact + has_measured))
    styles, window = method_styles(runs), smoothing_window(runs)
    for left, right in zip(grid[::2], grid[1::2]):
        right.sharey(left)
    for i, (side, symbol) in enumerate((("success", "m_S"), ("failure", "m_F"))):
        if has_exact:
            title = f"{side}: ${symbol}(p)$, exact"
            grid[i].set(title=title, xlabel="solve rate p", ylabel="mass")
            for method, pairs in exact.items():
                for pair in pairs:
                    alpha = 1.0 if pair is pairs[-1] else 0.45
                    grid[i].plot(SOLVE_RATES, getattr(pair, side), **styles[method], alpha=alpha)
        if has_measured:
            title = f"{side}: ${symbol}$ of the batches"
            _plot_metric(grid[i - 2], runs, f"mass_{side}", title, ylabel="mass", window=window)
    _add_legend(figure, styles)
    sizes = sorted({setting(run.config, "group_size", 0) for run in runs} - {0})
    caption = (
        "Exact: total advantage of successes, E[(K/G) w_S(K)], and of failures, "
        f"E[(1-K/G) w_F(K)], K ~ Binomial(G, p), G = {' / '.join(map(str, sizes))}; where α or δ "
        "move, with those of the first seed at the first step (pale) and at the last. "
        f"Of the batches: measured over training. {_LINES}"
    )
    missing = [method for method, pairs in exact.items() if not pairs]
    if missing:
        caption += (
            " Without exact curves (not a function of one group, a user's function whose α or δ "
            f"move, or not importable here): {', '.join(missing)}."
        )
    return figure, caption


def solve_rates(runs: Sequence[Run]) -> Captioned | None:
    """Plots the share of training prompts at each solve rate over steps, a panel per method."""
    found = {}
    for method, members in by_method(runs).items():
        shares = [_solve_rate_shares(run) for run in furthest(members)]
        shares = [share for share in shares if share is not None]
        if shares and len({share.shape for share in shares}) == 1:
            found[method] = np.mean(shares, 0), members
    if not found:
        return None
    figure, grid = _subplots(len(found))
    for axes, (method, (shares, members)) in zip(grid, found.items()):
        half = 0.5 / (shares.shape[1] - 1)
        axes.set(title=method, xlabel="step", ylabel="solve rate of the group")
        axes.grid(visible=False)
        extent = (0, max(run.last_step for run in members), -half, 1 + half)
        image = np.sqrt(shares.T)
        axes.imshow(image, "Blues", vmin=0, aspect="auto", origin="lower", extent=extent)
    return figure, (
        "Share of the training prompts (white to dark: 0 to the panel's largest, square-root "
        "scale) by the solve rate of their group, averaged over seeds. Prompts at 0 and 1 give no "
        "signal to a group-centered advantage."
    )


def outcomes(runs: Sequence[Run]) -> Captioned | None:
    """Plots what became of the training completions, a panel per method, and their length."""
    window = smoothing_window(runs)
    found = {}
    for method, members in by_method(runs).items():
        shares = [outcome_shares(run, window) for run in furthest(members)]
        if shares := [share for share in shares if share is not None]:
            found[method] = pd.concat(shares).groupby(level=0).mean()
    if not found:
        return None
    figure, grid = _subplots(len(found) + _has(runs, "length"))
    for axes, (method, shares) in zip(grid, found.items()):
        axes.set(title=method, xlabel="step", ylabel="share", ylim=(0, 1), axisbelow=False)
        axes.stackplot(shares.index, shares.T.to_numpy(), colors=_COLOR_OF_OUTCOME.values())
        axes.set_xlim(shares.index[0], max(shares.index[-1], shares.index[0] + 1))
    if _has(runs, "length"):
        look = {"ylabel": "tokens", "window": window, "from_zero": True}
        _plot_metric(grid[-1], runs, "length", "length of a completion", **look)
        grid[-1].legend(handles=_lines(method_styles(runs)), fontsize=7)
    _place_legend(figure, [Patch(color=c, label=kind) for kind, c in _COLOR_OF_OUTCOME.items()])
    return figure, (
        "Of the completions of each training step: right; wrong; ended without an answer that could"
        " be read; cut off before an end token; raised an error or ended their process; ran out of"
        " time; could not be checked. Mean over seeds. Length: tokens, up to where a completion was"
        f" cut off. {_LINES}"
    )


def method_styles(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Returns the color and line style of each method, as keywords of `Axes.plot`.

    A known advantage has the same color in every report; its methods differ in their line style.
    No two of up to 28 methods look alike.
    """
    seen: Counter[str] = Counter()
    names, ranks = {}, {}
    for method, members in by_method(runs).items():
        names[method] = name = setting(members[0].config, "advantage.name", "")
        ranks[method] = seen[name] if name in _COLOR_OF_ADVANTAGE else len(_LINE_STYLES)
        seen[name] += 1
    combinations = [(color, line) for line in _LINE_STYLES for color in _COLORS]
    taken: dict[str, tuple] = {}
    for method in sorted(ranks, key=lambda method: ranks[method]):
        color = _COLOR_OF_ADVANTAGE.get(names[method])
        wanted = [(color, line) for line in _LINE_STYLES] if color else []
        free = [x for x in (*wanted, *combinations) if x not in taken.values()]
        taken[method] = (free or combinations)[0]
    return {method: dict(zip(("color", "linestyle"), taken[method])) for method in names}


def smoothing_window(runs: Sequence[Run]) -> int:
    """Returns an odd number of logged lines, about a thirtieth of the longest run."""
    return 2 * (max((len(run.train) for run in runs), default=0) // 60) + 1


def _pass_panel(k: int) -> tuple[str, str, dict[str, Any]]:
    return f"eval/pass@{k}", f"pass@{k}, held out", {"ylabel": "%", "scale": 100}


def _plot_panels(runs: Sequence[Run], panels, caption: str, **layout) -> Captioned | None:
    """Plots the (key, title, look) panels that have data, under one legend."""
    panels = [panel for panel in panels if _has(runs, panel[0])]
    if not panels:
        return None
    figure, grid = _subplots(len(panels), **layout)
    for axes, (key, title, look) in zip(grid, panels):
        _plot_metric(axes, runs, key, title, **look)
    _add_legend(figure, method_styles(runs))
    return figure, f"{caption} {_LINES}"


def _plot_metric(
    axes: Axes,
    runs: Sequence[Run],
    key: str,
    title: str,
    *,
    ylabel: str = "",
    scale: float = 1.0,
    window: int = 1,
    from_zero: bool = False,
) -> None:
    """Plots a metric over steps: for each method its mean, its band and its single runs."""
    axes.set(title=title, xlabel="step", ylabel=ylabel)
    styles = method_styles(runs)
    for method, members in by_method(runs).items():
        curve = method_curve(members, key, window)
        if curve is None:
            continue
        color = styles[method]["color"]
        for values in curve.single:
            axes.plot(scale * values, color=color, linewidth=0.7, alpha=0.6)
        table = scale * curve.table
        band = {"color": color, "alpha": 0.15, "linewidth": 0}
        axes.fill_between(table.index, table["low"], table["high"], **band)
        axes.plot(table["mean"], **styles[method])
    axes.set_xlim(0, max(run.last_step for run in runs) or None)
    if from_zero:
        axes.set_ylim(0, 1.04 * axes.get_ylim()[1])


def _plot_end(axes: Axes, members: Sequence[Run], keys: Sequence[str], color: str) -> None:
    x, y = (final_estimate(members, key) for key in keys)
    if x is None or y is None:
        return
    x_ends, y_ends = ([100 * max(e.low, 0), 100 * min(e.high, 1)] for e in (x, y))
    axes.plot(x_ends, [100 * y.value] * 2, color=color, linewidth=1)
    axes.plot([100 * x.value] * 2, y_ends, color=color, linewidth=1)
    axes.plot(100 * x.value, 100 * y.value, "o", color=color, markersize=8)


def _solve_rate_shares(run: Run) -> np.ndarray | None:
    """Returns the share of prompts `[time, solve rate]`, in at most 40 times."""
    if "solve_rate_histogram" not in run.train:
        return None
    counts = [x for x in run.train["solve_rate_histogram"] if isinstance(x, list)]
    if len({len(x) for x in counts}) != 1 or len(counts[0]) < 2:
        return None
    parts = np.array_split(np.array(counts, np.float64), min(_HISTOGRAM_TIMES, len(counts)))
    sums = np.stack([part.sum(0) for part in parts])
    return sums / np.maximum(sums.sum(1, keepdims=True), 1)


def _has(runs: Sequence[Run], key: str) -> bool:
    return any(len(series(run.evaluations if "/" in key else run.train, key)) for run in runs)


def _subplots(
    number: int, columns: int | None = None, size: tuple[float, float] | None = None
) -> tuple[Figure, list[Axes]]:
    columns = min(number, columns or (2 if number == 4 else 3))
    rows = -(-number // columns)
    figure = Figure(figsize=size or (3.6 * columns, 2.8 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[number:]:
        axes.remove()
    return figure, grid[:number]


def _add_legend(figure: Figure, styles: dict[str, dict[str, Any]]) -> None:
    _place_legend(figure, _lines(styles))


def _lines(styles: dict[str, dict[str, Any]]) -> list[Artist]:
    return [Line2D([], [], label=method, **style) for method, style in styles.items()]


def _place_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    widest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), int(figure.get_figwidth() / (0.65 + 0.075 * widest))))
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(handles) // columns))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)
