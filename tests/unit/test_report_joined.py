"""Several recordings on one page: joined where their connections match, side by side where none does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from conversations import Ends, conversations
from report_page import Page, recording
from test_join import written
from test_report import HOSTILE

from tcptrace.analysis.join import Joined, join
from tcptrace.cli import run
from tcptrace.errors import EXIT_OK
from tcptrace.output.report import Recording, render
from tcptrace.output.report_exchanges import TIMELINES
from tcptrace.units import format_count

S = 10**9


def joined_page(*recordings: Recording) -> tuple[Page, Joined]:
    made = join([each.trace for each in recordings])
    return Page(render(recordings, made)), made


@pytest.fixture(scope="module")
def ends() -> Ends:
    found = conversations(12, 25, server_ahead_ns=0)
    for records, name in ((found.client_connections, b"order-gw"), (found.server_connections, b"order-db")):
        records["comm"], records["pid"] = name, 4711
    return found


@pytest.fixture(scope="module")
def pair(ends: Ends, tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Joined]:
    directory = tmp_path_factory.mktemp("joined")
    strangers = synthetic.connections(30, seed=9)
    strangers["connection_id"] += 50_000
    both = []
    for name, records, turns, ahead in (
        ("client.tct", np.concatenate([ends.client_connections, strangers]), ends.clients, 0),
        ("server.tct", ends.server_connections, ends.servers, 5 * S),
    ):
        written(directory / name, records, turns)
        record = recording(directory / name)
        clock = [(monotonic, realtime + ahead) for monotonic, realtime in record.trace.clocks]
        record.trace.clocks[:] = clock
        both.append(recording_of(record, ahead))
    return joined_page(*both)


def recording_of(record: Recording, ahead_ns: int) -> Recording:
    """The same, its wall clock ahead in the header as well."""
    started = record.trace.header["started"]
    started["realtime_ns"] += ahead_ns
    return record


def test_matching_recordings_have_one_budget_with_an_exact_network(
    ends: Ends, pair: tuple[Page, Joined]
) -> None:
    page, _ = pair
    headings = [attrs["id"] for tag, attrs in page.elements if tag == "h2"]
    assert headings == ["all-budget", "all-exchanges", "all-slow", "joined", "overview", "t1", "t2"]
    n = format_count(len(ends.clients))
    assert f"{n} exchanges seen from the client end" in page.text
    assert f"{n} exchanges seen from the server end" in page.text
    table = page.table("Budgets of the client ends")
    network = table.column("network")[0]
    assert not network.text.startswith("≈")
    assert network.value == pytest.approx(np.mean(ends.network_ns), abs=1)
    assert f"exact in all {n} exchanges seen from the client end" in page.text
    figures = json.loads(page.scripts[0][1])["figures"]
    assert "pattern" not in json.dumps(figures["all-client-share"])


def test_what_matched_and_what_did_not_is_said(ends: Ends, pair: tuple[Page, Joined]) -> None:
    page, made = pair
    connections, turns = len(ends.client_connections), len(ends.clients)
    assert made.pairs == connections and made.turns == turns
    assert f"{connections} connections have one end in one recording" in page.text
    assert f"{turns} exchanges were seen from both" in page.text
    table = page.table("Ends of connections by where")
    assert [cell.value for cell in table.column("In another recording")] == [connections, connections]
    alone = table.column("In none")[0].value, table.column("Not to be looked for")[0].value
    assert sum(int(value or 0) for value in alone) == 30
    lonely = page.table("Ends of connections whose other end is in no recording")
    assert {cell.text for cell in lonely.column("Recording")} == {"1."}
    assert "30 ends without a match, the first 20" in page.text


def test_the_clocks_difference_is_given_with_its_uncertainty(pair: tuple[Page, Joined]) -> None:
    page, made = pair
    assert abs(made.clocks[1].ahead_ns - 5 * S) <= made.clocks[1].uncertainty_ns
    assert "The clock of server.tct was ≈ 5.00 s ahead of that of client.tct, wrong by at most" in page.text
    table = page.table("Ends of connections by where")
    assert [cell.value for cell in table.column("Clock ahead ≈")] == [None, made.clocks[1].ahead_ns]
    assert table.column("Wrong by at most")[1].value == made.clocks[1].uncertainty_ns


def test_joined_exchanges_are_on_one_time_line(pair: tuple[Page, Joined]) -> None:
    page, _ = pair
    figure = json.loads(page.scripts[0][1])["figures"]["all-latency"]["data"]
    spans = []
    for panel in figure:
        used = [
            x for x, *cells in zip(panel["x"], *panel["z"], strict=False) if any(c is not None for c in cells)
        ]
        spans.append((min(used), max(used)))
    assert spans[0] == pytest.approx(spans[1], abs=0.7)


def test_a_turn_seen_from_both_ends_has_one_time_line(pair: tuple[Page, Joined]) -> None:
    page, _ = pair
    lines = [table.caption for table in page.tables if table.caption.startswith("Exchange ")]
    assert len(lines) == TIMELINES and all("of recording 1" in line for line in lines)
    assert page.text.count("Its other end, ") == TIMELINES


def test_an_exchange_is_named_by_the_id_of_its_own_recording(pair: tuple[Page, Joined]) -> None:
    page, made = pair
    rows = sorted(made.exchanges.to_pylist(), key=lambda row: -row["total_ns"])
    cell = page.table("Slowest exchanges").column("Exchange")[0]
    first = rows[0]
    assert cell.text == f"{first['trace'] + 1}. {first['trace_connection_id']}.{first['seq']}"


def test_recordings_that_share_nothing_keep_their_own_budgets(tmp_path: Path) -> None:
    records = []
    for seed in (1, 2):
        of = synthetic.connections(200, seed=seed)
        path = tmp_path / f"{seed}.tct"
        synthetic.write_trace(path, of, exchanges=synthetic.exchanges(300, of=of, seed=seed))
        records.append(recording(path))
    page, made = joined_page(*records)
    assert made.pairs == 0 and "not paired" in page.text
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert {"t1-budget", "t2-budget"} <= set(ids) and "joined" not in ids
    assert len(ids) == len(set(ids))


def test_joined_recordings_without_budgets_still_say_how_they_match(ends: Ends, tmp_path: Path) -> None:
    both = []
    for name, records in (("a", ends.client_connections), ("b", ends.server_connections)):
        written(tmp_path / name, records, None)
        both.append(recording(tmp_path / name))
    page, made = joined_page(*both)
    assert made.pairs == len(ends.client_connections)
    assert "How the recordings match" in page.text
    assert page.text.count("has no latency budget") == 2
    assert not any(attrs.get("id") == "all-budget" for _, attrs in page.elements)


def test_hostile_names_of_joined_recordings_stay_text(ends: Ends, tmp_path: Path) -> None:
    both = []
    for number, (records, turns) in enumerate(
        ((ends.client_connections.copy(), ends.clients), (ends.server_connections.copy(), ends.servers))
    ):
        records["comm"] = HOSTILE[number].encode()[:16]
        path = tmp_path / f"<b>{number}&lt;.tct"
        written(path, records, turns)
        both.append(recording(path))
    page, _ = joined_page(*both)
    assert "<b>1&lt;.tct" in page.text and HOSTILE[0][:16] in page.text
    assert not {"b", "img"} & {tag for tag, _ in page.elements}
    assert len(page.scripts) == 3 and "<" not in page.scripts[0][1]


def test_the_command_joins(ends: Ends, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths: list[Any] = [tmp_path / "client.tct", tmp_path / "server.tct"]
    written(paths[0], ends.client_connections, ends.clients)
    written(paths[1], ends.server_connections, ends.servers)
    page = tmp_path / "both.html"
    assert run(["report", *map(str, paths), "-o", str(page)]) == EXIT_OK
    assert "How the recordings match" in Page(page.read_text()).text
