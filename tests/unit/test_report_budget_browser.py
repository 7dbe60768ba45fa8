"""The chapter of the budget in a real browser: drawn, switched, escaped, narrow, dark, printed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from conversations import conversations
from report_page import recording
from test_join import written
from test_report_browser import Seen, browser, contrasts, pytestmark, show, until
from test_report_budget import budget_trace, hostile_budget

from tcptrace.analysis.join import join
from tcptrace.output.report import render

__all__ = ["browser", "pytestmark"]  # a fixture and the skip, which pytest finds by name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("budget")
    path = directory / "budget.html"
    path.write_text(render([recording(budget_trace(directory / "web.tct"))]), encoding="utf-8")
    return path


@pytest.fixture
def report(browser: Any, made: Path) -> Iterator[Seen]:
    seen = show(browser, made)
    yield seen
    seen.ends_quietly()
    seen.page.close()


def test_every_figure_of_the_budget_is_drawn(report: Seen) -> None:
    plots = report.page.locator(".plot")
    drawn = report.page.locator(".plot .main-svg").count()
    assert plots.count() >= 10 and drawn >= plots.count()
    assert report.page.locator(".failed-to-draw").count() == 0
    assert report.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    hatched = report.page.locator("[data-figure=t1-client-share] pattern")
    assert hatched.count() >= 2  # network and the other end, estimated
    assert report.page.locator("#t1-budget").bounding_box()["y"] < 400


def test_bars_switch_between_shares_and_times(report: Seen) -> None:
    page = report.page
    figure = page.locator("figure.switched").first
    shares, times = figure.get_by_role("button", name="shares"), figure.get_by_role("button", name="time")
    ticks = "node => [...node.querySelectorAll('.xtick text')].map(one => one.textContent)"
    assert "100 %" in figure.evaluate(ticks)
    times.click()
    until(page, "() => !document.querySelector('figure.switched .xtick text').textContent.endsWith('%')")
    assert all(not tick.endswith("%") for tick in figure.evaluate(ticks))
    assert (times.get_attribute("aria-pressed"), shares.get_attribute("aria-pressed")) == ("true", "false")
    shares.focus()
    page.keyboard.press("Enter")
    until(
        page,
        "() => [...document.querySelectorAll('figure.switched .xtick text')]"
        ".some(one => one.textContent === '100 %')",
    )


def test_a_switched_figure_follows_the_theme(report: Seen) -> None:
    page = report.page
    page.locator("figure.switched").first.get_by_role("button", name="time").click()
    colour = "document.querySelector('figure.switched .bars path').style.fill"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    until(page, f"light => {colour} !== light", light)
    assert min(contrasts(page).values()) > 4.5, contrasts(page)
    page.emulate_media(color_scheme="light")
    until(page, f"light => {colour} === light", light)


def test_the_slowest_exchanges_sort_and_their_bars_have_widths(report: Seen) -> None:
    page = report.page
    widths = page.evaluate(
        "[...document.querySelectorAll('#t1-slow-rows .parts')].map(bar =>"
        "[...bar.children].reduce((sum, one) => sum + one.getBoundingClientRect().width, 0)"
        "/ bar.getBoundingClientRect().width)"
    )
    assert len(widths) == 60 and all(0.97 < width < 1.03 for width in widths)
    page.locator("#t1-slow-rows").get_by_role("button", name="Largest part").click()
    values = page.evaluate(
        "[...document.getElementById('t1-slow-rows').tBodies[0].rows]"
        ".map(row => Number(row.cells[2].dataset.v))"
    )
    assert values == sorted(values, reverse=True)


def test_time_lines_open_and_lie_on_their_axis(report: Seen) -> None:
    page = report.page
    lines = page.locator("details.timeline")
    assert lines.count() == 6
    assert lines.first.get_attribute("open") is not None
    lines.nth(1).locator("summary").click()
    track = lines.nth(1).locator(".tl-track:has(i)").first.bounding_box()
    piece = lines.nth(1).locator(".tl-track i").first.bounding_box()
    assert track["x"] - 1 <= piece["x"] <= track["x"] + track["width"] + 1


def test_hostile_names_in_bars_and_hover_texts_run_nothing(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(render([recording(hostile_budget(tmp_path / "x.tct"))]), encoding="utf-8")
    seen = show(browser, path)
    page = seen.page
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        for x in (0.3, 0.5, 0.7):
            page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * 0.4)
    assert page.locator("a[href]:not([href^='#'])").count() == 0
    assert page.locator("svg a").count() == 0
    assert page.locator("img, iframe, object, embed").count() == 0
    assert page.locator("body script").count() == 3
    names = page.locator("[data-figure=t1-client-process-time] .ytick text").all_text_contents()
    assert any("<script>" in name for name in names), names
    seen.ends_quietly()
    page.close()


def test_a_phone_shows_the_budget_without_scrolling_sideways(report: Seen) -> None:
    page = report.page
    page.set_viewport_size({"width": 390, "height": 800})
    # Each figure is drawn anew in its own time.
    until(page, "() => document.querySelector('.plot .main-svg').getBoundingClientRect().width < 390")
    until(page, "() => document.documentElement.scrollWidth <= innerWidth")
    # The totals beside the bars are inside the figure.
    until(
        page,
        "() => { const plot = document.querySelector('figure.switched .plot');"
        "const right = plot.getBoundingClientRect().right;"
        "return [...plot.querySelectorAll('.annotation-text')]"
        ".every(one => one.getBoundingClientRect().right <= right + 1); }",
    )
    page.set_viewport_size({"width": 1300, "height": 900})


def test_on_paper_the_unattributed_column_is_inside_the_sheet(report: Seen) -> None:
    page = report.page
    page.set_viewport_size({"width": 703, "height": 994})
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].every(one => one.open)")
    right = page.evaluate(
        "[...document.querySelectorAll('.budget table.stack')]"
        ".map(table => table.getBoundingClientRect().right)"
    )
    assert right and max(right) <= 704, right
    assert page.evaluate("getComputedStyle(document.querySelector('.switch')).display") == "none"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 1300, "height": 900})


def test_joined_recordings_make_a_quiet_page(browser: Any, tmp_path: Path) -> None:
    ends = conversations(6, 10)
    both = []
    for name, records, turns in (
        ("client.tct", ends.client_connections, ends.clients),
        ("server.tct", ends.server_connections, ends.servers),
    ):
        written(tmp_path / name, records, turns)
        both.append(recording(tmp_path / name))
    path = tmp_path / "both.html"
    path.write_text(render(both, join([each.trace for each in both])), encoding="utf-8")
    seen = show(browser, path)
    assert seen.page.locator("#joined").is_visible()
    assert seen.page.locator("[data-figure=all-client-share] .main-svg").count() >= 1
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    seen.ends_quietly()
    seen.page.close()


def test_many_exchanges_leave_the_page_light(browser: Any, tmp_path: Path) -> None:
    of = synthetic.connections(5_000)
    of["remote_port"] = np.arange(5_000) % 60_000 + 1  # as many groups as connections
    path = synthetic.write_trace(
        tmp_path / "big.tct", of, exchanges=synthetic.exchanges(200_000, of=of, summed=0.001)
    )
    page = tmp_path / "big.html"
    page.write_text(render([recording(path)]), encoding="utf-8")
    assert page.stat().st_size < 5_000_000
    seen = show(browser, page)
    assert seen.page.evaluate("document.getElementsByTagName('*').length") < 25_000
    seen.ends_quietly()
    seen.page.close()
