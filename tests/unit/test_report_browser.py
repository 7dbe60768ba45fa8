"""The report in a real browser: only its own script runs, nothing is requested, tables and themes work.

Needs playwright and a Chromium; without them the tests skip and say so.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import synthetic
from report_page import recording, rows_of
from test_report import hostile_trace

from tcptrace.output.report import render

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A context with its own profile that nothing else has used."""
    with playwright_api.sync_playwright() as api:
        context = api.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=CHROMIUM,
            args=ARGUMENTS,
            viewport={"width": 1300, "height": 900},
            color_scheme="light",
        )
        yield context
        context.close()


@dataclass
class Seen:
    """An open report and everything it did."""

    page: Any
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def rows(self, table: str) -> list[list[str]]:
        found: list[list[str]] = self.page.evaluate(
            "id => [...document.getElementById(id).tBodies[0].rows].filter(row => !row.hidden)"
            ".map(row => [...row.cells].map(cell => cell.textContent.trim()))",
            table,
        )
        return found

    def ends_quietly(self) -> None:
        assert self.console == []
        assert self.dialogs == []
        assert [url for url in self.requests if not url.startswith(("data:image/", "blob:"))] == []


def show(browser: Any, path: Path) -> Seen:
    page = browser.new_page()
    page.set_default_timeout(60_000)
    seen = Seen(page)
    page.on("console", lambda message: seen.console.append(message.text))
    page.on("pageerror", lambda error: seen.console.append(str(error)))
    page.on("dialog", lambda dialog: (seen.dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(path.as_uri())
    page.on("request", lambda request: seen.requests.append(request.url))
    page.wait_for_selector("html[data-ready=yes]")
    return seen


def until(page: Any, condition: str, argument: object = None, seconds: float = 30) -> None:
    """Waits for a JavaScript condition; playwright's own wait needs the eval that the policy forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition, argument):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(20)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    directory = tmp_path_factory.mktemp("report")
    of = synthetic.connections(1500)
    record = recording(synthetic.write_trace(directory / "web.tct", of, synthetic.events(120, of=of)))
    path = directory / "web.html"
    path.write_text(render([record]), encoding="utf-8")
    return path, rows_of(record)


@pytest.fixture
def report(browser: Any, made: tuple[Path, list[dict[str, Any]]]) -> Iterator[Seen]:
    seen = show(browser, made[0])
    yield seen
    seen.ends_quietly()
    seen.page.close()


def test_all_figures_are_drawn(report: Seen) -> None:
    assert report.page.locator(".plot").count() == 5
    assert report.page.locator(".plot .main-svg").count() >= 5
    assert report.page.locator(".failed-to-draw").count() == 0
    buttons = report.page.locator(".plot .modebar-btn").evaluate_all(
        "all => all.map(one => one.dataset.title)"
    )
    assert set(buttons) == {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}  # none sends anything away
    assert report.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the window"


def test_hostile_names_run_nothing_and_link_nowhere(browser: Any, tmp_path: Path) -> None:
    one = recording(hostile_trace(tmp_path / "<img src=x onerror=alert(3)>.tct"))
    path = tmp_path / "hostile.html"
    path.write_text(render([one, one]), encoding="utf-8")
    seen = show(browser, path)
    page = seen.page
    # Every hover text and label too: plotly renders markup that it finds in them.
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        for x in (0.3, 0.5, 0.7):
            page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * 0.5)
    assert page.locator("a[href]:not([href^='#'])").count() == 0
    assert page.locator("svg a").count() == 0
    assert page.locator("img, iframe, object, embed").count() == 0
    assert page.locator("body script").count() == 3
    assert "<script>alert(1)" in page.locator("body").inner_text()
    assert page.locator(".legendtext", has_text="<img src=x onerror=alert(3)>").count() >= 1
    seen.ends_quietly()
    page.close()


def test_a_script_that_gets_into_the_page_does_not_run(report: Seen) -> None:
    """The policy is the second wall: tried with the page's own console messages as proof."""
    report.page.evaluate(
        "() => { for (const make of [() => { const s = document.createElement('script');"
        "s.textContent = 'window.broken = 1'; document.body.append(s); },"
        "() => { document.body.insertAdjacentHTML('beforeend', `<p onclick='window.broken = 1'>x</p>`);"
        "document.body.lastChild.click(); }]) make(); }"
    )
    assert report.page.evaluate("window.broken") is None
    assert report.console and all("Content Security Policy" in text for text in report.console)
    report.console.clear()


def test_sorting_by_click_and_by_keyboard(report: Seen, made: tuple[Path, list[dict[str, Any]]]) -> None:
    page = report.page
    sent = page.get_by_role("columnheader", name="Sent").first
    sent.get_by_role("button").click()
    assert sent.get_attribute("aria-sort") == "descending"
    values = page.evaluate(
        "[...document.getElementById('t1-rows').tBodies[0].rows].map(row => Number(row.cells[11].dataset.v))"
    )
    assert len(values) > 400 and values == sorted(values, reverse=True)
    assert page.locator("#t1-rows th[aria-sort=descending], #t1-rows th[aria-sort=ascending]").count() == 1
    sent.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert sent.get_attribute("aria-sort") == "ascending"
    # Rows without a value come last either way.
    for _ in range(2):
        page.locator("#t1-rows").get_by_role("button", name="Least RTT").click()
        column = [row[9] for row in report.rows("t1-rows")]
        assert column.index("–") == len(column) - column.count("–")
    page.locator("#t1-rows").get_by_role("button", name="Process").click()
    names = [row[3] for row in report.rows("t1-rows") if row[3] != "–"]
    assert names == sorted(names)


def test_filters_combine_and_say_how_many_rows_are_left(report: Seen) -> None:
    page = report.page
    every = report.rows("t1-rows")
    form = page.locator("form.filter")
    form.get_by_label("Contains").fill("ENVOY")
    form.get_by_label("Role").select_option("active")
    expected = [row for row in every if "envoy" in row[3] and row[2] == "active"]
    assert 0 < len(expected) < len(every)
    assert report.rows("t1-rows") == expected
    assert form.locator("output").inner_text() == f"{len(expected)} of {len(every)} rows"
    form.get_by_label("Ended").select_option("reset_sent")
    assert {row[6] for row in report.rows("t1-rows")} == {"reset_sent"}
    form.get_by_label("Contains").fill("no such name")
    assert report.rows("t1-rows") == []
    assert page.get_by_text("No row matches the filter.").is_visible()
    form.get_by_label("Contains").press("Enter")  # submits nothing
    form.get_by_label("Contains").fill("")
    form.get_by_label("Role").select_option("")
    form.get_by_label("Ended").select_option("")
    assert report.rows("t1-rows") == every


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, 0 to 1 (WCAG 2)."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrasts(page: Any) -> dict[str, float]:
    """Contrast of each kind of text to the card behind it."""
    colours = page.evaluate(
        """() => {
          const card = getComputedStyle(document.querySelector('section')).backgroundColor;
          const found = {};
          for (const what of ['section p', '.note', '.tile dt', 'caption',
                              'thead th', 'nav a', '.xtick text', '.legendtext']) {
            const style = getComputedStyle(document.querySelector(what));
            found[what] = [style.fill && what.match(/text$/) ? style.fill : style.color, card];
          }
          return found;
        }"""
    )
    found = {}
    for what, pair in colours.items():
        dark, light = sorted(map(luminance, pair))
        found[what] = (light + 0.05) / (dark + 0.05)
    return found


def test_both_themes_are_readable_in_figures_too(report: Seen) -> None:
    page = report.page
    assert min(contrasts(page).values()) > 4.5, contrasts(page)
    light = page.locator(".xtick text").first.evaluate("node => node.style.fill")
    page.emulate_media(color_scheme="dark")
    until(page, "light => document.querySelector('.xtick text').style.fill !== light", light)
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.05
    assert min(contrasts(page).values()) > 4.5, contrasts(page)
    page.emulate_media(color_scheme="light")
    until(page, "light => document.querySelector('.xtick text').style.fill === light", light)


def test_it_prints_in_light_colours_whatever_the_theme(report: Seen) -> None:
    page = report.page
    page.emulate_media(color_scheme="dark")
    page.evaluate("addEventListener('beforeprint', () => { window.printed = true })")
    pdf = page.pdf(format="A4", print_background=True)
    assert pdf.startswith(b"%PDF-") and len(pdf) > 50_000
    assert page.evaluate("window.printed")
    page.emulate_media(color_scheme="dark", media="print")
    assert (
        luminance(
            page.evaluate(
                "getComputedStyle(document.documentElement).getPropertyValue('--card') === '#ffffff'"
                " ? 'rgb(255, 255, 255)' : 'rgb(0, 0, 0)'"
            )
        )
        == 1
    )
    page.emulate_media(color_scheme="light", media="screen")


def test_a_phone_shows_it_without_scrolling_sideways(report: Seen) -> None:
    page = report.page
    page.set_viewport_size({"width": 390, "height": 800})
    until(page, "() => document.querySelector('.plot .main-svg').getBoundingClientRect().width < 390")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 1300, "height": 900})


def test_a_browser_that_cannot_unpack_keeps_the_tables(browser: Any, made: tuple[Path, Any]) -> None:
    page = browser.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(made[0].as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    assert page.locator(".failed-to-draw").count() == 5
    assert page.locator("#t1-rows tbody tr").count() > 400
    page.close()


def test_a_hundred_thousand_rows_leave_the_page_light(browser: Any, tmp_path: Path) -> None:
    of = synthetic.connections(100_000)
    record = recording(synthetic.write_trace(tmp_path / "big.tct", of, synthetic.events(20_000, of=of)))
    path = tmp_path / "big.html"
    path.write_text(render([record]), encoding="utf-8")
    seen = show(browser, path)
    assert seen.page.evaluate("document.getElementsByTagName('*').length") < 20_000
    seen.page.locator("#t1-rows").get_by_role("button", name="Sent").click()
    seen.ends_quietly()
    seen.page.close()
