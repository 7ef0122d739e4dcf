import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from experiments.report import write_report

REPOSITORY = Path(__file__).parents[3]
PICTURES = (
    "alpha_delta",
    "entropy",
    "masses",
    "overview",
    "pass_at_k",
    "solve_rates",
    "tradeoff",
    "training",
)


@pytest.fixture(scope="module")
def report(two_seeds, tmp_path_factory):
    return write_report(two_seeds, tmp_path_factory.mktemp("report")).parent


def test_the_files_of_a_sweep(report):
    names = {path.name for path in report.iterdir()}
    assert names == {"report.md", "report.html", *(f"{name}.png" for name in PICTURES)}


def test_pictures_are_small_and_the_overview_fits_a_readme(report):
    for path in report.glob("*.png"):
        assert path.stat().st_size < 80_000, path.name
    assert Image.open(report / "overview.png").size == (1200, 350)


def test_no_picture_is_blank_and_every_method_is_in_it(report):
    for name in ("overview", "pass_at_k", "tradeoff", "entropy", "training", "masses"):
        colours = Image.open(report / f"{name}.png").convert("RGB").getcolors(1 << 24)
        shades = [colour for _, colour in colours]
        for method in ((0xD5, 0x5E, 0x00), (0x1A, 0x80, 0xC4), (0x00, 0x9E, 0x73)):
            nearest = min(max(abs(a - b) for a, b in zip(method, shade)) for shade in shades)
            assert nearest < 8, (name, method)


def test_markdown_shows_every_picture_but_the_readmes(report):
    text = (report / "report.md").read_text()
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert sorted(shown) == sorted(f"{name}.png" for name in PICTURES if name != "overview")
    assert "| fade " in text


class _Tags(HTMLParser):
    """Checks that tags are balanced, and collects what the page would load."""

    void = ("meta", "line", "rect", "br", "hr", "img")

    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)
        self.loads += [
            value for name, value in attrs if name in ("src", "href", "xlink:href", "data")
        ]

    def handle_startendtag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing(report):
    text = (report / "report.html").read_text()
    tags = _Tags()
    tags.feed(text)
    assert tags.open == []
    assert all(load.startswith(("#", "data:image/png")) for load in tags.loads)
    assert "url(http" not in text
    assert "@import" not in text
    for reference in re.findall(r"url\(#([^)]+)\)", text):
        assert f'id="{reference}"' in text
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text


def test_panels_are_valid_svg_in_the_colours_of_the_page(report):
    panels = re.findall(r"<svg role=.*?</svg>", (report / "report.html").read_text(), re.DOTALL)
    assert len(panels) == 3 + 2 + 3 + 2 + 4 + 4 + 3
    for panel in panels:
        root = ElementTree.fromstring(panel)
        assert root.get("viewBox")
        assert root.get("width") is None
        assert "currentColor" in panel
        assert "#24272b" not in panel


def test_the_same_workdir_gives_the_same_bytes(report, two_seeds, tmp_path):
    again = write_report(two_seeds, tmp_path).parent
    for path in report.iterdir():
        old, new = path.read_bytes(), (again / path.name).read_bytes()
        if path.suffix != ".png":
            old, new = (text.replace(str(report).encode(), b"") for text in (old, new))
            new = new.replace(str(tmp_path).encode(), b"")
        assert old == new, path.name


def test_a_single_run_and_its_default_place(single_run):
    page = write_report(single_run)
    assert page == single_run / "report" / "report.html"
    assert "One run, seed 3" in page.read_text()


@pytest.mark.parametrize(
    "lines",
    [
        ['{"step": 0, "eval/pass@1": 0.5}'],
        ['{"step": 1}'],
        ['{"step": 1, "reward": null, "solve_rate_histogram": null}'],
        ['{"step": 1, "mass_success": 0.1, "alpha": 1.0, "gradient_norm": 0.0}', '{"step": 2, "al'],
        ['{"step": 1, "solve_rate_histogram": [0, 0, 0]}', '{"step": 2, "gradient_norm": 1.0}'],
    ],
)
def test_a_run_that_has_hardly_begun_has_a_page(tmp_path, lines):
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert "Results" in write_report(tmp_path).read_text()


def test_names_are_escaped(tmp_path):
    run = tmp_path / "runs" / "a<b>&-seed0"
    run.mkdir(parents=True)
    line = {"step": 1, "entropy": 1.0, "solve_rate_histogram": [1, 2]}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    text = write_report(tmp_path).read_text()
    assert "a&lt;b&gt;&amp;" in text
    assert "a<b>" not in text


def test_the_command_prints_the_table_and_the_place(single_run, tmp_path):
    command = [sys.executable, "-m", "experiments.report", f"--workdir={single_run}"]
    done = subprocess.run(
        [*command, f"--out={tmp_path}"], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert done.stdout.startswith("| method")
    assert done.stdout.strip().endswith(f"report: {tmp_path / 'report.html'}")
    with Image.open(io.BytesIO((tmp_path / "overview.png").read_bytes())) as image:
        assert image.format == "PNG"


def test_a_missing_workdir_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.report", f"--workdir={tmp_path / 'none'}"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: no metrics in")
    assert len(done.stderr.strip().splitlines()) == 1
