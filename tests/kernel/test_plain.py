"""The plain object as a whole, where the main one is taken as well: both say the same of the same traffic.

So the programs for old kernels are tested also where there is none.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from conftest import require
from drive import SERVER, ack_at_once, connect, linger_zero, listen, pair_of, receive, wait_closed
from inside import Recorded
from lacking import PATIENCE
from recording import Row, run
from tcptrace.acquire import kernel, loader, objects
from tcptrace.lab.namespaces import SIDE_B, Namespace

pytestmark = pytest.mark.usefixtures("can_record")

Wired = tuple[Namespace, Namespace]
Key = tuple[Any, ...]

APART_NS = 20_000_000 * PATIENCE
"""Two programs at one hook run one after the other."""
OF_THE_RECORDING = {"connection_id", "peer_connection_id", "cookie"}
"""Columns that each recording gives values of its own."""
RUNS = 3


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Makes the loader use the plain object and no other, or what it would use."""

    def use(whole: bool) -> None:
        if whole:
            monkeypatch.setattr(loader, "_variants", lambda: iter([(objects.PLAIN, objects.WHOLE_VARIANT)]))
        else:
            monkeypatch.undo()

    return use


def take_turns(client: socket.socket, server: socket.socket, turns: int) -> None:
    """Requests of 100 bytes, each answered by 20,300 in two writes."""
    for _ in range(turns):
        client.sendall(b"q" * 100)
        assert len(receive(server, 100)) == 100
        server.sendall(b"a" * 300)
        server.sendall(b"a" * 20_000)
        assert len(receive(client, 20_300)) == 20_300


def hold_back(client: socket.socket, server: socket.socket) -> None:
    """A request of two small writes: Nagle holds the second until the first is acknowledged."""
    client.sendall(b"q" * 50)
    client.sendall(b"q" * 50)
    assert len(receive(server, 100)) == 100
    server.sendall(b"a")
    assert receive(client, 1) == b"a"


def traffic(a: Namespace, b: Namespace) -> None:
    """Turns, ends by either side, a hold, a reset and a refusal. All is over when it returns."""
    client, server = pair_of(a, b)
    take_turns(client, server, 3)
    client.close()  # first
    assert receive(server, 1) == b""
    server.close()
    client, server = pair_of(a, b, family=socket.AF_INET6)
    hold_back(client, server)
    take_turns(client, server, 1)
    server.shutdown(socket.SHUT_WR)  # first, and the client goes on
    client.sendall(b"late")
    assert receive(server, 4) == b"late"
    assert receive(client, 1) == b""
    client.close()
    server.close()
    client, server = pair_of(a, b)
    linger_zero(client)
    client.close()
    with pytest.raises(ConnectionResetError):
        server.recv(1)
    server.close()
    with pytest.raises(ConnectionRefusedError):
        connect(a, SIDE_B.ipv4, SERVER + 1)
    wait_closed(b, SERVER)


def rows_of(recorded: Recorded, table: str) -> list[Row]:
    done = run(table, str(recorded.path), "--format", "ndjson")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def by_key(rows: list[Row], *names: str) -> dict[Key, Row]:
    """The rows by what tells them apart in either recording."""
    keyed = {tuple(row[name] for name in names): row for row in rows}
    assert len(keyed) == len(rows)
    return keyed


def differences(one: Row, other: Row) -> list[str]:
    """What two rows say differently: any value, or a time that is further off than the hooks can be."""
    found = []
    for name in one.keys() - OF_THE_RECORDING:
        left, right = one[name], other[name]
        times = name.endswith("_ns") and left is not None and right is not None
        if abs(left - right) > APART_NS if times else left != right:
            found.append(f"{name}: {left!r}, with the plain object {right!r}")
    return found


def compare(main: dict[Key, Row], plain: dict[Key, Row]) -> None:
    assert main.keys() == plain.keys()
    wrong = {key: found for key, row in main.items() if (found := differences(row, plain[key]))}
    assert not wrong, wrong


def exchanges_of(recorded: Recorded, connections: dict[Key, Row]) -> dict[Key, Row]:
    """By the key of their connection, instead of its id, and what tells them apart there."""
    ends = {row["connection_id"]: key for key, row in connections.items()}
    turns = [{**row, "end": ends[row["connection_id"]]} for row in rows_of(recorded, "exchanges")]
    return by_key(turns, "end", "side", "seq")


def record_both(a: Namespace, b: Namespace, folder: Path, plain: Callable[[bool], None]) -> list[Recorded]:
    """Both objects' recordings of the same traffic; a connection is open before and after."""
    with ExitStack() as stack:
        listener = stack.enter_context(listen(b, port=SERVER + 2))
        client = stack.enter_context(connect(a, SIDE_B.ipv4, SERVER + 2))
        server = stack.enter_context(listener.accept()[0])
        ack_at_once(server)
        recordings = [Recorded(folder / "main.tct", (a, b), {})]
        plain(True)
        recordings.append(Recorded(folder / "plain.tct", (a, b), {}))
        plain(False)
        with recordings[0], recordings[1]:
            take_turns(client, server, 2)
            traffic(a, b)
    return recordings


def test_both_objects_give_the_same_rows(wired: Wired, tmp_path: Path, plain: Callable[[bool], None]) -> None:
    require(kernel.can_compare_and_swap(), "this kernel takes the plain object alone", "compare-and-swap")
    for attempt in range(RUNS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        recordings = record_both(*wired, folder, plain)
        losses = [recording.losses for recording in recordings]
        # what the kernel skips elsewhere on the host, see docs/adr/0002-journal.md
        assert all(cause.startswith("recursion.") for lost in losses for cause in lost), losses
        if not any(losses):
            break
    else:
        pytest.fail(f"in each of {RUNS} runs the kernel skipped a program: {losses}")
    headers = [json.loads(run("info", str(one.path), "--json").stdout)["header"] for one in recordings]
    assert [header["object"] for header in headers] == ["lifecycle.bpf.o", "plain.bpf.o"]
    assert headers[1]["variant"] == objects.WHOLE_VARIANT
    assert headers[0]["hooks"] == headers[1]["hooks"]
    connections = [
        by_key(rows_of(one, "connections"), "netns", "local_port", "remote_port") for one in recordings
    ]
    assert len(connections[0]) == 9
    compare(*connections)
    assert {row["close_reason"] for row in connections[1].values()} == {
        "fin", "open", "reset_sent", "reset_received", "refused",
    }  # fmt: skip
    exchanges = [exchanges_of(*both) for both in zip(recordings, connections, strict=True)]
    assert len(exchanges[0]) == 2 * (2 + 3 + 2)
    compare(*exchanges)
    assert sum(row["nagle_ns"] or 0 for row in exchanges[1].values()) > 0
