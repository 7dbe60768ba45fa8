"""What the lifecycle tests share: a connection with its stopwatch and what is known of its ends' rows."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from drive import (
    LIMIT_SECONDS,
    SERVER,
    ack_at_once,
    agreed,
    connect,
    listen,
    receive,
    wait_closed,
)
from recording import Between, Recording, Row, Stopwatch, ends, expect, finished
from tcptrace.lab.link import Link, Log
from tcptrace.lab.namespaces import SIDE_B, Namespace
from tcptrace.lab.packet import SYN

Wired = tuple[Namespace, Namespace]
Record = Callable[..., Recording]
MakeLink = Callable[..., Link]
MS = 1_000_000


def opening(log: Log) -> Log:
    """The SYNs and SYN-ACKs of a log, in the order of their arrival at the link."""
    chosen = log[(log["flags"] & SYN) != 0]
    return chosen[chosen["arrived_ns"].argsort()]


def close_both(client: socket.socket, server: socket.socket, spaces: Wired) -> None:
    """The client closes first; returns when the kernel is done with both."""
    port = client.getsockname()[1]
    ack_at_once(server)
    client.close()
    assert receive(server, 1) == b""
    wait_closed(spaces[0], port)
    server.close()
    wait_closed(spaces[1], SERVER)


RESET_SENT = {"close_reason": "reset_sent", "initiator": "local"}
RESET_RECEIVED = {"close_reason": "reset_received", "initiator": "remote"}
UNOWNED = {"pid": None, "comm": None}
"""Of a socket that nobody accepted, or that left for CLOSE in no system call of its owner."""
CLIENT_CLOSED = {"initiator": "local", "fin_wait1_ns": Between(0, 10_000 * MS)}
SERVER_FOLLOWED = {
    "initiator": "remote",
    "close_wait_ns": Between(0, 10_000 * MS),
    "last_ack_ns": Between(0, 10_000 * MS),
}


class Scene:
    """A recorded connection from a to b, its stopwatch, and what is known of both ends' rows at that point.

    Marks of the stopwatch: "connect", "accept", those of the methods, and the test's own.
    """

    def __init__(
        self, spaces: Wired, record: Record, target: str = SIDE_B.ipv4, family: int = socket.AF_INET
    ) -> None:
        self.a, self.b = spaces
        self.recording = record("--port", SERVER)
        self.watch = Stopwatch()
        with listen(self.b, family=family) as listener:
            with self.watch("connect"):
                self.client = connect(self.a, target)
            with self.watch("accept"):
                self.server = listener.accept()[0]
                self.server.settimeout(LIMIT_SECONDS)
        self.port = self.client.getsockname()[1]
        self.facts = agreed(self.client), agreed(self.server)
        self._bytes = [0, 0]

    def exchange(self, request: bytes = b"request", answer: bytes = b"an answer") -> None:
        self.client.sendall(request)
        assert receive(self.server, len(request)) == request
        self.server.sendall(answer)
        assert receive(self.client, len(answer)) == answer
        self._bytes[0] += len(request)
        self._bytes[1] += len(answer)

    def close_first(self, first: str) -> None:
        """One end, "client" or "server", closes ("close") and the other sees it ("eof")."""
        one, other = (self.client, self.server) if first == "client" else (self.server, self.client)
        ack_at_once(other)
        with self.watch("close"):
            one.close()
        with self.watch("eof"):
            assert receive(other, 1) == b""
            if first == "client":
                wait_closed(self.a, self.port)
            else:
                wait_closed(self.b, SERVER)

    def close(self) -> None:
        """The client closes first; see :func:`close_both`."""
        close_both(self.client, self.server, (self.a, self.b))

    def ends(self) -> tuple[Row, Row]:
        """Stop the recording; the client's row and the server's."""
        return ends(self.recording.stop(), self.a, self.b)

    def expect_client(self, row: Row, **known: Any) -> None:
        """Compare a whole row with what is known of the client's end; `known` comes last."""
        watch = self.watch
        common = {
            "local_port": self.port,
            "handshake_ns": watch.within("connect"),
            "syn_sent_ns": watch.within("connect"),
            "started_ns": watch.wall("connect"),
            "bytes_sent": self._bytes[0],
            "bytes_received": self._bytes[1],
            **self.facts[0],
        }
        expect(row, finished(self.a, "active", **{**common, **known}))

    def expect_server(self, row: Row, **known: Any) -> None:
        """Compare a whole row with what is known of the server's end; `known` comes last."""
        watch = self.watch
        common = {
            "remote_port": self.port,
            "handshake_ns": watch.within("connect+accept"),
            "syn_recv_ns": watch.within("connect+accept"),
            "started_ns": watch.wall("connect"),
            "bytes_sent": self._bytes[1],
            "bytes_received": self._bytes[0],
            **self.facts[1],
        }
        expect(row, finished(self.b, "passive", **{**common, **known}))

    def since_open(self, end: str, until: str) -> Between:
        """Bounds on the time in ESTABLISHED of an end, "client" or "server", until an instant."""
        return self.watch.gap("connect" if end == "client" else "connect+accept", until)

    def over(self) -> None:
        """Close what is open and wait until the kernel is done with both ends."""
        with self.watch("over"):
            for one in (self.client, self.server):
                one.close()
            wait_closed(self.a, self.port)
            wait_closed(self.b, SERVER)
