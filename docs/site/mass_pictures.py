"""Draws the gradient masses of every advantage, under its entry in the reference."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sphinx.application import Sphinx

import fade_jax
from fade_jax.decomposition import expected_weight, gradient_masses, large_group

FOLDER = Path("build", "mass_pictures")
GROUP_SIZE = 16
SOLVE_RATES = np.linspace(0.005, 0.995, 199)
# Hyperparameters of those that have some without a default: values of docs/advantages.md.
SETTINGS: dict[str, dict[str, Any]] = {
    "a_grae": {"omega": 0.7},
    "asym_grpo": {"delta": 0.5},
    "f_grpo": {"gamma": 1.0},
    "log_mean_exp": {"beta": 2.0},
    "pass_at_k_training": {"k": 4},
    "pkpo": {"k": 4},
    "power": {"alpha": 3.0},
    "power_asym": {"alpha": 2.0, "delta": 0.5},
    "quantile": {"level": 0.4},
    "reinforce": {"baseline": 0.3},
    "tempered_likelihood": {"beta": 0.5},
}
# Those that read more than the rewards of one group, by their closed forms.
OF_LARGE_GROUPS: dict[str, dict[str, Any]] = {
    "gpg": {"batch_scale": 1.0},
    "opo": {"success_length": 1.0, "failure_length": 2.0},
    "reinforce_plus_plus": {"batch_mean": 0.25},
}
# Building blocks and an alias.
WITHOUT = {
    "center",
    "fade",
    "focal_weight",
    "likelihood_weight",
    "standardize",
    "suppress_negatives",
    "varied_groups",
}
SUCCESS, FAILURE, WEIGHT, GREY = "#1A80C4", "#D55E00", "#009E73", "#808890"  # on white and on black
# On the first page.
SHOWN = {
    "MaxRL": (fade_jax.max_rl, FAILURE),
    "GRPO": (fade_jax.grpo, SUCCESS),
    "GRPO without std": (fade_jax.dr_grpo, GREY),
    "Power(3)": (partial(fade_jax.power, alpha=3.0), WEIGHT),
}


class Curves(NamedTuple):
    """m_S, m_F and h at `SOLVE_RATES`."""

    success: jax.Array
    failure: jax.Array
    weight: jax.Array


def exact_curves(advantage: Callable[..., jax.Array]) -> Curves:
    """Computes the curves at `GROUP_SIZE`."""
    masses = gradient_masses(advantage, SOLVE_RATES, GROUP_SIZE)
    return Curves(*masses, expected_weight(advantage, SOLVE_RATES, GROUP_SIZE))


def curves(name: str) -> Curves:
    """Computes the curves of an advantage of `fade_jax`, at the settings above."""
    if name in OF_LARGE_GROUPS:
        masses = getattr(large_group, name)(SOLVE_RATES, **OF_LARGE_GROUPS[name])
        weight = masses.success / SOLVE_RATES + masses.failure / (1 - SOLVE_RATES)
        return Curves(*masses, weight)
    return exact_curves(partial(getattr(fade_jax, name), **SETTINGS.get(name, {})))


def pictured() -> list[str]:
    """Returns the names of the advantages that have a picture."""
    return sorted(set(fade_jax.advantages.__all__) - WITHOUT)


def caption(name: str) -> str:
    """Says what is drawn, with the hyperparameters."""
    settings = (SETTINGS | OF_LARGE_GROUPS).get(name, {})
    values = ", ".join(f"{key} = {value:g}" for key, value in settings.items())
    at = f" at {values}" if values else ""
    how = "in a large group" if name in OF_LARGE_GROUPS else f"exact for groups of {GROUP_SIZE}"
    return f"Masses and expected weight{at}, {how}."


def draw(shown: Curves) -> Figure:
    """Draws m_S and m_F on the left and h on the right, over the solve rate."""
    figure = Figure(figsize=(6.4, 1.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(SOLVE_RATES, shown.success, color=SUCCESS, label="$m_S$, successes")
    left.plot(SOLVE_RATES, shown.failure, "--", color=FAILURE, label="$m_F$, failures")
    right.plot(SOLVE_RATES, shown.weight, color=WEIGHT, label="$h$, of $∇p$")
    for axis in (left, right):
        style(axis)
    return figure


def draw_several() -> Figure:
    """Draws m_S of a few advantages that differ in where they work."""
    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    axis = figure.subplots()
    for name, (advantage, color) in SHOWN.items():
        axis.plot(SOLVE_RATES, exact_curves(advantage).success, color=color, label=name)
    axis.set_ylabel("mass on successes", color=GREY)
    style(axis)
    return figure


def style(axis: Axes) -> None:
    """Sets limits, and colors that are seen on white and on black."""
    axis.set_xlabel("solve rate p", color=GREY)
    axis.set_xlim(0, 1)
    shown = np.concatenate([line.get_ydata() for line in axis.lines])
    axis.set_ylim(1.08 * min(0, shown.min()), 1.08 * max(0, shown.max()))
    axis.tick_params(colors=GREY)
    axis.spines[:].set_color(GREY)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, labelcolor=GREY, fontsize=8)


def draw_all(app: Sphinx) -> None:
    """Writes the pictures, unless they are newer than the library and this file."""
    folder = Path(app.srcdir, FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    sources = (Path(__file__), *Path(fade_jax.__file__).parent.rglob("*.py"))
    newest = max(path.stat().st_mtime for path in sources)
    for name in ("several", *pictured()):
        path = folder / f"{name}.svg"
        if not path.exists() or path.stat().st_mtime < newest:
            figure = draw_several() if name == "several" else draw(curves(name))
            figure.savefig(path, transparent=True, metadata={"Date": None})


def append(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Adds the picture to the docstring of an advantage of `fade_jax`."""
    del app, what, obj, options
    module, _, own = name.rpartition(".")
    if module == "fade_jax" and own in pictured():
        text = caption(own)
        lines += ["", f".. figure:: /{FOLDER}/{own}.svg", f"   :alt: {own}: {text}"]
        lines += ["   :class: dark-light", "", f"   {text}", ""]


def setup(app: Sphinx) -> dict[str, Any]:
    """Draws before the pages are read, and appends after napoleon."""
    app.connect("builder-inited", draw_all)
    app.connect("autodoc-process-docstring", append, priority=600)
    return {"parallel_read_safe": True}
