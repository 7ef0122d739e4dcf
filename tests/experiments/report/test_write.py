"""The files of a report: links that resolve, and reasons for what is not there."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from experiments.report import main_table, write_report
from experiments.report.runs import load_runs
from experiments.report.tables import results_table

REPOSITORY = Path(__file__).parents[3]
FIGURES = {
    "alpha_delta",
    "entropy",
    "lengths",
    "masses",
    "overview",
    "pass_at_k",
    "pass_at_k_tokens",
    "solve_rates",
    "tradeoff",
    "training",
}
TABLES = {"results", "methods", "setup", "runs"}
VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """Collects the links, anchors and texts of a page, and that every element is closed."""

    def __init__(self, path):
        super().__init__()
        self.open, self.links, self.anchors, self.texts = [], [], set(), {}
        self._section = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [found[name] for name in ("href", "src", "srcset") if name in found]
        if "id" in found:
            assert found["id"] not in self.anchors
            self.anchors.add(found["id"])
            self._section = found["id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.texts[self._section] = self.texts.get(self._section, "") + data


@pytest.fixture(scope="module", name="report")
def report_fixture(two_seeds, tmp_path_factory):
    return write_report(two_seeds, tmp_path_factory.mktemp("report"))


def test_write_report_writes_every_figure_as_png_pdf_and_csv(report):
    out = report.parent
    assert report == out / "index.html"
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == (
        {"report.md", "index.html"}
        | {f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")}
        | {f"narrow/{name}.png" for name in FIGURES}
        | {f"data/{name}.csv" for name in FIGURES | TABLES}
    )
    for name in FIGURES:
        for path, most in ((out / f"{name}.png", 5.5), (out / "narrow" / f"{name}.png", 3.25)):
            with Image.open(path) as image:
                assert image.size[0] <= 200 * most


def test_links_and_contents_of_the_page_resolve(report):
    page = Page(report)
    assert page.open == []
    files = [link for link in page.links if not link.startswith("#")]
    assert {f"{name}.pdf" for name in FIGURES} < set(files)
    assert {f"data/{name}.csv" for name in FIGURES | TABLES} < set(files)
    assert all((report.parent / link).is_file() for link in files)
    contents = [link[1:] for link in page.links if link.startswith("#")]
    assert len(contents) == len(set(contents)) > len(FIGURES)
    assert set(contents) == page.anchors


def test_links_and_contents_of_the_markdown_resolve(report):
    markdown = (report.parent / "report.md").read_text()
    links = re.findall(r"\]\(([^)#]+)\)", markdown)
    assert {f"{name}.png" for name in FIGURES} < set(links)
    assert all((report.parent / link).is_file() for link in links)
    titles = re.findall(r"^## (.+)$", markdown, re.MULTILINE)
    assert re.findall(r"^- \[([^\]]+)\]\(#", markdown, re.MULTILINE) == titles
    anchors = re.findall(r"\]\(#([^)]+)\)", markdown)
    assert len(anchors) == len(set(anchors)) == len(titles)
    assert anchors[titles.index("pass@1 against pass@k")] == "pass1-against-passk"


def test_page_and_markdown_have_the_main_table(report, two_seeds):
    markdown, html = (report.parent / "report.md").read_text(), report.read_text()
    assert main_table(two_seeds) in markdown
    for cell in results_table(load_runs(two_seeds)).to_numpy().flat:
        assert f"<td>{cell}</td>" in html
        assert not cell or f" {cell} " in markdown


def test_page_is_for_phones_and_wide_screens(report):
    html = report.read_text()
    assert 'name="viewport" content="width=device-width' in html
    assert html.count('media="(max-width: 40rem)"') == len(FIGURES)
    for table in re.findall(r"<div class=\"(\w+)\"><table", html):
        assert table == "scroll"  # scrolls by itself, not the page


def test_csv_of_a_figure_has_its_curves(report, two_seeds):
    table = pd.read_csv(report.parent / "data" / "pass_at_k_tokens.csv")
    runs = load_runs(two_seeds)[:2]
    row = table[(table.metric == "eval/pass@10") & (table.method == "grpo") & (table.step == 60)]
    mean = sum(run.evaluations.loc[60, "eval/pass@10"] for run in runs) / 2
    assert row["mean"].item() == pytest.approx(100 * mean)
    # 16 prompts x 8 rollouts, a length of 8 + step/120
    assert row["tokens"].item() == pytest.approx(128 * (60 * 8 + 60 * 61 / 2 / 120))


def test_sections_without_data_say_why(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    page = Page(write_report(tmp_path, tmp_path / "out"))
    for name in ("kl", "differences", "pass_at_k", "completions", "environment", "outcomes"):
        title, *said = page.texts[name].strip().splitlines()
        assert " ".join(said).strip(), f"{name}: {title}"
        assert not (tmp_path / "out" / f"{name}.png").exists()
    assert "config.learner.kl.measured" in page.texts["kl"]


def test_write_report_shows_what_became_of_the_completions(tmp_path):
    names = ("cut_off", "no_answer", "wrong", "errors", "deaths", "timeouts", "unknown")
    counts = {f"verification/{name}": i for i, name in enumerate(names)}
    for name in ("fade", "grpo"):
        run = tmp_path / "runs" / f"{name}-seed0"
        run.mkdir(parents=True)
        (run / "config.json").write_text('{"prompts": 4, "group_size": 8}')
        lines = [{"step": i, "reward": 0.1, "length": 9.0} | counts for i in (1, 2)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_report(tmp_path, tmp_path / "out")
    assert (tmp_path / "out" / "outcomes.png").stat().st_size > 1000
    assert "What became of the completions" in page.read_text()


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
def test_write_report_of_the_first_lines_of_a_run(tmp_path, lines):
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    page = write_report(tmp_path)
    assert page == tmp_path / "report" / "index.html"
    assert "Results" in page.read_text()


def test_write_report_escapes_names(tmp_path):
    run = tmp_path / "runs" / "a<b>&-seed0"
    run.mkdir(parents=True)
    line = {"step": 1, "entropy": 1.0, "solve_rate_histogram": [1, 2]}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    text = write_report(tmp_path).read_text()
    assert "a&lt;b&gt;&amp;" in text
    assert "a<b>" not in text


def test_command_prints_the_table_and_the_path(two_seeds, tmp_path):
    command = [sys.executable, "-m", "experiments.report", f"--workdir={two_seeds}"]
    command += [f"--out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == f"{main_table(two_seeds)}\n\nreport: {tmp_path / 'index.html'}\n"
