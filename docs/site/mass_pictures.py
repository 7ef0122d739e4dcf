"""Draws the gradient masses of every advantage, under its entry in the reference."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sphinx.application import Sphinx

import fade_jax
from fade_jax.decomposition import expected_weight, gradient_masses

FOLDER = Path("build", "mass_pictures")
GROUP_SIZE = 16
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
# Building blocks, an alias, and advantages of more than the rewards of one group.
WITHOUT = {
    "center",
    "fade",
    "focal_weight",
    "gpg",
    "likelihood_weight",
    "opo",
    "reinforce_plus_plus",
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


def pictured() -> dict[str, Callable[..., jax.Array]]:
    """Returns the advantages that have a picture, by name, at the settings drawn."""
    names = set(fade_jax.advantages.__all__) - WITHOUT
    return {
        name: partial(getattr(fade_jax, name), **SETTINGS.get(name, {})) for name in sorted(names)
    }


def caption(name: str) -> str:
    """Says what is drawn, with the hyperparameters."""
    values = ", ".join(f"{key} = {value:g}" for key, value in SETTINGS.get(name, {}).items())
    at = f" at {values}" if values else ""
    return f"Masses and expected weight{at}, exact for groups of {GROUP_SIZE}."


def draw(advantage: Callable[..., jax.Array]) -> Figure:
    """Draws m_S and m_F on the left and h on the right, over the solve rate."""
    p = np.linspace(0, 1, 201)
    masses = gradient_masses(advantage, p, GROUP_SIZE)
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 1.9), layout="constrained")
    left.plot(p, masses.success, color=SUCCESS, label="$m_S$, successes")
    left.plot(p, masses.failure, "--", color=FAILURE, label="$m_F$, failures")
    right.plot(p, expected_weight(advantage, p, GROUP_SIZE), color=WEIGHT, label="$h$, of $∇p$")
    for axis in (left, right):
        style(axis)
    return figure


def draw_several() -> Figure:
    """Draws m_S of a few advantages that differ in where they work."""
    p = np.linspace(0, 1, 201)
    figure, axis = plt.subplots(figsize=(6.4, 2.4), layout="constrained")
    for name, (advantage, color) in SHOWN.items():
        mass = gradient_masses(advantage, p, GROUP_SIZE).success
        axis.plot(p, mass, color=color, label=name)
    axis.set_ylabel("mass on successes", color=GREY)
    style(axis)
    return figure


def style(axis: Axes) -> None:
    """Sets limits, and colors that are seen on white and on black."""
    axis.set_xlabel("solve rate p", color=GREY)
    axis.set_xlim(0, 1)
    axis.set_ylim(min(0, axis.get_ylim()[0]), max(0, axis.get_ylim()[1]))
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
    pictures = {name: partial(draw, advantage) for name, advantage in pictured().items()}
    for name, picture in {"several": draw_several, **pictures}.items():
        path = folder / f"{name}.svg"
        if path.exists() and path.stat().st_mtime > newest:
            continue
        figure = picture()
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def append(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Adds the picture to the docstring of an advantage of `fade_jax`."""
    del app, what, obj, options
    module, _, own = name.rpartition(".")
    if module == "fade_jax" and own in set(fade_jax.advantages.__all__) - WITHOUT:
        text = caption(own)
        lines += ["", f".. figure:: /{FOLDER}/{own}.svg", f"   :alt: {own}: {text}"]
        lines += ["   :class: dark-light", "", f"   {text}", ""]


def setup(app: Sphinx) -> dict[str, Any]:
    """Draws before the pages are read, and appends after napoleon."""
    app.connect("builder-inited", draw_all)
    app.connect("autodoc-process-docstring", append, priority=600)
    return {"parallel_read_safe": True}
