"""Two pictures: the predicted paths, and prediction beside measurement."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.report.picture import Panel, Picture
from experiments.report.pictures.names import name_points
from experiments.report.style import Line
from experiments.theory.dynamics import Path


def prediction_picture(paths: Mapping[str, Path], lines: Mapping[str, Line]) -> Picture:
    """pass@1, pass@100 and the share on solved prompts, as the model has them."""

    def over_steps(field: str, scale: float):
        def draw(axes):
            for method, path in paths.items():
                values = scale * np.asarray(getattr(path, field))
                _curve(axes, np.arange(len(values)), values, lines[method])

        return draw

    def against(axes):
        for method, path in paths.items():
            x, y = (100 * np.asarray(v) for v in (path.pass_at_1, path.pass_at_100))
            _curve(axes, x, y, lines[method])

    panels = (
        Panel("pass@1, predicted", "step", "%", over_steps("pass_at_1", 100)),
        Panel("pass@100, predicted", "step", "%", over_steps("pass_at_100", 100)),
        Panel("pass@100 against pass@1", "pass@1, %", "pass@100, %", against),
        Panel("gradient on solved prompts", "step", "share", over_steps("solved_share", 1)),
    )
    caption = (
        "Independent prompts moved by their expected on-policy gradient h(p) ∇p, every method at "
        "the same root mean square step of the logits. Methods of one h lie on one another."
    )
    return Picture("prediction", "Predicted", caption, panels, tuple(lines.values()))


def _curve(axes, x, y, line: Line) -> None:
    at = np.unique(np.linspace(0, len(x) - 1, 200).round().astype(int))
    dashes = line.dashes or (None, None)
    axes.plot(x[at], y[at], color=line.colour, dashes=dashes, linewidth=1.8)


def comparison_picture(rows: Sequence[Mapping], level: float, lines: Mapping[str, Line]) -> Picture:
    """A point for each method: predicted across, measured up, with every seed."""
    pairs = (
        ("steps_to_level", "steps_to_level", "steps to the level", 1),
        ("pass_at_100", "pass_at_100", "pass@100 at the level, %", 100),
        ("solved_share", "pass_at_100", "pass@100 against the share on solved", 100),
    )

    def points(predicted: str, measured: str, scale: float):
        def draw(axes):
            named = {}
            for row in rows:
                if row["level"] != level:
                    continue
                x = (1 if predicted == "solved_share" else scale) * row[f"predicted_{predicted}"]
                y = scale * np.asarray(row[f"seeds_{measured}"])
                colour = lines[row["method"]].colour
                axes.plot([x] * len(y), y, ".", color=colour, alpha=0.5, markersize=5)
                axes.plot([x], [np.mean(y)], "o", color=colour, markersize=8, mfc="none")
                named[row["method"]] = (x, float(np.mean(y)))
            name_points(axes, named, {method: line.colour for method, line in lines.items()})

        return draw

    panels = tuple(
        Panel(title, "predicted", "measured", points(predicted, measured, scale))
        for predicted, measured, title, scale in pairs
    )
    caption = f"At pass@1 = {level:g}. Circles: mean over the seeds; points: each seed."
    return Picture("prediction_and_measurement", "Prediction and measurement", caption, panels)
