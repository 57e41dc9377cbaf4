"""Pages in a real browser: what is seen, pointed at, pinned, typed, printed; nothing is fetched, no error is told."""

import shutil
from pathlib import Path

import pytest

from autoprune.records.plain import read_json, write_json
from autoprune.reporting.pages.build import join_pages, open_saved, page_of
from autoprune.reporting.pages.page import write_page
from helpers.places import ROOT
from helpers.saved_search import saved_search

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.subprocess,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: Debian has it as the package `chromium`"),
]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 400, "height": 800}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of each kind that differs, by name."""
    place = tmp_path_factory.mktemp("pages")
    saved = {name: open_saved(saved_search(place / name, seed=seed).path) for seed, name in enumerate(("one", "two"))}
    comparison = place / "compared"
    comparison.mkdir()
    stored = (ROOT / "tests/benchmarks/results/compare_digits_v5e_40.json").read_text()
    (comparison / "comparison.json").write_text(stored)
    write_json(comparison / "comparison.json", read_json(comparison / "comparison.json", by_hand=True))
    found = {
        "search": page_of(saved["one"]),
        "joined": join_pages(list(saved.values())),
        "comparison": page_of(open_saved(comparison)),
    }
    for name, page in found.items():
        write_page(page, place / f"{name}.html")
    return {name: place / f"{name}.html" for name in found}


@pytest.fixture
def show(browser):
    """Opens a page until its charts are drawn, and looks at the end whether anything was told or fetched."""
    opened, told = [], []

    def open_page(path: Path, **options):
        context = browser.new_context(**{"viewport": WIDE, **options})
        page = context.new_page()
        page.on("console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: told.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=print]", state="attached", timeout=60_000)
        opened.append(context)
        return page

    yield open_page
    for context in opened:
        context.close()
    # The pictures for paper are data of the page itself.
    assert [words for words in told if not words.startswith("data:")] == []


def violations(page):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("name", ["search", "joined", "comparison"])
@pytest.mark.parametrize("look", [{}, {"color_scheme": "dark"}, {"viewport": NARROW}], ids=["light", "dark", "narrow"])
def test_pages_are_whole_and_accessible(show, pages, name, look):
    page = show(pages[name], **look)
    assert page.evaluate("document.documentElement.scrollWidth") == look.get("viewport", WIDE)["width"]
    charts = page.query_selector_all("[data-chart]")
    assert charts
    for chart in charts:
        assert chart.bounding_box()["height"] > 100
        assert chart.get_attribute("aria-label")
    # Everything that a table of contents leads to is there.
    for link in page.query_selector_all("nav a"):
        assert page.query_selector(link.get_attribute("href"))
    assert violations(page) == []


def test_the_scheme_is_that_of_the_reader(show, pages):
    """Also when it changes while the page is open, and in charts, whose ink is drawn."""
    ink = "[...Bokeh.documents[0].roots()][0].below[0].axis_label_text_color"
    page = show(pages["search"])
    light = page.evaluate(f"[getComputedStyle(document.body).backgroundColor, {ink}.value ?? {ink}]")
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("html[data-drawn=dark]", state="attached")
    dark = page.evaluate(f"[getComputedStyle(document.body).backgroundColor, {ink}.value ?? {ink}]")
    assert all(one != other for one, other in zip(light, dark, strict=True))


def first_plan(page):
    """Where on the screen the first plan of the first chart is."""
    return page.evaluate(
        """() => {
            const plot = [...Bokeh.documents[0].roots()][0], place = document.querySelector("[data-explorable]");
            const {x, y} = plot.renderers[0].data_source.data, box = place.getBoundingClientRect();
            const view = Bokeh.index.find_one(plot) ?? [...Bokeh.index.roots][0];
            const frame = view.frame.bbox;
            const part = (value, {start, end}) => (value - start) / (end - start);
            return [
                box.x + frame.left + frame.width * part(x[0], plot.x_range),
                box.y + frame.bottom - frame.height * part(y[0], plot.y_range),
            ];
        }"""
    )


def test_pointing_shows_a_plan_and_a_click_pins_it(show, pages):
    page = show(pages["search"])
    page.locator("[data-explorable]").first.scroll_into_view_if_needed()
    x, y = first_plan(page)
    page.mouse.move(x, y)
    shown = page.locator("#plan-shown")
    shown.get_by_text("accuracy before fine-tuning").wait_for()
    words = shown.inner_text()
    assert "rl, evaluation" in words
    assert "of the channels" in words
    page.mouse.click(x, y)
    pinned = page.locator("#plans-pinned article")
    pinned.wait_for()
    assert pinned.locator("h3").inner_text().startswith(words.splitlines()[0])
    # What is pointed at leaves with the pointer, what is pinned stays.
    page.mouse.move(5, 5)
    page.wait_for_selector("#plan-shown.empty", state="attached")
    assert pinned.count() == 1
    pinned.get_by_role("button", name="Unpin").click()
    assert pinned.count() == 0


def test_the_keyboard_goes_from_plan_to_plan(show, pages):
    page = show(pages["search"])
    chart = page.locator("[data-explorable]").first
    chart.focus()
    seen = []
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowLeft", "End"):
        chart.press(key)
        seen.append(page.locator("#plan-shown h3").inner_text())
    assert len(set(seen)) == 4
    assert seen[1] == seen[3]
    chart.press("Enter")
    assert page.locator("#plans-pinned article").count() == 1
    chart.press("Escape")
    assert page.locator("#plan-shown h3").count() == 0
    # What is pinned can be reached and let go without a pointer.
    page.locator("#plans-pinned button").focus()
    page.keyboard.press("Enter")
    assert page.locator("#plans-pinned article").count() == 0


def test_a_searcher_can_be_hidden_and_the_budget_looked_at(show, pages):
    page = show(pages["search"])
    chart = page.locator("[data-explorable]").first
    page.get_by_role("checkbox", name="rl").uncheck()
    chart.focus()
    for _ in range(4):
        chart.press("ArrowRight")
        assert page.locator("#plan-shown h3").inner_text().startswith("uniform")
    width = "(() => { const {x_range} = [...Bokeh.documents[0].roots()][0]; return x_range.end - x_range.start; })()"
    whole = page.evaluate(width)
    page.get_by_role("button", name="Near the budget").click()
    assert page.evaluate(width) < whole
    page.get_by_role("button", name="Everything").click()
    assert page.evaluate(width) == pytest.approx(whole)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_paper_charts_are_pictures_and_nothing_is_cut_off(show, pages, scheme, tmp_path):
    page = show(pages["search"], color_scheme=scheme)
    page.emulate_media(media="print", color_scheme=scheme)
    page.set_viewport_size({"width": 700, "height": 1000})
    page.wait_for_timeout(1500)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for picture in page.query_selector_all(".printed"):
        assert picture.get_attribute("src").startswith("data:image/png")
        assert picture.bounding_box()["width"] > 200
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    assert not page.locator("#plan-shown").is_visible()
    if scheme == "light":
        page.pdf(path=tmp_path / "page.pdf", format="A4")
        assert (tmp_path / "page.pdf").stat().st_size > 10_000


def test_ten_thousand_evaluations_are_all_there(browser, tmp_path):
    path = tmp_path / "many.html"
    write_page(page_of(open_saved(saved_search(tmp_path / "run", evaluations=5000).path)), path)
    assert path.stat().st_size < 3 * 2**20
    page = browser.new_page(viewport=WIDE)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=all]", state="attached", timeout=60_000)
    assert [told.replace(",", "") for told in page.locator("label .count").all_inner_texts()] == ["4999 1 failed"] * 2
    page.close()
