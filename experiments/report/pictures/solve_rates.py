"""The distribution of solve rates over training: what the difficulty axis has to work with."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from experiments.report.picture import Panel, Picture
from experiments.report.runs import Run, by_method, furthest

_TIMES = 40  # columns of the picture; each is a mean over the steps in it


def solve_rates(runs: Sequence[Run]) -> Picture | None:
    """A panel per method: the share of prompts at each solve rate, over steps."""
    found = []
    for method, members in by_method(runs).items():
        shares = [share for run in furthest(members) if (share := _shares(run)) is not None]
        if shares and len({share.shape for _, share in shares}) == 1:
            last = max(int(steps[-1]) for steps, _ in shares)
            found.append(_panel(method, last, np.mean([share for _, share in shares], 0)))
    if not found:
        return None
    caption = (
        "Share of the training prompts of a step (colour, white to dark: 0 to the panel's largest, "
        "square-root scale) by the solve rate of their group of rollouts; mean over seeds. Prompts "
        "at 0 and at 1 give no signal to a group-centred advantage."
    )
    return Picture("solve_rates", "Solve rates over training", caption, tuple(found))


def _shares(run: Run) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps, and shares [time, K] with the steps brought together into at most 40 times."""
    lines = [line for line in run.train if isinstance(line.get("solve_rate_histogram"), list)]
    if not lines or len({len(line["solve_rate_histogram"]) for line in lines}) != 1:
        return None
    steps = np.array([line["step"] for line in lines])
    counts = np.array([line["solve_rate_histogram"] for line in lines], np.float64)
    parts = np.array_split(counts, min(_TIMES, len(counts)))
    sums = np.stack([part.sum(0) for part in parts])
    return steps, sums / np.maximum(sums.sum(1, keepdims=True), 1)


def _panel(method: str, last_step: int, shares: np.ndarray) -> Panel:
    group = shares.shape[1] - 1
    half = 0.5 / group

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        axes.imshow(
            np.sqrt(shares.T),
            origin="lower",
            aspect="auto",
            cmap="Blues",
            vmin=0,
            extent=(0, last_step, -half, 1 + half),
            interpolation="nearest",
        )

    return Panel(method, "step", "solve rate of the group", draw)
