"""Time lines on a page: well-formed, escaped, without a script, bars in their place on the axis."""

import re
from pathlib import Path
from typing import Any

import pytest
import synthetic
from report_page import Page
from turn_rows import MS, accepted, conn, rows, server, turn

from tcptrace.analysis import timeline
from tcptrace.analysis.connections import connections
from tcptrace.analysis.course import course
from tcptrace.analysis.exchanges import exchanges
from tcptrace.output import colours, timeline_html
from tcptrace.trace.reader import read

EVIL = "<img src=x onerror=alert(1)>\u202e\x1b[2J\"'&"
BAR = re.compile(r'<i class="([^"]*)" style="left: min\(([\d.]+)%, 100% - 2px\); width: ([\d.]+)%"')


def line(own: dict[str, Any], other: dict[str, Any] | None = None, **header: Any) -> timeline.ExchangeLine:
    made = rows(own, *([other] if other else [])).to_pylist()
    ends = [timeline.turn(row, {"hooks": [], **header}) for row in made]
    return timeline.exchange_line(*ends)


def page(line: timeline.ExchangeLine, **fields: Any) -> Page:
    html = timeline_html.exchange_html(line, {1: conn(1, **fields), 2: accepted(2)})
    return Page(str(html))


def test_bars_lie_where_their_stage_did() -> None:
    found = page(line(turn(10 * MS, nagle_ns=4 * MS, network_ns=2 * MS, peer_ns=2 * MS, transfer_ns=MS)))
    assert BAR.findall(found.source) == [
        ("g-nagle", "0.000", "40.000"),
        ("g-network tl-est", "40.000", "10.000"),
        ("g-network tl-est", "70.000", "10.000"),
        ("g-peer tl-est", "50.000", "20.000"),
        ("g-transfer", "80.000", "10.000"),
        ("g-unattributed tl-rest", "90.000", "10.000"),
    ]
    assert {name.split()[0].removeprefix("g-") for name, _, _ in BAR.findall(found.source)} <= set(
        colours.PALETTE
    )


def test_rows_say_in_words_what_bars_show() -> None:
    found = page(line(turn(10 * MS, nagle_ns=9 * MS, wakeup_ns=None)))
    table = found.table("Exchange 1.0")
    nagle = next(row for row in table.rows if row[0].text == "Nagle")
    assert [cell.text for cell in nagle[1:4]] == ["0 ns", "9.00 ms", "90.0 %"]
    assert "Exchange 1.0, client end: 10.0.0.1:40001 to 10.0.0.2:5000, order-gw (4711)" in found.text
    assert "Not known: scheduler (one of the moments" in found.text
    assert "No time: application, send buffer, cork" in found.text


def test_both_ends_share_the_axis() -> None:
    own = turn(network_ns=6 * MS, peer_ns=4 * MS, network_exact=True)
    found = page(line(own, server(app_ns=4 * MS, started_ns=own["started_ns"] + 2 * MS)))
    bars = BAR.findall(found.source)
    peer = next(bar for bar in bars if bar[0] == "g-peer")
    application = next(bar for bar in bars if bar[0] == "g-application")
    assert peer[1:] == application[1:] == ("20.000", "40.000")
    assert "Its other end, 2.0, server end" in found.text and "began 2.00 ms later" in found.text


def test_hostile_names_are_text() -> None:
    hooks = [{"fact": "data ready", "provider": None, "reason": EVIL}]
    found = page(line(turn(MS, wakeup_ns=None, retransmits=1, retransmit_kind=EVIL), hooks=hooks), comm=EVIL)
    assert {tag for tag, _ in found.elements} <= {
        *("table", "caption", "thead", "tbody", "tr", "th", "td", "span", "i", "b", "p", "small", "strong")
    }
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert found.text.count("<img src=x onerror=alert(1)>\\u202e\\x1b[2J\"'&") == 3
    assert not found.scripts and "\u202e" not in found.source and "\x1b" not in found.source


@pytest.mark.parametrize("total", [1, 7, 999, 1000, 44 * MS, 5 * 10**9, 1 << 59])
def test_axes_have_a_few_round_ticks(total: int) -> None:
    ticks = re.findall(r'<span style="left: ([\d.]+)%">([^<]*)', page(line(turn(total))).source)
    assert 1 <= len(ticks) <= timeline_html.TICKS + 1
    assert ticks[0] == ("0.000", "0") and all(0 <= float(left) <= 100 for left, _ in ticks)


def test_an_exchange_that_took_no_time_is_still_a_page() -> None:
    found = page(line(turn(0)))
    assert not BAR.findall(found.source) and "took 0 ns" in found.text


def test_connections_of_a_busy_trace_are_well_formed(tmp_path: Path) -> None:
    records = synthetic.connections(40)
    path = synthetic.write_trace(
        tmp_path / "t.tct", records, synthetic.events(60, of=records), synthetic.exchanges(1500, of=records)
    )
    trace = read(path)
    ends = connections(trace)
    turns = exchanges(trace, ends)
    for number in ends["connection_id"].to_pylist():
        shown = course(trace, ends, turns, number)
        assert shown is not None
        found = Page(str(timeline_html.course_html(shown)))
        table = found.table(f"Connection {number}:")
        assert len(table.rows) == len(shown.entries)
        for _, left, width in BAR.findall(found.source):
            assert 0 <= float(left) <= 100 and float(width) <= 100


def test_the_style_uses_only_what_a_page_defines() -> None:
    from tcptrace.output import figures
    from tcptrace.resources import reports_dir

    defined = set(re.findall(r"(--[\w-]+):", (reports_dir() / "report.css").read_text()))
    defined |= {f"--{name}" for name in figures.PALETTE}
    assert set(re.findall(r"var\((--[\w-]+)\)", timeline_html.style())) <= defined
