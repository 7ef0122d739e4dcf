"""The gallery's figures against the page's formulas, and the committed page against the code."""

import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fade_jax
from experiments.gallery.entries import entries
from experiments.gallery.pictures import picture
from experiments.gallery.write import gallery
from experiments.report.page import markdown
from experiments.report.picture import to_png
from tests.fade_jax import reference

REPOSITORY = Path(__file__).parents[2]
COMMITTED = REPOSITORY / "docs" / "gallery"
BLOCKS = {"center", "standardize", "focal_weight", "suppress_negatives", "varied_groups"}
G = 8
P = np.linspace(0, 1, 1001)
K_OTHERS = np.arange(G)
OTHERS = np.array(
    [[math.comb(G - 1, k) * p**k * (1 - p) ** (G - 1 - k) for k in range(G)] for p in P]
)


def synthesized(r):
    """b_k of h = 4q³, split for a uniform density."""
    k = int(r.sum()) - r.astype(int)  # among the others
    b = np.array([4 * math.comb(max(G - 1 - j, 0), 3) / math.comb(G - 1, 3) for j in range(G + 1)])
    return np.where(r == 1, b[k] * (G - k) / (G + 1), -b[k] * (k + 1) / (G + 1))


def opo(r):
    lengths = 2 - r
    return r - np.sum(lengths * r) / np.sum(lengths)


# Title: A by the rewards of a group, and the peak of m_S in a large group.
ADVANTAGES = {
    "REINFORCE, PSR": (reference.psr, 1),
    "NSR": (reference.nsr, None),
    "REINFORCE, b = 0.3": (lambda r: r - 0.3, 1),
    "W-REINFORCE, λ = 0.1": (lambda r: reference.w_reinforce(r, 0.1), 1),
    "RLOO": (reference.rloo, 1 / 2),
    "Dr. GRPO": (reference.dr_grpo, 1 / 2),
    "GRPO": (reference.grpo, 1 / 2),
    "DAPO, kept groups": (reference.grpo, 1 / 2),
    "F-GRPO, γ = 1": (lambda r: reference.f_grpo(r, 1.0), 1 / 4),
    "AsymGRPO, δ = ½": (lambda r: reference.asym_grpo(r, 0.5), 1 / 2),
    "AsymGRPO, δ = 2": (lambda r: reference.asym_grpo(r, 2.0), 1 / 2),
    "Power, α = 2": (lambda r: reference.power(r, 2.0), 1 / 3),
    "Power, α = 3": (lambda r: reference.power(r, 3.0), 1 / 4),
    "Power-asym(2, 2)": (lambda r: reference.fade(r, 2.0, 2.0), 1 / 3),
    "FADE at α = 1.5, δ = 0.7": (lambda r: reference.fade(r, 1.5, 0.7), 1 / 2.5),
    "PKPO, k = 4": (lambda r: reference.pkpo(r, 4), 1 / 4),
    "PKPO, k = 4, loo": (lambda r: reference.pkpo(r, 4, "loo"), 1 / 5),
    "PKPO, k = 4, no baseline": (lambda r: reference.pkpo(r, 4, "none"), 1),
    "synthesized pass@4": (synthesized, 1 / 5),
    "Pass@k Training, k = 4": (lambda r: reference.pass_at_k_training(r, 4), 0.2591),
    "leave-one-out pass@G": (reference.leave_one_out_pass_at_g, 1 / 512),
    "MaxRL": (reference.max_rl, 0),
    "log-mean-exp, β = 2": (lambda r: reference.log_mean_exp(r, 2.0), 1 / (1 + math.e)),
    "quantile (QAE), level 0.4": (lambda r: reference.quantile(r, 0.4), 0.6),
    "A-GRAE, ω = 0.7": (lambda r: reference.a_grae(r, 0.7), 0.3**2 / (0.7**2 + 0.3**2)),
    "OPO, L_F = 2 L_S": (opo, 2 - math.sqrt(2)),
    "REINFORCE++, μ = ¼": (lambda r: (r - 0.25) / math.sqrt(3 / 16), 1),
    "GPG": (lambda r: (G + 1) / (G - 1) * reference.dr_grpo(r), 1 / 2),
}


@pytest.fixture(scope="module")
def page():
    return gallery(entries(), "docs/gallery")


def expected_row(title):
    """The figures in float64, by sums over the number of successes."""
    advantage, peak = ADVANTAGES[title]
    groups = [advantage((np.arange(G) < k).astype(float)) for k in range(G + 1)]
    of_success = np.array([group[0] for group in groups[1:]])
    of_failure = -np.array([group[-1] for group in groups[:-1]])
    success, failure = P * (OTHERS @ of_success), (1 - P) * (OTHERS @ of_failure)
    weight = OTHERS @ (of_success + of_failure)
    degenerate = [-of_failure[0], of_success[-1]]
    objective = np.mean(of_success + of_failure)  # ∫ h of Bernstein polynomials
    if title.startswith("DAPO"):
        with np.errstate(invalid="ignore", divide="ignore"):
            success, failure, weight = (
                np.nan_to_num(x / (1 - P**G - (1 - P) ** G), posinf=0)
                for x in (success, failure, weight)
            )
        degenerate = [None, None]
    half = len(P) // 2
    ratio = success[half] / failure[half] if abs(failure[half]) > 1e-9 else math.inf
    at_peak = P[np.argmax(success)] if success.max() > 1e-9 else None
    size = np.trapezoid(np.abs(success) + np.abs(failure), P)
    return [ratio, at_peak, peak, *degenerate, weight[half], objective, size]


@pytest.mark.parametrize("title", ADVANTAGES)
def test_the_figures_of_a_row_are_those_of_its_formula(page, title):
    table = page.sections[1].body
    (row,) = (row[1:] for row in table.rows if row[0] == title)
    for name, cell, expected in zip(table.head[1:], row, expected_row(title), strict=True):
        if expected is None:
            assert cell in ("–", "dropped"), name
            continue
        given = float(cell.replace("∞", "inf"))
        # Three digits, and for a peak, which is flat, a step of the grid.
        atol = 2e-3 if "peak" in name else 1e-6
        np.testing.assert_allclose(given, expected, rtol=6e-3, atol=atol, err_msg=name)


def test_every_advantage_and_every_row_of_it_is_there(page):
    text = markdown(page)
    for name in set(fade_jax.advantages.__all__) - BLOCKS:
        assert f"fade_jax.{name}(rewards" in text, (
            f"{name} is not in experiments/gallery/entries.py"
        )
    titles = [entry.title for entry in entries()]
    assert set(titles) == set(ADVANTAGES)
    assert len(titles) == len(ADVANTAGES)
    for table in (page.sections[1].body, page.sections[2].body):
        assert [row[0] for row in table.rows] == titles


def test_the_committed_page_is_the_one_that_the_code_makes(page):
    assert (COMMITTED / "README.md").read_text() == markdown(page)
    assert "docs/gallery" in (REPOSITORY / "README.md").read_text()


def test_the_committed_pictures_are_all_there_and_small():
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (COMMITTED / "README.md").read_text())
    assert {path.name for path in COMMITTED.iterdir()} == {"README.md", *shown}
    assert sum(path.stat().st_size for path in COMMITTED.iterdir()) < 700_000
    for name in shown:
        assert Image.open(COMMITTED / name).width == 960


def test_a_picture_shows_both_masses():
    (entry,) = (entry for entry in entries() if entry.name == "fade")
    image = Image.open(io.BytesIO(to_png(picture(entry), columns=4, inches=(9.6, 2.1))))
    assert image.size == (960, 210)
    pixels = np.asarray(image.convert("RGB"), np.int32)
    for colour in ((0x1A, 0x80, 0xC4), (0xD5, 0x5E, 0x00)):
        rows, columns = np.nonzero(np.abs(pixels - colour).max(-1) < 8)
        assert len(rows) > 100
        assert columns.max() < 240  # in the first panel
