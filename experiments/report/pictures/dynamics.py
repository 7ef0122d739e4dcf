"""What happens inside training: entropy, FADE's two exponents, the signal and the update."""

from collections.abc import Sequence

from experiments.report.picture import Picture
from experiments.report.pictures.lines import (
    curve_panel,
    curves,
    legend,
    panels,
    smoothing_window,
    what_lines_are,
)
from experiments.report.runs import Run


def entropies(runs: Sequence[Run]) -> Picture | None:
    """Token entropy of the training batches: of all rollouts, of successes and of failures."""
    from_zero = {"limits": (0, None)}
    return _picture(
        runs,
        "entropy",
        "Token entropy",
        "Mean token entropy of the sampled rollouts, in nats: of all, of those that succeed and of "
        "those that fail.",
        ("entropy", "token entropy", "nats", from_zero),
        ("entropy_success", "of successes", "nats", from_zero),
        ("entropy_failure", "of failures", "nats", from_zero),
    )


def schedules(runs: Sequence[Run]) -> Picture | None:
    """Alpha and delta over steps, of the methods that have them."""
    methods = list(dict.fromkeys([*curves(runs, "alpha"), *curves(runs, "delta")]))
    found = panels(
        curve_panel(runs, "alpha", "focus α", "exponent α"),
        curve_panel(runs, "delta", "suppression δ", "$\\delta = m_S / m_F$", limits=(0, None)),
    )
    if not found:
        return None
    caption = (
        "The two schedules that feedback drives: α from the solve rate (larger: harder prompts), "
        "δ from the token entropy (below 1: failures weigh more). " + what_lines_are(runs)
    )
    return Picture("alpha_delta", "α and δ", caption, found, legend(runs, methods))


def signal(runs: Sequence[Run]) -> Picture | None:
    """What the batches offer and what the update does with it."""
    percent = {"scale": 100, "limits": (0, None)}
    rewards = [("reward", "reward, training prompts", "mean", {})] if _has_partial(runs) else []
    return _picture(
        runs,
        "training",
        "Training signal and update",
        "Of the training batches: solve rate; share of prompts whose rollouts all fail or all "
        "succeed, which most advantages ignore; norm of the gradient before clipping; share of the "
        "head's update since the start that lies in its first singular direction (σ₁² / Σσ²).",
        *rewards,
        ("solve_rate", "solve rate, training prompts", "%", percent),
        ("zero_variance_fraction", "prompts without signal", "%", percent),
        ("gradient_norm", "gradient norm", "norm", {"limits": (0, None)}),
        ("rank_one_fraction", "head: rank-one fraction", "%", percent),
    )


def _has_partial(runs: Sequence[Run]) -> bool:
    return any(line.get("reward") != line.get("solve_rate") for run in runs for line in run.train)


def _picture(runs, name, title, caption, *rows) -> Picture | None:
    window = smoothing_window(runs)
    found = panels(
        *(
            curve_panel(runs, key, label, y, window=window if _is_dense(runs, key) else 1, **look)
            for key, label, y, look in rows
        )
    )
    if not found:
        return None
    smooth = f" Running mean over {window} logged steps." if window > 1 else ""
    return Picture(name, title, f"{caption}{smooth} {what_lines_are(runs)}", found, legend(runs))


def _is_dense(runs: Sequence[Run], key: str) -> bool:
    """Whether a key is on most lines; one on a few of them is not smoothed."""
    logged = sum(line.get(key) is not None for run in runs for line in run.train)
    return 2 * logged > sum(len(run.train) for run in runs)
