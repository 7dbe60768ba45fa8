"""The order system of the scenarios `orders-*`: orders of 50 bytes, each confirmed by 50 bytes."""

from __future__ import annotations

import selectors
import socket
import threading
import time

from tcptrace.lab.part import Part, punctual, receive

HEADER, BODY = 20, 30
ORDER = CONFIRMATION = HEADER + BODY
MATCHING_NS = 100_000
"""How long the server works on an order."""


def write(one: socket.socket, *, pieces: bool = False) -> None:
    """Send an order: in one write, or its header and its body in two."""
    if pieces:
        one.sendall(bytes(HEADER))
        one.sendall(bytes(BODY))
    else:
        one.sendall(bytes(ORDER))


def place(one: socket.socket, *, pieces: bool = False) -> int:
    """Send an order and wait for its confirmation. Returns how long that took, ns."""
    begin = time.monotonic_ns()
    write(one, pieces=pieces)
    receive(one, CONFIRMATION)
    return time.monotonic_ns() - begin


def confirm(part: Part) -> None:
    """The server: confirms every order on every port of the scenario, one after the other, until the process
    ends. One thread for all, so that accepting a connection costs next to nothing beside the handshake."""
    punctual()
    selector = selectors.DefaultSelector()
    for port in part.ports:
        selector.register(part.listen(port), selectors.EVENT_READ, None)
    threading.Thread(target=_confirm, args=(selector,), daemon=True).start()


def _confirm(selector: selectors.BaseSelector) -> None:
    while True:
        for key, _ in selector.select():
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            if key.data is None:
                one = ready.accept()[0]
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(one, selectors.EVENT_READ, bytearray())
            elif not _serve(ready, key.data):
                selector.unregister(ready)
                ready.close()


def _serve(one: socket.socket, received: bytearray) -> bool:
    """Take in what came and confirm each whole order. False at the client's end."""
    try:
        data = one.recv(65536)
        received += data
        while len(received) >= ORDER:
            del received[:ORDER]
            until = time.monotonic_ns() + MATCHING_NS
            while time.monotonic_ns() < until:
                pass
            one.sendall(bytes(CONFIRMATION))
    except ConnectionError:
        return False
    return bool(data)
