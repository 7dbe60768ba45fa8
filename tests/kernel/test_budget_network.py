"""Network, peer and the server's own time against the relay's log and the server's clock.

The same turns are recorded twice at once: at both ends, and at the client's end alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from budget import Budget, column, insist_close, insist_on_shares, of, others, read_budget
from conftest import require, why_no_lab, why_no_recording
from drive import connect, listen
from recording import Recording
from tcptrace.lab import namespaces
from tcptrace.lab.link import Link
from tcptrace.lab.namespaces import SIDE_B, Namespace
from turns import MS, US, Carried, Turn, awake, carried, take_turn, without_jitter

TURNS = 11
DELAYS_MS = (1, 10, 50)
THINKS_MS = (0, 5, 50)
CASES = [(delay, think) for think in THINKS_MS for delay in DELAYS_MS]


@dataclass(frozen=True)
class Case:
    """One connection's turns: its client port, the clocks' truth and the relay's."""

    port: int
    turns: list[Turn]
    carried: Carried


@dataclass(frozen=True)
class Grid:
    a: Namespace
    b: Namespace
    cases: dict[tuple[int, int], Case]
    both: Budget
    client: Budget


def converse(link: Link) -> Iterator[tuple[tuple[int, int], int, list[Turn]]]:
    """One connection per case, one after the other: the link's delays go by the order of its flows."""
    with listen(link.b) as listener:
        for delay, think in CASES:
            with connect(link.a, SIDE_B.ipv4) as client, listener.accept()[0] as server:
                server.settimeout(10)
                turns = [take_turn(client, server, think_s=think / 1e3) for _ in range(TURNS)]
                yield (delay, think), client.getsockname()[1], turns


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    require(not why_no_lab(), why_no_lab())
    require(not why_no_recording(), why_no_recording())
    directory = tmp_path_factory.mktemp("grid")
    with contextlib.ExitStack() as stack:
        a, b = stack.enter_context(namespaces.pair(wired=False))
        link = without_jitter(
            stack.enter_context(Link(a, b, flow_delays_ns=[delay * MS for delay in DELAYS_MS]))
        )
        both = Recording(directory / "both.tct", of(a, b))
        stack.callback(both.abandon)
        alone = Recording(directory / "client.tct", of(a))
        stack.callback(alone.abandon)
        with awake():
            held = list(converse(link))
        link.stop()  # completes its log
        log = link.log()
        cases = {name: Case(port, turns, carried(log, port, TURNS)) for name, port, turns in held}
        yield Grid(a, b, cases, read_budget(both), read_budget(alone))


each_case = pytest.mark.parametrize(
    ("delay", "think"),
    CASES,
    ids=[f"{delay} ms each way, {think} ms at the server" for delay, think in CASES],
)


@each_case
def test_with_both_ends_network_peer_and_app_are_exact(grid: Grid, delay: int, think: int) -> None:
    case = grid.cases[delay, think]
    client = grid.both.turns(grid.a, case.port)
    server = grid.both.turns(grid.b, case.port)
    assert all(row["network_exact"] is True for row in client)
    insist_close("network_ns", column(client, "network_ns"), case.carried.network, 0.05, 100 * US)
    insist_close("peer_ns", column(client, "peer_ns"), case.carried.peer, 0.05, 100 * US)
    think_ns = np.array([turn.think_ns for turn in case.turns])
    insist_close("the server's app_ns", column(server, "app_ns"), think_ns, 0.05, 100 * US)


@each_case
def test_each_row_names_the_same_turn_at_the_other_end(grid: Grid, delay: int, think: int) -> None:
    case = grid.cases[delay, think]
    client = grid.both.turns(grid.a, case.port)
    server = grid.both.turns(grid.b, case.port)
    assert [row["seq"] for row in client] == [row["seq"] for row in server] == list(range(TURNS))
    for one, other in ((client, server), (server, client)):
        assert [(row["peer_connection_id"], row["peer_seq"]) for row in one] == [
            (row["connection_id"], row["seq"]) for row in other
        ]
    assert {(row["request_bytes"], row["response_bytes"]) for row in (*client, *server)} == {(100, 200)}
    assert {(row["writes"], row["reads"]) for row in (*client, *server)} == {(1, 1)}


@each_case
def test_from_one_end_the_sum_is_exact_and_the_split_an_estimate(grid: Grid, delay: int, think: int) -> None:
    case = grid.cases[delay, think]
    client = grid.client.turns(grid.a, case.port)
    assert all(row["network_exact"] is False for row in client)
    assert all(row["peer_connection_id"] is None and row["peer_seq"] is None for row in client)
    insist_close("network + peer", column(client, "network_ns", "peer_ns"), case.carried.wire, 0.05, 100 * US)
    insist_close("network_ns", column(client, "network_ns"), case.carried.network, 0.10, 200 * US)
    insist_close("peer_ns", column(client, "peer_ns"), case.carried.peer, 0.10, 200 * US)


@each_case
def test_the_totals_are_the_applications(grid: Grid, delay: int, think: int) -> None:
    """Both ends: what the tracer calls a turn is what the client waited for, and nothing else took time."""
    case = grid.cases[delay, think]
    waited = np.array([turn.total_ns for turn in case.turns])
    for budget in (grid.both, grid.client):
        client = budget.turns(grid.a, case.port)
        insist_close("total_ns", column(client, "total_ns"), waited, 0.05, 100 * US)
        rest = others(client, "network_ns", "peer_ns")
        insist_close("all but network and peer", rest, waited - case.carried.wire, 0.05, 200 * US)


def test_the_client_end_alone_is_recorded_where_asked(grid: Grid) -> None:
    assert {row["side"] for row in grid.client.exchanges} == {"client"}
    assert len(grid.client.exchanges) == TURNS * len(CASES)
    assert len(grid.both.exchanges) == 2 * TURNS * len(CASES)


@pytest.mark.parametrize("which", [lambda grid: grid.both, lambda grid: grid.client], ids=["both", "client"])
def test_little_is_unattributed(grid: Grid, which: Callable[[Grid], Budget]) -> None:
    insist_on_shares(which(grid).exchanges)
