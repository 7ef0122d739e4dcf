"""Figures of a report that compare methods: at the end, by prompts, and by their weights.

Plots the runs of `runs.py` as `statistics.py` aggregates them, in the style of
`experiments.figures`. Each function returns a `Plot`, or None without data. Below: plots. Above:
write.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments import figures
from experiments.report.plots import (
    Panel,
    Plot,
    curve_rows,
    curves_of,
    draw_curves,
    explain_lines,
    method_styles,
    smoothing_window,
)
from experiments.report.runs import Run, by_method, furthest, pass_ks, setting
from experiments.report.statistics import (
    MOST_PAIRED,
    OUTCOMES,
    SOLVE_RATES,
    Estimate,
    differences,
    exact_masses,
    final_estimate,
    method_curve,
    outcome_shares,
    reference,
    start_estimate,
)

_MASS = "mass per rollout"
_HISTOGRAM_TIMES = 40  # columns of the solve-rate histogram, each a mean over several steps
_COLOR_OF_OUTCOME = dict(
    zip(
        OUTCOMES,
        (
            figures.GREEN,
            figures.GRAY,
            figures.SKY,
            figures.ORANGE,
            figures.RED,
            figures.PURPLE,
            "#E3E5E8",
        ),
    )
)


def paired(runs: Sequence[Run]) -> Plot | None:
    """Plots the paired differences of pass@k between methods, with their intervals."""
    methods, ks = by_method(runs), pass_ks(runs)
    rows = differences(methods, sorted({*ks[:1], *ks[len(ks) // 2 : len(ks) // 2 + 1], *ks[-1:]}))
    if not rows:
        return None
    pairs = list(dict.fromkeys((row.method, row.minus) for row in rows))
    only = reference(methods) if len(methods) > MOST_PAIRED else ""
    names = [a if only else f"{a} − {b}" for a, b in pairs]
    if max(map(len, names)) > 30:
        names = [name.replace(" − ", "\n− ") for name in names]
    shown = list(dict.fromkeys(row.k for row in rows))
    data = pd.DataFrame(
        [(row.method, row.minus, row.k, *_points(row.found), row.found.num_seeds) for row in rows],
        columns=["method", "minus", "k", "difference", "low", "high", "seeds"],
    ).assign(unit="percentage points")
    ends = data[["low", "high"]].to_numpy()
    limit = 1.05 * max(np.abs(ends).max(), 0.1)

    def draw(narrow: bool) -> Figure:
        height = 0.65 + len(pairs) * (0.34 if "\n" in names[0] else 0.2)
        figure, grid = figures.panels(len(shown), narrow=narrow, height=height)
        for axes, k in zip(grid, shown):
            axes.set(title=f"pass@{k}", xlabel="difference, points", xlim=(-limit, limit))
            axes.axvline(0, color=figures.INK, linewidth=0.8)
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.locator_params(axis="x", nbins=5)
            for row in (row for row in rows if row.k == k):
                y = pairs.index((row.method, row.minus))
                value, low, high = _points(row.found)
                axes.plot([low, high], [y, y], color=figures.INK, linewidth=1.2)
                fill = figures.INK if low > 0 or high < 0 else "white"
                axes.plot(value, y, "o", color=figures.INK, markerfacecolor=fill)
        figures.hide_inner(grid)
        if only:
            figure.suptitle(f"minus {only}", x=0.01, ha="left", fontsize=figures.MIN_POINTS)
            figure.set_figheight(figure.get_figheight() + 0.2)
        return figure

    return Plot(
        draw,
        "Differences of pass@k at the last evaluation, in percentage points, paired by seed and "
        "prompt, with their 95% intervals over prompts and, with several seeds, over seeds. "
        "Filled: the interval excludes 0. No correction for the number of comparisons.",
        data,
    )


def _points(estimate: Estimate) -> tuple[float, float, float]:
    value, low, high = (100 * float(x) for x in estimate[:3])
    return value, max(low, -100.0), min(high, 100.0)


def tradeoff(runs: Sequence[Run]) -> Plot | None:
    """Plots pass@k against pass@1 over training, a panel per k > 1."""
    ks = [k for k in pass_ks(runs) if k > 1]
    if not ks or 1 not in pass_ks(runs):
        return None
    styles, rows, paths = method_styles(runs), [], {}
    for k, (method, members) in product(ks, by_method(runs).items()):
        curves = [method_curve(members, f"eval/pass@{j}") for j in (1, k)]
        if all(curves):
            x, y = (100 * curve.table["mean"] for curve in curves if curve is not None)
            paths[k, method] = x.align(y, join="inner")
            rows += [(method, k, step, *xy) for step, *xy in zip(x.index, *paths[k, method])]
    if not paths:
        return None

    def draw(narrow: bool) -> Figure:
        figure, grid = figures.panels(len(ks), narrow=narrow, height=1.9)
        for axes, k in zip(grid, ks):
            axes.set(title=f"pass@{k}", xlabel="pass@1 held out, %", ylabel="pass@k held out, %")
            for method, members in by_method(runs).items():
                if (k, method) in paths:
                    path = {**styles[method], "marker": ".", "markevery": None, "linewidth": 1.1}
                    axes.plot(*paths[k, method], **path)
                    _draw_end(axes, members, k, styles[method])
            start = [start_estimate(runs, f"eval/pass@{j}") for j in (1, k)]
            if all(start):
                point = [100 * estimate.value for estimate in start if estimate]
                axes.plot(*point, "ks", markerfacecolor="none", markersize=7)
        right = max(axes.dataLim.x1 for axes in grid)
        for axes in grid:
            axes.set_xlim(0, 1.05 * right or 1.0)
        figures.finish(figure, grid, styles)
        return figure

    return Plot(
        draw,
        "Each path leads from before training (square) to the last evaluation (large mark, with "
        "its 95% intervals as in the table); a dot is an evaluation, averaged over seeds. Higher "
        "pass@1 is exploitation, higher pass@k is diversity.",
        pd.DataFrame(rows, columns=["method", "k", "step", "pass@1, %", "pass@k, %"]),
    )


def _draw_end(axes: Axes, members: Sequence[Run], k: int, style: dict) -> None:
    x, y = (final_estimate(members, f"eval/pass@{j}") for j in (1, k))
    if x is None or y is None:
        return
    color = style["color"]
    x_ends, y_ends = ([100 * max(e.low, 0), 100 * min(e.high, 1)] for e in (x, y))
    axes.plot(x_ends, [100 * y.value] * 2, color=color, linewidth=0.9)
    axes.plot([100 * x.value] * 2, y_ends, color=color, linewidth=0.9)
    axes.plot(100 * x.value, 100 * y.value, style["marker"], color=color, markersize=6.5)


def masses(runs: Sequence[Run]) -> Plot | None:
    """Plots m_S and m_F of each method: exact as functions of p, and measured over steps."""
    exact = {method: exact_masses(members) for method, members in by_method(runs).items()}
    sides = (("success", "m_S"), ("failure", "m_F"))
    measured = {
        side: (panel, curves_of(runs, panel))
        for side, symbol in sides
        for panel in [Panel(f"mass_{side}", f"{side}: ${symbol}$ of the batches", _MASS, 1, True)]
    }
    has_exact, has_measured = any(exact.values()), any(found for _, found in measured.values())
    if not has_exact and not has_measured:
        return None
    styles = method_styles(runs)

    def draw(narrow: bool) -> Figure:
        number = 2 * (has_exact + has_measured)
        figure, grid = figures.panels(number, narrow=narrow, height=1.6)
        for i, (side, symbol) in enumerate(sides):
            if has_exact:
                grid[i].set(
                    title=f"{side}: ${symbol}(p)$, exact",
                    xlabel="solve rate p, 0–1",
                    ylabel=f"exact {_MASS}",
                    xlim=(0, 1),
                )
                for method, pairs in exact.items():
                    for pair in pairs:
                        last = pair is pairs[-1]
                        look: dict = styles[method] | (
                            {"label": method} if last else {"alpha": 0.4}
                        )
                        grid[i].plot(SOLVE_RATES, getattr(pair, side), **look)
            if has_measured:
                axes, (panel, found) = grid[i - 2], measured[side]
                axes.set(title=panel.title, xlabel="training step", ylabel=f"measured {_MASS}")
                draw_curves(axes, runs, found)
                axes.set_xlim(0, max(run.last_step for run in runs) or None)
        figures.finish(figure, grid, styles)
        return figure

    sizes = sorted({setting(run.config, "group_size", 0) for run in runs} - {0})
    caption = (
        "Exact: total advantage of successes, E[(K/G) w_S(K)], and of failures, "
        f"E[(1-K/G) w_F(K)], K ~ Binomial(G, p), G = {' / '.join(map(str, sizes))}; where α or δ "
        "move, with those of the first seed at the first step (pale) and at the last. "
        f"Of the batches: measured over training. {explain_lines(runs, False, has_measured)}"
    )
    missing = [method for method, pairs in exact.items() if not pairs]
    if missing:
        caption += (
            " Without exact curves (not a function of one group, a user's function whose α or δ "
            f"move, or not importable here): {', '.join(missing)}."
        )
    tables = [
        pd.DataFrame(
            {
                "metric": "exact",
                "method": method,
                "at": "the last step" if pair is pairs[-1] else "the first step",
                "p": SOLVE_RATES,
                "m_S": pair.success,
                "m_F": pair.failure,
            }
        )
        for method, pairs in exact.items()
        for pair in pairs
    ]
    if has_measured:
        tables.append(curve_rows(dict(measured.values())))
    return Plot(draw, caption, pd.concat(tables, ignore_index=True))


def solve_rates(runs: Sequence[Run]) -> Plot | None:
    """Plots the share of training prompts at each solve rate over steps, a panel per method."""
    found: dict[str, tuple[np.ndarray, int]] = {}
    for method, members in by_method(runs).items():
        shares = [_solve_rate_shares(run) for run in furthest(members)]
        shares = [100 * share for share in shares if share is not None]
        if shares and len({share.shape for share in shares}) == 1:
            found[method] = np.mean(shares, 0), max(run.last_step for run in members)
    if not found:
        return None
    norm = PowerNorm(0.5, 0, max(shares.max() for shares, _ in found.values()))

    def draw(narrow: bool) -> Figure:
        figure, grid = figures.panels(len(found), narrow=narrow, height=1.6)
        for axes, (method, (shares, last)) in zip(grid, found.items()):
            half = 0.5 / (shares.shape[1] - 1)
            axes.set(title=method, xlabel="training step", ylabel="group solve rate, 0–1")
            axes.grid(visible=False)
            look = {"aspect": "auto", "origin": "lower", "extent": (0, last, -half, 1 + half)}
            axes.imshow(shares.T, "Blues", norm=norm, **look)
            axes.locator_params(axis="x", nbins=4)
        scale = ScalarMappable(norm, "Blues")
        figure.colorbar(scale, ax=grid, label="training prompts, %", aspect=30, pad=0.02)
        figures.hide_inner(grid)
        return figure

    rows = [
        (method, last * (time + 1) / len(shares), rate / (shares.shape[1] - 1), share)
        for method, (shares, last) in found.items()
        for time, row in enumerate(shares)
        for rate, share in enumerate(row)
    ]
    return Plot(
        draw,
        "Share of the training prompts (square-root scale, one for all panels) by the solve rate "
        "of their group, averaged over seeds. Prompts at 0 and 1 give no signal to a "
        "group-centered advantage.",
        pd.DataFrame(rows, columns=["method", "until step", "solve rate", "prompts, %"]),
    )


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


def outcomes(runs: Sequence[Run]) -> Plot | None:
    """Plots what became of the training completions, a panel per method."""
    window = smoothing_window(runs)
    found: dict[str, pd.DataFrame] = {}
    for method, members in by_method(runs).items():
        shares = [outcome_shares(run, window) for run in furthest(members)]
        if shares := [100 * share for share in shares if share is not None]:
            found[method] = pd.DataFrame(pd.concat(shares).groupby(level=0).mean())
    if not found:
        return None

    def draw(narrow: bool) -> Figure:
        figure, grid = figures.panels(len(found), narrow=narrow)
        for axes, (method, shares) in zip(grid, found.items()):
            label = "completions, %"
            axes.set(title=method, xlabel="training step", ylabel=label, ylim=(0, 100))
            axes.set_axisbelow(False)
            colors = list(_COLOR_OF_OUTCOME.values())
            edges = {"edgecolor": "white", "linewidth": 0.3}
            axes.stackplot(shares.index, shares.T.to_numpy(), colors=colors, **edges)
            axes.set_xlim(shares.index[0], max(shares.index[-1], shares.index[0] + 1))
            axes.locator_params(axis="x", nbins=4)
        figures.hide_inner(grid)
        patches = [Patch(color=color, label=kind) for kind, color in _COLOR_OF_OUTCOME.items()]
        figures.add_legend(figure, patches)
        return figure

    tables = [shares.assign(method=method) for method, shares in found.items()]
    return Plot(
        draw,
        "Of the completions of each training step, from below: right; wrong; ended without an "
        "answer that could be read; cut off before an end token; raised an error or ended their "
        "process; ran out of time; could not be checked. Mean over seeds, running mean over a "
        "thirtieth of the run.",
        pd.concat(tables).rename_axis("step").reset_index(),
    )
