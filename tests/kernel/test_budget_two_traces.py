"""Two hosts' traces, wall clocks 5 s apart, ports used again and again: every turn finds its other end.

Each host records its own namespace only; then the server's trace is moved to another host's clocks. What
tells that a turn was joined to the right one is the size of its request, which no other turn has.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from budget import column, insist_close, insist_on_shares, of
from budget_rows import add_up
from conftest import require, why_no_lab, why_no_recording
from drive import SERVER, connect, linger_zero, listen, receive, wait_closed
from other_host import move
from recording import Recording, Row, run
from tcptrace.analysis.join import Joined, join
from tcptrace.lab import namespaces
from tcptrace.lab.link import Link, Log
from tcptrace.lab.namespaces import SIDE_B
from tcptrace.lab.packet import RST
from tcptrace.trace.reader import read
from turns import MS, US, Carried, awake, carried, take_turn, without_jitter

AHEAD_NS = 5_000 * MS
BOOTED_NS = 11 * 86_400_000 * MS
DELAYS_MS = (1, 5, 10)
PORTS = (40_000, 40_000, 40_000, 40_001, 40_000, 40_000, 40_001, 40_000, 40_000)
"""The client's port of each connection; its delay is the next of DELAYS_MS."""
TURNS = 10


@dataclass(frozen=True)
class Connection:
    port: int
    request_bytes: list[int]
    """Of each turn; no other turn of any connection has the same."""
    carried: Carried


@dataclass(frozen=True)
class Hosts:
    client: Path
    server: Path
    connections: list[Connection]


def converse(link: Link) -> Iterator[Connection]:
    """One connection after the other; each is reset, so that its port can be used again at once."""
    for number, port in enumerate(PORTS):
        sizes = [100 + number * TURNS + turn for turn in range(TURNS)]
        begin = time.monotonic_ns()
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(listen(link.b))
            client = stack.enter_context(connect(link.a, SIDE_B.ipv4, source=("", port)))
            server = stack.enter_context(listener.accept()[0])
            server.settimeout(10)
            for size in sizes:
                take_turn(client, server, request_bytes=size)
            linger_zero(client)
            client.close()
            with contextlib.suppress(ConnectionResetError):
                receive(server, 1)
        wait_closed(link.b, SERVER)

        def over(log: Log, since: int = begin) -> bool:
            return bool(((log["flags"] & RST != 0) & (log["arrived_ns"] > since)).any())

        yield Connection(port, sizes, carried(link.wait_for(over), port, TURNS, since_ns=begin))


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    require(not why_no_lab(), why_no_lab())
    require(not why_no_recording(), why_no_recording())
    directory = tmp_path_factory.mktemp("hosts")
    with contextlib.ExitStack() as stack:
        a, b = stack.enter_context(namespaces.pair(wired=False))
        link = without_jitter(
            stack.enter_context(Link(a, b, flow_delays_ns=[delay * MS for delay in DELAYS_MS]))
        )
        recordings = []
        for name, space in (("client", a), ("here", b)):
            recordings.append(Recording(directory / f"{name}.tct", of(space)))
            stack.callback(recordings[-1].abandon)
        with awake():
            held = list(converse(link))
        client, server = recordings
        for recording in recordings:
            recording.stop()
    move(server.path, directory / "server.tct", ahead_ns=AHEAD_NS, booted_ns=BOOTED_NS)
    yield Hosts(client.path, directory / "server.tct", held)


@pytest.fixture(scope="module")
def joined(hosts: Hosts) -> Joined:
    return join([read(hosts.client), read(hosts.server)])


def turns_of(joined: Joined, side: str) -> list[Row]:
    return [row for row in joined.exchanges.to_pylist() if row["side"] == side]


def test_every_turn_is_joined_to_the_right_one(hosts: Hosts, joined: Joined) -> None:
    client, server = turns_of(joined, "client"), turns_of(joined, "server")
    sizes = sorted(size for connection in hosts.connections for size in connection.request_bytes)
    assert [row["request_bytes"] for row in client] == [row["request_bytes"] for row in server] == sizes
    assert {row["trace"] for row in client} == {0} and {row["trace"] for row in server} == {1}
    turns = {(row["connection_id"], row["seq"]): row for row in (*client, *server)}
    assert len(turns) == 2 * len(sizes)
    for row in turns.values():
        other = turns[row["peer_connection_id"], row["peer_seq"]]
        assert other["side"] != row["side"] and other["request_bytes"] == row["request_bytes"], (row, other)
    assert (joined.pairs, joined.turns) == (len(PORTS), len(sizes))


def test_the_networks_share_is_exact(hosts: Hosts, joined: Joined) -> None:
    rows = {row["request_bytes"]: row for row in turns_of(joined, "client")}
    assert all(row["network_exact"] is True for row in rows.values())
    for delay, name in ((delay, f"network_ns at {delay} ms, two traces") for delay in DELAYS_MS):
        chosen = hosts.connections[DELAYS_MS.index(delay) :: len(DELAYS_MS)]
        mine = [rows[size] for connection in chosen for size in connection.request_bytes]
        truth = np.concatenate([connection.carried.network for connection in chosen])
        insist_close(name, column(mine, "network_ns"), truth, 0.03, 50 * US)


def test_the_clocks_difference_is_found(joined: Joined) -> None:
    """The server's clock is ahead by 5 s; both ways take as long, so it is found to a millisecond."""
    mine, other = joined.clocks
    assert (mine.ahead_ns, other.reference) == (0, 0)
    assert abs(other.ahead_ns - AHEAD_NS) <= min(MS, other.uncertainty_ns), other
    starts = {(row["connection_id"], row["seq"]): row["started_ns"] for row in joined.exchanges.to_pylist()}
    for row in turns_of(joined, "client"):
        late = starts[row["peer_connection_id"], row["peer_seq"]] - row["started_ns"]
        assert 0 < late < row["total_ns"], "a request arrived before it left, or after its answer"


def test_the_sums_of_both_hosts_add_up(joined: Joined) -> None:
    rows = joined.exchanges.to_pylist()
    for row in rows:
        add_up(row)
    insist_on_shares(rows)


def test_the_report_joins_them(hosts: Hosts, tmp_path: Path) -> None:
    page = tmp_path / "both.html"
    done = run("report", str(hosts.client), str(hosts.server), "-o", str(page))
    assert done.returncode == 0, done.stderr
    text = re.sub(r"<[^>]+>", " ", page.read_text())
    assert re.search(r"The clock of server\.tct was ≈\s+5\.00\s*s\s+ahead of that of client\.tct", text)
    cells = f"1. client.tct {len(PORTS)} {len(PORTS)} 0 0 0 {len(PORTS) * TURNS} {len(PORTS) * TURNS}"
    assert cells in " ".join(text.split()), "ends, in another recording, ..., client exchanges, network exact"
