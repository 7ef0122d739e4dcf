"""Curves over steps of some methods of a sweep, with the panels of experiments.report."""

from collections.abc import Sequence

from experiments.claims.sweep_data import SweepData
from experiments.report.picture import Picture
from experiments.report.pictures.lines import curve_panel, legend, panels, what_lines_are


def over_steps(
    data: SweepData, name: str, title: str, methods: Sequence[str], *, schedules: bool
) -> Picture | None:
    """Held-out pass@k and entropy, rank of the head's update, and α and δ, over steps.

    Args:
      data: the sweep.
      name: of the file.
      title: of the picture.
      methods: to draw.
      schedules: whether to draw α and δ.

    Returns:
      The picture; None where none of the methods has a finished run.
    """
    runs = [run for run in data.finished if run.method in methods]
    if not runs:
        return None
    found = panels(
        *(
            curve_panel(runs, f"eval/pass@{k}", f"pass@{k}, held out", "%", scale=100)
            for k in data.ks
        ),
        curve_panel(runs, "eval/entropy", "token entropy, held out", "nats", limits=(0, None)),
        curve_panel(runs, "rank_one_fraction", "head: rank-one fraction", "share"),
        *(
            (
                curve_panel(runs, "alpha", "focus α", "exponent"),
                curve_panel(runs, "delta", "suppression δ", "δ", limits=(0, None)),
            )
            if schedules
            else (curve_panel(runs, "sign_ratio", "$m_S/m_F$ of the batches", "ratio"),)
        ),
    )
    what = "its schedules α and δ" if schedules else "the sign ratio of the batches"
    caption = (
        f"Sweep {data.name}: held-out pass@k and token entropy, the share of the head's update "
        f"that lies in one direction (σ₁²/Σσ², used tokens), and {what}; curves of training are "
        f"means over a twentieth of the run. {what_lines_are(runs)}"
    )
    return Picture(name, title, caption, found, legend(runs))
