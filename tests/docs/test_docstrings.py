"""How the site rewrites docstrings, and what it draws under those of advantages."""

import sys
from pathlib import Path

import numpy as np
import pytest

import fade_jax

pytest.importorskip("sphinx", reason="in the environment of `make docs`")
sys.path.append(str(Path(__file__).resolve().parents[2] / "docs" / "site"))

import docstrings
import mass_pictures


def processed(name, obj, text, what="function"):
    lines = text.split("\n")
    docstrings.process(None, what, name, obj, None, lines)
    return lines


def test_set_apart_makes_a_block_of_a_formula_alone():
    text = [
        "Does it.",
        "",
        "    A = r",
        "    B = s",
        "",
        "More.",
        "",
        "Args:",
        "  x: of",
        "    two.",
    ]
    assert docstrings.set_apart(text) == [
        *("Does it.", "", ".. code-block:: text", "   :class: formula", ""),
        *("   A = r", "   B = s", "", "More.", "", "Args:", "  x: of", "    two."),
    ]


def test_process_links_papers_and_names_aliases():
    lines = processed("fade_jax.rloo", fade_jax.rloo, "From arXiv:2402.14740.")
    assert lines == ["From `arXiv:2402.14740 <https://arxiv.org/abs/2402.14740>`__."]
    assert processed("fade_jax.fade", fade_jax.fade, "Long.") == ["An alias of `power_asym`."]


def test_process_shortens_a_lifted_advantage():
    lifted = fade_jax.transforms.rloo
    (line,) = processed("fade_jax.transforms.rloo", lifted, lifted.__doc__)
    assert line.startswith("Lifts `fade_jax.rloo`:")


def test_pictured_is_every_advantage_that_is_not_left_out():
    drawn = set(mass_pictures.pictured())
    assert drawn | mass_pictures.WITHOUT == set(fade_jax.advantages.__all__)
    assert mass_pictures.SETTINGS.keys() | mass_pictures.OF_LARGE_GROUPS.keys() <= drawn


@pytest.mark.parametrize(("name", "factor"), [("rloo", 1), ("dr_grpo", 15 / 16), ("gpg", 1)])
def test_draw_has_the_masses_and_the_weight(name, factor):
    left, right = mass_pictures.draw(mass_pictures.curves(name)).axes
    p, success = left.lines[0].get_data()
    np.testing.assert_allclose(success, factor * p * (1 - p), atol=1e-5)
    np.testing.assert_allclose(left.lines[1].get_ydata(), success, atol=1e-5)
    np.testing.assert_allclose(right.lines[0].get_ydata(), factor, atol=1e-4)


def test_caption_names_hyperparameters():
    power, opo = (mass_pictures.caption(name) for name in ("power", "opo"))
    assert power == "Masses and expected weight at alpha = 3, exact for groups of 16."
    assert opo.endswith("at success_length = 1, failure_length = 2, in a large group.")
