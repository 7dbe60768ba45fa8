"""A small client and a small server with names of their own, for demonstrations.

    python -m tcptrace.lab.actors web serve 80 8080          # until SIGTERM; prints "ready"
    python -m tcptrace.lab.actors order-gw call 10.88.0.2 80 get=20 bye=5

A client's first line tells the server how their conversation goes; see :data:`CONVERSATIONS`. Each
process ends by itself after LIFE_SECONDS, whatever happened to the one that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import random
import select
import signal
import socket
import struct
import sys
import threading
import time

LIFE_SECONDS = 60
LIMIT_SECONDS = 20.0
PAUSES_SECONDS = (0.005, 0.06)
STREAM = bytes(200_000)
PR_SET_NAME = 15

CONVERSATIONS = {
    "get": "request, answer, the client closes",
    "bye": "request, answer, the server closes",
    "stream": "the client closes its half, 200 kB come back, the server closes",
    "abort": "request, answer, the client resets (linger 0)",
    "reset": "request, answer, the server resets (linger 0)",
    "unread": "request, answer, the client closes without reading: the kernel resets",
    "refused": "nobody listens",
    "stay": "request, answer, and the connection stays open until the client is stopped",
}


def serve(ports: list[int]) -> None:
    """Answer on these ports, IPv4 and IPv6, a thread per connection, until SIGTERM."""
    listeners = [_listen(port) for port in ports]
    print("ready", flush=True)
    while True:
        for listener in select.select(listeners, [], [])[0]:
            threading.Thread(target=_answer, args=(listener.accept()[0],), daemon=True).start()


def _listen(port: int) -> socket.socket:
    return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)


def _answer(one: socket.socket) -> None:
    # A reset from the other side is part of the play.
    with one, contextlib.suppress(ConnectionError):
        one.settimeout(LIFE_SECONDS)
        how = one.makefile("rb").readline().decode().strip()
        if how == "stream":
            while one.recv(4096):
                pass
            one.sendall(STREAM)
            return
        time.sleep(random.uniform(0.0, 0.004))  # what an application calls work
        one.sendall(b"answer\n")
        if how == "reset":
            _linger_zero(one)
        elif how != "bye":
            one.recv(1)


def call(address: str, port: int, name: str) -> None:
    """One conversation.

    Raises:
        OSError: it did not go as its name says.
    """
    try:
        one = socket.create_connection((address, port), LIMIT_SECONDS)
    except ConnectionRefusedError:
        if name == "refused":
            return
        raise
    with one:
        one.sendall(f"{name}\n".encode())
        if name == "stream":
            one.shutdown(socket.SHUT_WR)
        elif name == "unread":
            select.select([one], [], [], LIMIT_SECONDS)
            return
        if name in ("bye", "stream", "reset"):
            with contextlib.suppress(ConnectionResetError):
                while one.recv(65536):
                    pass
            return
        one.recv(100)
        if name == "abort":
            _linger_zero(one)
        elif name == "stay":
            print("ready", flush=True)
            signal.pause()


def _linger_zero(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def main(arguments: list[str]) -> int:
    """NAME serve PORT..., or NAME call ADDRESS PORT CONVERSATION=COUNT..."""
    name, role, *rest = arguments
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    signal.alarm(LIFE_SECONDS)
    if role == "serve":
        serve([int(port) for port in rest])
        return 0
    address, port, *steps = rest
    counts = [step.partition("=")[::2] for step in steps]
    calls = [conversation for conversation, count in counts for _ in range(int(count or 1))]
    random.shuffle(calls)
    for conversation in calls:
        time.sleep(random.uniform(*PAUSES_SECONDS))
        try:
            call(address, int(port), conversation)
        except OSError as error:
            print(f"{name}: {conversation} with {address} port {port}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
