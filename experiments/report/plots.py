"""Figures of a report over training: curves of metrics, an axes for each, a line for each method.

Plots the runs of `runs.py` as `statistics.py` aggregates them, in the style of
`experiments.figures`. Each function returns a `Plot`, or None without data. Above: method_plots,
write.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import figures
from experiments.report.runs import Run, by_method, furthest, pass_ks, series, setting
from experiments.report.statistics import (
    MIN_SEEDS_FOR_BAND,
    Curve,
    mean_tokens,
    method_curve,
)


class Plot(NamedTuple):
    """A figure of a report.

    Attributes:
      draw: draws it; True for one column of a page, or a phone.
      caption: of the figure.
      data: what it shows, in the units of its axes.
    """

    draw: Callable[[bool], Figure]
    caption: str
    data: pd.DataFrame


class Panel(NamedTuple):
    """A metric to plot.

    Attributes:
      key: of the metric; an evaluation's begins with "eval/".
      title: of the panel.
      label: of the y-axis: quantity and unit. Panels of one label have one range.
      scale: from the metric to that unit.
      smooth: whether to plot the running mean over a thirtieth of the run.
    """

    key: str
    title: str
    label: str
    scale: float = 1.0
    smooth: bool = False


ENTROPY = "entropy, nats/token"
_WHY_EMPTY = {
    "entropy_success": "no rollout was right",
    "entropy_failure": "no rollout was wrong",
    "rank_one_fraction": "the head has not moved",
}


def overview(runs: Sequence[Run]) -> Plot | None:
    """Plots the sweep at a glance: smallest and largest pass@k, entropy, α and δ."""
    ks = pass_ks(runs)
    panels = [
        *(_pass_panel(k) for k in sorted({*ks[:1], *ks[-1:]})),
        Panel("entropy", "token entropy", ENTROPY, smooth=True),
        Panel("alpha", "focus α", "exponent α"),
        Panel("delta", "suppression δ", "ratio δ"),
    ]
    return _curves(runs, panels, "The sweep at a glance.")


def pass_rates(runs: Sequence[Run]) -> Plot | None:
    """Plots held-out pass@k over steps, a panel per k."""
    caption = "Unbiased pass@k on held-out prompts; step 0 is before training."
    return _curves(runs, [_pass_panel(k) for k in pass_ks(runs)], caption)


def pass_rates_over_tokens(runs: Sequence[Run]) -> Plot | None:
    """Plots held-out pass@k over the tokens that were sampled for training."""
    caption = (
        "The same over the tokens that were sampled for training, which cost more where "
        "completions are longer; tokens of warm starts and evaluations are not counted."
    )
    return _curves(runs, [_pass_panel(k) for k in pass_ks(runs)], caption, over_tokens=True)


def entropies(runs: Sequence[Run]) -> Plot | None:
    """Plots the token entropy of the training batches: all rollouts, successes, failures."""
    panels = [
        Panel("entropy", "all rollouts", ENTROPY, smooth=True),
        Panel("entropy_success", "successes", ENTROPY, smooth=True),
        Panel("entropy_failure", "failures", ENTROPY, smooth=True),
    ]
    caption = "Mean token entropy of the sampled rollouts: all, successful and failed ones."
    return _curves(runs, panels, caption)


def divergence(runs: Sequence[Run]) -> Plot | None:
    """Plots the KL of the policy to its reference, and the coefficient of a KL term."""
    references = {
        "the policy before training"
        if setting(run.config, "learner.kl.reference", "") in ("start", "")
        and not setting(run.config, "learner.kl.refresh_every", 0)
        else "a reference that the config names"
        for run in runs
    }
    panels = [
        Panel("kl", "KL to the start", "KL, nats/token", smooth=True),
        Panel("kl_coefficient", "coefficient of the KL term", "coefficient, per nat"),
    ]
    if references != {"the policy before training"}:
        panels[0] = panels[0]._replace(title="KL to the reference")
    caption = f"KL of the policy to {' or '.join(sorted(references))}, on sampled tokens."
    return _curves(runs, panels, caption)


def schedules(runs: Sequence[Run]) -> Plot | None:
    """Plots α and δ over steps, for the methods that have them."""
    panels = [
        Panel("alpha", "focus α", "exponent α"),
        Panel("delta", "suppression δ", "ratio δ"),
    ]
    caption = (
        "The two feedback schedules: α from the solve rate (larger: more weight on hard prompts), "
        "δ = m_S / m_F from the token entropy (below 1: more weight on failures)."
    )
    return _curves(runs, panels, caption)


def training(runs: Sequence[Run]) -> Plot | None:
    """Plots the reward signal of the training batches and the size of the update."""
    panels = [
        Panel("solve_rate", "solve rate", "rollouts, %", 100, smooth=True),
        Panel("zero_variance_fraction", "prompts without signal", "prompts, %", 100, smooth=True),
        Panel("gradient_norm", "gradient", "norm before clip, L2", smooth=True),
        Panel("rank_one_fraction", "head: rank-one part", "squared norm, %", 100),
    ]
    if any(not series(run.train, "reward").equals(series(run.train, "solve_rate")) for run in runs):
        panels.insert(0, Panel("reward", "reward", "mean reward, 0 to 1", smooth=True))
    caption = (
        "Of the training batches: share of the rollouts that are right; share of the prompts whose "
        "rollouts all fail or all succeed, which most advantages ignore; norm of the gradient; "
        "share of the head's update since the start in its first singular direction (σ₁² / Σσ²)."
    )
    return _curves(runs, panels, caption)


def lengths(runs: Sequence[Run]) -> Plot | None:
    """Plots the lengths of the completions and how many were cut off, in training and held out."""
    length, cut = "length, tokens", "cut off, %"
    panels = [
        Panel("length", "training", length, smooth=True),
        Panel("eval/length", "held out", length),
        Panel("truncated_fraction", "training", cut, 100, smooth=True),
        Panel("eval/truncated_fraction", "held out", cut, 100),
    ]
    caption = (
        "Mean length of the completions, up to where they were cut off, and the share that had no "
        "end token there."
    )
    return _curves(runs, panels, caption)


def method_styles(runs: Sequence[Run]) -> dict[str, dict]:
    """Returns the look of each method, as keywords of `Axes.plot`; see `figures.line_styles`."""
    return figures.line_styles(
        {
            method: str(setting(members[0].config, "advantage.name", ""))
            for method, members in by_method(runs).items()
        }
    )


def smoothing_window(runs: Sequence[Run]) -> int:
    """Returns an odd number of logged lines, about a thirtieth of the longest run."""
    return 2 * (max((len(run.train) for run in runs), default=0) // 60) + 1


def _pass_panel(k: int) -> Panel:
    return Panel(f"eval/pass@{k}", f"pass@{k}", "pass@k held out, %", 100)


def _curves(
    runs: Sequence[Run], panels: Sequence[Panel], caption: str, *, over_tokens: bool = False
) -> Plot | None:
    """Plots panels that some run has logged; one without a value says why."""
    panels = [panel for panel in panels if any(panel.key in _frame(run, panel) for run in runs)]
    curves = {panel: curves_of(runs, panel) for panel in panels}
    last = max((run.last_step for run in runs), default=0)
    label, size, tokens = "training step", 1.0, {}
    if over_tokens:
        tokens = {method: mean_tokens(members) for method, members in by_method(runs).items()}
        label, size = _magnitude(max((x.max() for x in tokens.values() if len(x)), default=0.0))
        for found in curves.values():
            for method in [method for method in found if tokens[method].empty]:
                del found[method]
    if not any(curves.values()):
        return None

    def place(method: str, steps: pd.Index) -> np.ndarray:
        if not over_tokens:
            return steps.to_numpy()
        return np.asarray(np.interp(steps, tokens[method].index, tokens[method]) / size)

    def draw(narrow: bool) -> Figure:
        figure, grid = figures.panels(len(panels), narrow=narrow)
        for axes, (panel, found) in zip(grid, curves.items()):
            axes.set(title=panel.title, xlabel=label, ylabel=panel.label)
            draw_curves(axes, runs, found, place)
            if not found:
                figures.say_no_signal(axes, _WHY_EMPTY.get(panel.key, "no value in any step"))
            else:
                axes.set_xlim(0, None if over_tokens else last or None)
        figures.finish(figure, grid, method_styles(runs))
        return figure

    evaluated = any("/" in panel.key for panel in panels)
    smoothed = any(panel.smooth for panel in panels)
    data = curve_rows(curves)
    if over_tokens:
        for method, rows in data.groupby("method"):
            steps = pd.Index(rows["step"])
            data.loc[rows.index, "tokens"] = size * place(str(method), steps)
    return Plot(draw, f"{caption} {explain_lines(runs, evaluated, smoothed)}", data)


def explain_lines(runs: Sequence[Run], evaluated: bool, smoothed: bool) -> str:
    """Returns what a caption says of lines and bands.

    Args:
      runs: of the report.
      evaluated: whether a panel has an evaluation, with intervals over prompts.
      smoothed: whether a panel has running means.
    """
    counts = [len(furthest(members)) for members in by_method(runs).values()]
    parts = ["Lines: means over the seeds." if max(counts) > 1 else "One seed of each method."]
    if max(counts) >= MIN_SEEDS_FOR_BAND:
        over = "seeds, for evaluations with that over the prompts" if evaluated else "seeds"
        parts.append(f"Bands: 95% interval over the {over}.")
    elif evaluated and 1 in counts:
        parts.append("Bands: 95% interval over the held-out prompts.")
    if 2 in counts:
        parts.append("Thin: the runs of a method with two seeds.")
    if sum(counts) < len(runs):
        parts.append("Thin and short: runs that stopped early, left out of the means.")
    if smoothed:
        parts.append("Training batches: running means over a thirtieth of the run.")
    return " ".join(parts)


def curves_of(runs: Sequence[Run], panel: Panel) -> dict[str, Curve]:
    """Returns the curve of each method that has logged a panel's metric, in the panel's unit."""
    window = smoothing_window(runs) if panel.smooth else 1
    found = {}
    for method, members in by_method(runs).items():
        if curve := method_curve(members, panel.key, window):
            table = panel.scale * curve.table
            # Intervals of Student's t may end where no value can be.
            floor = 0.0 if np.nanmin(table["mean"].to_numpy()) >= 0 else None
            ceiling = 100.0 if panel.scale == 100 else None
            table[["low", "high"]] = table[["low", "high"]].clip(floor, ceiling)
            found[method] = Curve(table, [panel.scale * values for values in curve.single])
    return found


def curve_rows(curves: dict[Panel, dict[str, Curve]]) -> pd.DataFrame:
    """Returns a row for each metric, method and step: mean, low, high and their unit."""
    tables = [
        curve.table.rename_axis("step").reset_index().assign(metric=panel.key, unit=panel.label)
        for panel, found in curves.items()
        for curve in found.values()
    ]
    names = [
        method
        for found in curves.values()
        for method, curve in found.items()
        for _ in range(len(curve.table))
    ]
    columns = ["metric", "method", "step", "mean", "low", "high", "unit"]
    return pd.DataFrame(pd.concat(tables, ignore_index=True).assign(method=names), columns=columns)


def draw_curves(
    axes: Axes,
    runs: Sequence[Run],
    curves: dict[str, Curve],
    place: Callable[[str, pd.Index], np.ndarray] = lambda _, steps: steps.to_numpy(),
) -> None:
    """Draws for each method its mean, its band and its single runs.

    Args:
      axes: to draw on.
      runs: all of the report, which set the look of each method.
      curves: by method.
      place: the x of a method's steps; these themselves by default.
    """
    styles = method_styles(runs)
    for method, (table, single) in curves.items():
        color = styles[method]["color"]
        for values in single:
            x = place(method, values.index)
            axes.plot(x, values, color=color, linewidth=0.6, alpha=0.6)
        x = place(method, table.index)
        shade = {"color": color, "alpha": 0.15 if len(curves) < 6 else 0.08, "linewidth": 0}
        axes.fill_between(x, table["low"], table["high"], **shade)
        axes.plot(x, table["mean"], label=method, **styles[method])


def _frame(run: Run, panel: Panel) -> pd.DataFrame:
    return run.evaluations if "/" in panel.key else run.train


def _magnitude(largest: float) -> tuple[str, float]:
    """Returns the label of an axis of tokens up to `largest`, and its unit in tokens."""
    for name, size in (("billions", 1e9), ("millions", 1e6), ("thousands", 1e3)):
        if largest >= 2 * size:
            return f"sampled tokens, {name}", size
    return "sampled tokens", 1.0
