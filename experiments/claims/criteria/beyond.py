"""Beyond the paper: the shrinkage baseline and a schedule of objectives, as beyond.py has it."""

from experiments.claims import measures
from experiments.claims.finding import DOES_NOT, REPRODUCES, UNDECIDED, Figure, Finding, side
from experiments.claims.study import Study, need

SWEEP = "beyond"
SHRINKAGE, SCHEDULE, FADE = "shrinkage", "scheduled_pass_at_k", "fade"


def shrinkage_beats(study: Study, other: str) -> Finding:
    """Shrinkage ends above another method in pass@1, and not below it in pass@100."""
    figures = _finals(study, SHRINKAGE, other)
    accuracy, diversity = (side(figure.estimate) for figure in figures)
    if accuracy > 0 and diversity >= 0:
        return Finding(REPRODUCES, figures, "")
    worse = accuracy < 0 or diversity < 0
    return Finding(DOES_NOT if worse else UNDECIDED, figures, "")


def schedule_matches(study: Study) -> Finding:
    """The schedule ends below FADE in neither pass@1 nor pass@100."""
    figures = _finals(study, SCHEDULE, FADE)
    sides = [side(figure.estimate) for figure in figures]
    return Finding(DOES_NOT if -1 in sides else REPRODUCES, figures, "")


def schedule_beats(study: Study) -> Finding:
    """The schedule ends above FADE in pass@1 or pass@100, and below in neither."""
    figures = _finals(study, SCHEDULE, FADE)
    sides = [side(figure.estimate) for figure in figures]
    if -1 in sides:
        return Finding(DOES_NOT, figures, "")
    return Finding(REPRODUCES if 1 in sides else UNDECIDED, figures, "")


def _finals(study: Study, method: str, other: str) -> tuple[Figure, Figure]:
    data, seeds = need(study, SWEEP, (method, other))
    pair = (data, method), (data, other)

    def figure(k: int) -> Figure:
        estimate = measures.difference(*pair, measures.final_pass(k), seeds)
        return Figure(f"{method} − {other}, final pass@{k}", estimate, "points")

    return figure(1), figure(data.ks[-1])
