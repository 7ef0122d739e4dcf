"""Held-out pass@k over steps, and the picture that sums up a sweep."""

from collections.abc import Sequence

from experiments.report.picture import Picture
from experiments.report.pictures.lines import (
    curve_panel,
    legend,
    panels,
    smoothing_window,
    what_lines_are,
)
from experiments.report.runs import Run, pass_ks

_PERCENT = "%"


def pass_rates(runs: Sequence[Run]) -> Picture | None:
    """Held-out pass@k over steps, a panel for each k."""
    found = panels(
        *(
            curve_panel(runs, f"eval/pass@{k}", f"pass@{k}, held out", _PERCENT, scale=100)
            for k in pass_ks(runs)
        )
    )
    if not found:
        return None
    caption = (
        "Unbiased pass@k on held-out prompts over training steps; step 0 is before training. "
        + what_lines_are(runs, over_problems=True)
    )
    return Picture("pass_at_k", "pass@k", caption, found, legend(runs))


def overview(runs: Sequence[Run]) -> Picture | None:
    """The sweep at a glance: the first and last pass@k, entropy, α and δ."""
    ks = pass_ks(runs)
    window = smoothing_window(runs)
    ends = sorted({ks[0], ks[-1]}) if ks else []
    found = panels(
        *(
            curve_panel(runs, f"eval/pass@{k}", f"pass@{k}, held out", _PERCENT, scale=100)
            for k in ends
        ),
        curve_panel(runs, "entropy", "token entropy", "nats", window=window),
        curve_panel(runs, "alpha", "focus α", ""),
        curve_panel(runs, "delta", "suppression δ", "", limits=(0, None)),
    )
    if not found:
        return None
    caption = "The sweep at a glance. " + what_lines_are(runs, over_problems=True)
    return Picture("overview", "Overview", caption, found, legend(runs))
