"""What the lifecycle tests share: a connection with its stopwatch and what is known of its ends' rows."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from drive import (
    SERVER,
    ack_at_once,
    agreed,
    connect,
    listen,
    receive,
    wait_closed,
)
from recording import Between, Recording, Stopwatch, finished
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


CLIENT_CLOSED = {"initiator": "local", "fin_wait1_ns": Between(0, 10_000 * MS)}
SERVER_FOLLOWED = {
    "initiator": "remote",
    "close_wait_ns": Between(0, 10_000 * MS),
    "last_ack_ns": Between(0, 10_000 * MS),
}


class Scene:
    """A connection from a to b, its stopwatch, and what is known of both ends' rows at that point."""

    def __init__(self, a: Namespace, b: Namespace) -> None:
        self.a, self.b = a, b
        self.watch = Stopwatch()
        self.listener = listen(b)
        with self.watch("connect"):
            self.client = connect(a, SIDE_B.ipv4)
        with self.watch("accept"):
            self.server = self.listener.accept()[0]
            self.server.settimeout(10)
        self.port = self.client.getsockname()[1]
        self._agreed = agreed(self.client), agreed(self.server)

    def exchange(self, request: bytes = b"request", answer: bytes = b"an answer") -> None:
        self.client.sendall(request)
        assert receive(self.server, len(request)) == request
        self.server.sendall(answer)
        assert receive(self.client, len(answer)) == answer

    def client_row(self, **known: Any) -> dict[str, Any]:
        watch = self.watch
        return finished(
            self.a,
            "active",
            **{
                "local_port": self.port,
                "handshake_ns": watch.within("connect"),
                "syn_sent_ns": watch.within("connect"),
                "started_ns": watch.wall("connect"),
                **self._agreed[0],
                **known,
            },
        )

    def server_row(self, **known: Any) -> dict[str, Any]:
        watch = self.watch
        return finished(
            self.b,
            "passive",
            **{
                "remote_port": self.port,
                "handshake_ns": watch.within("connect+accept"),
                "syn_recv_ns": watch.within("connect+accept"),
                "started_ns": watch.wall("connect"),
                **self._agreed[1],
                **known,
            },
        )

    def over(self) -> None:
        """Close what is open and wait until the kernel is done with both ends."""
        with self.watch("over"):
            for one in (self.client, self.server, self.listener):
                one.close()
            wait_closed(self.a, self.port)
            wait_closed(self.b, SERVER)
