"""A provider that the kernel refuses changes the marks of its fact, and nothing else that is recorded.

Each fact in turn loses its provider over the same traffic, and whole rows are compared with those of a
recording that lacks nothing: every cell is as it was, or null where the fact's absence says so.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import require, why_no_lab, why_no_recording
from drive import SERVER, ack_at_once, connect, linger_zero, listen, pair_of, receive, wait_closed
from inside import Recorded
from objects import refused_object
from recording import Row, is_skip
from tcptrace import resources
from tcptrace.acquire import arrivals, kernel, loader
from tcptrace.acquire.preflight import preflight
from tcptrace.acquire.providers import ARRIVALS, BUDGET, LIFECYCLE, RUN_DELAY, Fact
from tcptrace.analysis.connections import connections
from tcptrace.analysis.exchanges import exchanges
from tcptrace.analysis.stages import UNATTRIBUTED
from tcptrace.errors import TcptraceError
from tcptrace.lab import namespaces
from tcptrace.lab.namespaces import SIDE_B, Namespace
from tcptrace.trace import reader

FACTS = [fact for fact in LIFECYCLE + BUDGET if not fact.required]
TURNS = 4
PAUSE_S = 0.005
OPEN, TALKING, CLOSING, RESETTING, NOBODY = range(SERVER, SERVER + 5)
"""Server ports: open all the time; of turns; closed by FIN; reset by the client; nobody listens."""

HOLDS = {f"{cause}_ns" for cause in ("nagle", "cork", "cwnd", "rwnd", "pacing", "sndbuf")}
HELD = {f"held_{cause}" for cause in HOLDS}
ARRIVAL = {"network_ns", "peer_ns", "kernel_rx_ns"}
WAITING = {"wakeup_ns", "app_late_ns"}
"""Of a thread's first turn also where its write was not seen: what it waited for a CPU before is unknown."""
NULL = {
    "reset sent": {"close_reason", "initiator"},
    "reset received": {"close_reason", "initiator"},
    "connections open before and after": {"left_censored"},
    "retransmission": {"loss_recovery_ns"},
    "write entered": {"app_ns", "kernel_tx_ns", "writes", *WAITING},
    "write returned": {"app_ns", "sndbuf_ns", "writes"},
    "segment reached TCP": {*ARRIVAL, "kernel_tx_ns", "network_exact", "delayed_ack", *HOLDS, *HELD},
    "data ready": {"kernel_rx_ns", *WAITING, "unread_ns"},
    "read": {"exchanges", "pipelined", "pattern", "unread_ns"},
    "read returned": {"reads"},
    ARRIVALS: {*ARRIVAL, "network_exact"},
    RUN_DELAY: WAITING,
}
"""Columns that are null, in some row at least, without a fact; without any other fact none is."""
ESTIMATED = {"left for the device": {"network_exact"}}
"""Marks that say no where there is an estimate instead."""
OTHER_PROVIDER = {"left for the device": "tp_btf/net_dev_queue"}
"""Facts that go on with another provider here."""

Rows = dict[tuple[Any, ...], Row]


def talk(a: Namespace, b: Namespace) -> None:
    """Turns with pauses, a close, a reset and a refused connection."""
    with contextlib.ExitStack() as stack:
        client, server = map(stack.enter_context, pair_of(a, b, port=TALKING))
        for _ in range(TURNS):
            client.sendall(bytes(50))
            time.sleep(PAUSE_S)
            assert len(receive(server, 50)) == 50
            time.sleep(PAUSE_S)
            server.sendall(bytes(200))
            time.sleep(PAUSE_S)
            assert len(receive(client, 200)) == 200
    client, server = pair_of(a, b, port=CLOSING)
    port = client.getsockname()[1]
    ack_at_once(server)
    client.close()
    assert receive(server, 1) == b""
    wait_closed(a, port)
    server.close()
    wait_closed(b, CLOSING)
    client, server = pair_of(a, b, port=RESETTING)
    linger_zero(client)
    client.close()
    with server, contextlib.suppress(ConnectionResetError):
        receive(server, 1)
    with pytest.raises(ConnectionRefusedError):
        connect(a, SIDE_B.ipv4, NOBODY)


def blurred(row: Row) -> Row:
    """A row in which what differs from run to run only says whether it is known."""
    differs = ("_ns", "_us", "_isn", "_id", "cookie", "_port", "netns", "segments_sent", "segments_received")
    return {
        column: "known" if value is not None and column.endswith(differs) else value
        for column, value in row.items()
    }


def recorded(path: Path, a: Namespace, b: Namespace) -> tuple[Rows, dict[str, Any]]:
    """The blurred rows of both tables, and the hooks by fact, of a recording of the traffic."""
    with listen(b, port=OPEN) as listener, connect(a, SIDE_B.ipv4, OPEN), listener.accept()[0]:
        recording = Recorded(path, (a, b), {})
        with recording:
            talk(a, b)
    assert all(is_skip(cause) for cause in recording.losses), recording.losses
    trace = reader.read(path)
    table = connections(trace)
    rows: Rows = {}
    ends: dict[int, tuple[int, int]] = {}
    for row in table.to_pylist():
        end = (min(row["local_port"], row["remote_port"]), int(row["netns"] == b.inode))
        ends[row["connection_id"]] = end
        assert end not in rows, "one connection to each port"
        rows[end] = blurred(row)
    for row in exchanges(trace, table).to_pylist():
        parts = [value for name, value in row.items() if name.endswith("_ns") and name in _PARTS]
        assert sum(part or 0 for part in parts) == row["total_ns"], row
        rows[*ends[row["connection_id"]], row["seq"]] = blurred(row)
    return rows, {hook["fact"]: hook for hook in trace.header["hooks"]}


_PARTS = {*ARRIVAL, *HOLDS, "app_ns", "kernel_tx_ns", "loss_recovery_ns", "wakeup_ns", "app_late_ns"} | {
    "transfer_ns",
    UNATTRIBUTED,
}


@pytest.fixture(scope="module")
def wired() -> Iterator[tuple[Namespace, Namespace]]:
    require(not why_no_lab(), why_no_lab())
    require(not why_no_recording(), why_no_recording())
    require(shutil.which("clang") is not None, "no clang: apt install clang")
    with namespaces.pair() as (a, b):
        yield a, b


@pytest.fixture(scope="module")
def whole(wired: tuple[Namespace, Namespace], tmp_path_factory: pytest.TempPathFactory) -> Rows:
    rows, hooks = recorded(tmp_path_factory.mktemp("whole") / "whole.tct", *wired)
    assert all(hook["exact"] and not hook["reason"] for hook in hooks.values()), hooks
    assert {end[0] for end in rows} == {OPEN, TALKING, CLOSING, RESETTING, NOBODY}
    assert len([end for end in rows if len(end) == 3]) == 2 * TURNS
    return rows


class Blind(kernel.KernelTypes):
    """A kernel that does not count what a task waits."""

    def has_member(self, struct: str, member: str) -> bool:
        return False


@pytest.fixture
def without(fact: Fact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best provider of this fact does not work."""
    programs = fact.providers[0].programs
    if programs:
        object_ = refused_object(tmp_path, *programs)
        monkeypatch.setattr(resources, "bpf_object", lambda name: object_)
    elif fact.name == RUN_DELAY:
        monkeypatch.setattr(kernel, "KernelTypes", Blind)
    else:

        def refused(self: arrivals.Arrivals) -> None:
            raise TcptraceError("receive timestamps cannot be switched on: Operation not permitted")

        monkeypatch.setattr(arrivals.Arrivals, "__init__", refused)
        monkeypatch.setattr(loader, "Arrivals", arrivals.Arrivals)


@pytest.mark.parametrize("fact", FACTS, ids=[fact.name for fact in FACTS])
def test_its_marks_change_and_no_other_cell(
    wired: tuple[Namespace, Namespace], whole: Rows, without: None, fact: Fact, tmp_path: Path
) -> None:
    rows, hooks = recorded(tmp_path / "without.tct", *wired)
    hook = hooks.pop(fact.name)
    assert hook["provider"] == OTHER_PROVIDER.get(fact.name)
    assert not hook["exact"] and hook["reason"]
    assert all(other["exact"] and not other["reason"] for other in hooks.values()), hooks

    wrong, null = [], set()
    for end, usual in whole.items():
        if end not in rows:
            nothing = fact.name == "read" and len(end) == 3
            nothing |= fact.name == "connections open before and after" and end[0] == OPEN
            if not nothing:
                wrong.append(f"{end}: no such row")
            continue
        for column, value in usual.items():
            if rows[end][column] is None and value is not None:
                null.add(column)
            elif column in ESTIMATED.get(fact.name, ()) and value is not None:
                if rows[end][column] is not False:
                    wrong.append(f"{end}: {column} is {rows[end][column]}")
            elif rows[end][column] != value:
                wrong.append(f"{end}: {column} is {rows[end][column]!r}, else {value!r}")
    wrong += [f"{end}: a row too many" for end in rows.keys() - whole.keys()]
    unexpected = null - NULL.get(fact.name, set())
    assert not wrong and not unexpected, "\n".join([f"null: {sorted(unexpected)}", *wrong])


@pytest.mark.parametrize("fact", [FACTS[0], FACTS[-1]], ids=lambda fact: fact.name)
def test_doctor_says_what_a_recording_without_it_would_have(wired: object, fact: Fact) -> None:
    found = preflight({fact.name: "none"})
    assert found.ready
    hooks = {hook.fact: hook for hook in found.hooks}
    hook = hooks.pop(fact.name)
    assert (hook.provider, hook.exact) == (None, False)
    assert hook.reason == f"it was left out on purpose, so {fact.consequence}"
    assert all(other.provider and other.reason is None for other in hooks.values())
