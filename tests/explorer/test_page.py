"""The explorer in a browser without a network; skipped without Playwright or Chromium."""

import csv
import json
import shutil

import pytest

from explorer import build, golden

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra explorer")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
FIGURES = {"mass-A", "mass-B", "weight", "objective", "ratio", "share", "pass-1", "pass-k", "front", "rates"}  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "index.html"
    path.write_text(build.page())
    return path.as_uri()


@pytest.fixture
def visit(browser, url):
    """Opens the page at a hash; errors of the page and requests of it fail the test."""
    contexts, problems = [], []

    def opened(hash_="", **settings):
        context = browser.new_context(**{"viewport": DESKTOP, **settings})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda m: m.type == "error" and problems.append(m.text))
        page.on("request", lambda r: r.url.startswith(("http", "ws")) and problems.append(r.url))
        page.goto(url + hash_)
        page.wait_for_function("() => performance.getEntriesByName('draw').length > 0")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not problems


def drawing(page, figure):
    return page.inner_html(f"#{figure} svg")


def wait_for_another(page, figure, before):
    page.wait_for_function(
        "([figure, before]) => document.querySelector(`#${figure} svg`).innerHTML !== before",
        arg=[figure, before],
    )


def downloaded(page, button):
    with page.expect_download() as download:
        page.click(button)
    with open(download.value.path()) as file:
        return list(csv.DictReader(file))


def golden_case(name, group_size, **parameters):
    cases = json.loads(golden.PATH.read_text())["cases"]
    wanted = (name, group_size, parameters)
    return next(c for c in cases if (c["id"], c["group_size"], c["parameters"]) == wanted)


def test_page_draws_every_figure_at_once(visit):
    page = visit()
    assert {f.get_attribute("id") for f in page.query_selector_all("figure:has(svg)")} == FIGURES
    for figure in FIGURES:
        assert page.query_selector(f"#{figure} path.line"), figure


def test_page_draws_in_a_second_of_its_thread(browser, url):
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    session = context.new_cdp_session(page)
    # The thread's own time, since other programs may use the cores.
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(url)
    page.wait_for_function("() => performance.getEntriesByName('draw').length > 0")
    metrics = session.send("Performance.getMetrics")["metrics"]
    assert next(m["value"] for m in metrics if m["name"] == "TaskDuration") < 1
    context.close()


def test_every_advantage_draws(visit):
    page = visit()
    for name in page.eval_on_selector_all("#A-id option", "all => all.map((x) => x.value)"):
        before = page.evaluate("performance.getEntriesByName('draw').length")
        page.select_option("#A-id", name)
        page.dispatch_event("#A-id", "change")
        page.wait_for_function("(n) => performance.getEntriesByName('draw').length > n", arg=before)
        for figure in ("mass-A", "weight", "pass-1"):
            assert "NaN" not in drawing(page, figure), (name, figure)


def test_keyboard_alone_changes_a_control_and_the_drawing(visit):
    page = visit("#A=power&A.alpha=3&B=grpo")
    before = drawing(page, "weight")
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "A-alpha":
            break
    page.keyboard.press("ArrowRight")
    wait_for_another(page, "weight", before)
    assert page.inner_text("output[for=A-alpha]") == "3.1"
    assert page.get_attribute("#A-alpha", "aria-valuetext") == "3.1"
    page.wait_for_function("() => location.hash.includes('A.alpha=3.1')")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_every_control_is_reached_by_tab(visit):
    page = visit()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    wanted = {"A-id", "A-alpha", "B-id", "G", "equal", "start-beta", "a", "b", "steps", "eta", "k"}
    assert wanted | {"copy", "reset", "p", "csv-weights", "csv-training"} <= reached


@pytest.mark.parametrize("choice", ["", "#A=power_asym&B=quantile&rates=0x3_0.5"])
def test_phone_has_no_horizontal_scroll(visit, choice):
    page = visit(choice, viewport=PHONE)
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for box in page.query_selector_all("figure svg"):
        assert box.bounding_box()["width"] <= PHONE["width"]


def contrasts(page):
    """The contrast ratio (WCAG 2) of every color of text with the color behind it."""
    return page.evaluate("""() => {
      const luminance = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).map((x) => x / 255)
          .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const behind = (node) => {
        for (; node; node = node.parentElement) {
          const color = getComputedStyle(node).backgroundColor;
          if (!color.endsWith(", 0)")) return color;
        }
      };
      return [...document.querySelectorAll("p, h1, h2, h3, label, text, td, th, legend, a")]
        .filter((node) => node.textContent.trim())
        .map((node) => {
          const style = getComputedStyle(node);
          const ink = node instanceof SVGElement ? style.fill : style.color;
          const [x, y] = [luminance(ink), luminance(behind(node))].sort((s, t) => t - s);
          return [(x + 0.05) / (y + 0.05), node.textContent];
        });
    }""")


def test_dark_mode_has_its_own_colors_with_contrast(visit):
    backgrounds = set()
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert min(contrasts(page))[0] >= 4.5, min(contrasts(page))
    assert len(backgrounds) == 2


def test_link_restores_the_choice(visit, url):
    page = visit()
    page.select_option("#A-id", "power_asym")
    page.fill("#A-alpha", "2.5")
    page.select_option("#B-id", "pkpo")
    page.fill("#B-k", "3")
    page.press("#G", "ArrowLeft")
    page.fill("#a", "2")
    page.fill("#steps", "300")
    page.uncheck("#equal")
    page.wait_for_function(
        "() => location.hash.includes('steps=300') && /equal=0/.test(location.hash)"
    )
    again = visit(page.evaluate("location.hash"))
    assert again.url == page.url
    for figure in FIGURES:
        assert drawing(again, figure) == drawing(page, figure), figure
    assert again.input_value("#A-alpha") == "2.5"
    assert again.input_value("#B-k") == "3"
    assert again.inner_text("output[for=G]") == "12"


def test_link_that_changes_in_an_open_page_is_read(visit):
    page = visit("#A=power&B=grpo")
    before = drawing(page, "mass-B")
    page.evaluate("location.hash = '#A=power&B=nsr'")
    wait_for_another(page, "mass-B", before)
    assert page.inner_text("#mass-B h3").startswith("B: NSR")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("#A=magic", "A has no advantage “magic”."),
        ("#A=power&A.alpha=99", "A.alpha must be from 0 to 6, the link has “99”."),
        ("#A=pkpo&A.k=12&G=8", "A.k must be from 1 to 8, the link has “12”."),
        ("#G=7", "G must be one of 2, 3,"),
        ("#rates=0.5x2_7", "rates must be solve rates from 0 to 1"),
        ("#beta=0_1", "beta's a must be from 0.1 to 10, the link has “0”."),
    ],
)
def test_link_with_an_error_says_so_and_draws(visit, choice, message):
    page = visit(choice)
    assert message in page.inner_text("#status")
    assert page.query_selector("#weight path.line")


def test_csv_of_the_weights_has_golden_values(visit):
    page = visit("#A=power&A.alpha=3&B=grpo&G=16&equal=0")
    rows = {float(row["p"]): row for row in downloaded(page, "#csv-weights")}
    assert len(rows) == 101
    names = {"m_S": "success", "m_F": "failure", "h": "weight", "F": "objective"}
    for side, case in (("A", golden_case("power", 16, alpha=3.0)), ("B", golden_case("grpo", 16))):
        for i, p in enumerate(golden.SOLVE_RATES):
            for column, field in names.items():
                found = float(rows[p][f"{side}_{column}"])
                assert found == pytest.approx(case[field][i], rel=1e-5, abs=1e-5), (side, p)
    assert rows[0.0]["A_ratio"] == "nan"


def test_csv_and_table_say_infinity(visit):
    page = visit("#A=psr&B=nsr&equal=0&p=0.25")
    row = downloaded(page, "#csv-weights")[25]
    assert (row["A_ratio"], row["B_ratio"]) == ("inf", "0")
    assert (float(row["A_m_S"]), float(row["B_m_F"])) == (0.25, 0.75)
    ratio = page.inner_text("#at-p tbody tr:nth-child(5)").split()
    assert ratio[-2:] == ["∞", "0.0000"]


def test_csv_of_training_starts_at_the_list(visit):
    page = visit("#A=rloo&B=grpo&rates=0_0.5x2_1&k=10&steps=50")
    rows = downloaded(page, "#csv-training")
    assert [int(row["step"]) for row in rows] == list(range(51))
    assert float(rows[0]["A_pass_at_1"]) == 0.5
    assert float(rows[0]["A_pass_at_10"]) == pytest.approx((0 + 2 * (1 - 0.5**10) + 1) / 4)
    assert float(rows[0]["A_effective_share"]) == pytest.approx(1)
    assert float(rows[-1]["A_pass_at_1"]) > 0.7


def test_scale_gives_both_the_same_mean_mass(visit):
    page = visit("#A=dr_grpo&B=rloo&G=4&equal=1&p=0.5")
    assert page.inner_text("#mass-B h3") == "B: RLOO × 0.750"
    assert page.inner_text("#at-p tbody tr:nth-child(1)").split()[-2:] == ["0.1875", "0.1875"]


def test_uploaded_list_moves_the_start(visit, tmp_path):
    page = visit()
    before = drawing(page, "rates")
    page.check("#start-list")
    path = tmp_path / "rates.csv"
    path.write_text("solve_rate\n" + "\n".join(["0.125"] * 6 + ["0.625"] * 2) + "\n")
    page.set_input_files("#file", str(path))
    wait_for_another(page, "rates", before)
    page.wait_for_function("() => location.hash.includes('rates=0.125x6_0.625x2')")
    assert page.inner_text("#start-summary") == "8 prompts, mean solve rate 0.250."
    again = visit(page.evaluate("location.hash"))
    assert again.input_value("#list").split() == ["0.125"] * 6 + ["0.625"] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The list has no number: give solve rates from 0 to 1."),
        ("0.5 1.5", "Number 2 is “1.5”: solve rates are from 0 to 1."),
        ("0.5\nhard", "Number 2 is “hard”: solve rates are from 0 to 1."),
        ("0.5 " * 5001, "The list has 5001 numbers: give at most 5000."),
    ],
)
def test_bad_list_says_what_is_wrong_and_keeps_the_last(visit, text, message):
    page = visit("#rates=0.25x3_0.5")
    before = drawing(page, "rates")
    page.fill("#list", text)
    page.wait_for_selector("#list-error:not(:empty)")
    assert page.inner_text("#list-error") == f"{message} The figures still show the last start."
    assert page.get_attribute("#list", "aria-invalid") == "true"
    assert drawing(page, "rates") == before
    page.fill("#list", "0.25 0.75")
    wait_for_another(page, "rates", before)
    assert page.get_attribute("#list", "aria-invalid") is None


def test_list_without_a_gradient_says_so(visit):
    page = visit("#A=grpo&B=rloo&rates=0x3_1")
    assert "no prompt has a gradient" in page.inner_text("#pass-1 .note")


def test_pointer_reads_values(visit):
    page = visit("#p=0.3")
    page.hover("#weight svg", position={"x": 150, "y": 100})
    page.wait_for_function(
        "() => !document.querySelector('#at-p caption').textContent.includes('0.30')"
    )
    assert page.input_value("#p") != "0.3"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_page_passes_axe(visit, scheme, viewport):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visit("#rates=0.1_0.9", color_scheme=scheme, viewport=viewport)
    page.fill("#list", "7")  # the error too
    page.click("summary")
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
