"""Drivers of real sockets for the kernel tests: small, blocking, each with a time limit."""

from __future__ import annotations

import errno
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from lacking import PATIENCE
from tcptrace.lab.namespaces import SIDE_A, SIDE_B, Namespace

SERVER = 7700
"""The port of a test's server, in namespaces of its own."""
LIMIT_SECONDS = 10.0 * PATIENCE

TCP_INFO_STATE = {
    1: "established", 2: "syn_sent", 3: "syn_recv", 4: "fin_wait1", 5: "fin_wait2", 6: "time_wait",
    7: "close", 8: "close_wait", 9: "last_ack", 10: "listen", 11: "closing",
}  # fmt: skip


def address_of(side: str, family: int) -> str:
    """The address of side "a" or "b"."""
    addresses = SIDE_A if side == "a" else SIDE_B
    return addresses.ipv6 if family == socket.AF_INET6 else addresses.ipv4


def listen(
    space: Namespace,
    address: str = "",
    port: int = SERVER,
    *,
    family: int = socket.AF_INET,
    backlog: int = 64,
) -> socket.socket:
    """A listener in a namespace, on all its addresses unless told otherwise."""
    listener = space.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.settimeout(LIMIT_SECONDS)
    listener.bind((address, port))
    listener.listen(backlog)
    return listener


def connect(
    space: Namespace,
    address: str,
    port: int = SERVER,
    *,
    timeout: float = LIMIT_SECONDS,
    source: tuple[str, int] | None = None,
) -> socket.socket:
    """A connected client; connect() itself blocks, so that errors are those of the kernel."""
    client = space.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        if source:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(source)
        client.settimeout(timeout)
        client.connect((address, port))
    except BaseException:
        client.close()
        raise
    return client


def pair_of(
    a: Namespace, b: Namespace, *, family: int = socket.AF_INET, port: int = SERVER
) -> tuple[socket.socket, socket.socket]:
    """A client in a and the accepted server in b; the listener is closed again."""
    with listen(b, family=family, port=port) as listener:
        client = connect(a, address_of("b", family), port)
        server = listener.accept()[0]
        server.settimeout(LIMIT_SECONDS)
        return client, server


def receive(one: socket.socket, count: int) -> bytes:
    """Exactly so many bytes, or what came before the end."""
    data = b""
    while len(data) < count and (more := one.recv(count - len(data))):
        data += more
    return data


def linger_zero(one: socket.socket) -> None:
    """close() will send a RST."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def state_of(one: socket.socket) -> str:
    """The TCP state by TCP_INFO."""
    return TCP_INFO_STATE[one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]]


def agreed(one: socket.socket) -> dict[str, object]:
    """What the kernel itself says that the handshake agreed on, by TCP_INFO (linux/tcp.h)."""
    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
    options, scales = info[5], info[6]
    algorithm = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return {
        "timestamps": bool(options & 1),
        "sack": bool(options & 2),
        "ecn": bool(options & 8),
        "tfo": bool(options & 32),
        "snd_wscale": scales & 15,
        "rcv_wscale": scales >> 4,
        "congestion_control": algorithm.rstrip(b"\0").decode(),
    }


def wait_state(one: socket.socket, *states: str) -> None:
    """Wait until a socket is in one of these states."""
    poll(lambda: state_of(one) in states, f"{states}, but is {state_of(one)}")


def wait_readable(one: socket.socket) -> None:
    """Wait until a socket has data, an end or an error."""
    if not select.select([one], [], [], LIMIT_SECONDS)[0]:
        raise TimeoutError("nothing to read")


def poll(condition: Callable[[], bool], what: str = "the condition", seconds: float = LIMIT_SECONDS) -> None:
    """Wait for a condition; fail by name when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"never became {what}")
        time.sleep(0.001)


def sockets(space: Namespace) -> list[tuple[int, str, bool]]:
    """(local port, state, is a timewait socket) of every TCP socket of a namespace (proc_net_tcp.rst)."""
    # /proc/net is that of the process's first thread; the thread inside has its own.
    tables = [Path("/proc/thread-self/net", name) for name in ("tcp", "tcp6")]
    lines = space.run(lambda: [line for table in tables for line in table.read_text().splitlines()[1:]])
    found = []
    for line in lines:
        fields = line.split()
        port = int(fields[1].rpartition(":")[2], 16)
        found.append((port, TCP_INFO_STATE.get(int(fields[3], 16), "request"), fields[5].startswith("03")))
    return found


def wait_closed(space: Namespace, *ports: int) -> None:
    """Wait until no socket of a namespace but listeners and timewait sockets has one of these local ports."""

    def none_left() -> bool:
        return not any(
            port in ports and state != "listen" and not timewait for port, state, timewait in sockets(space)
        )

    poll(none_left, f"no socket left with ports {ports}")


def ack_at_once(one: socket.socket) -> None:
    """Without this the ACK of the peer's FIN may wait for, and leave with, our own."""
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def error_name(error: OSError) -> str:
    """ECONNRESET and the like."""
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def comm() -> str:
    """The name that the kernel has for this thread."""
    return Path("/proc/thread-self/comm").read_text().rstrip("\n")


class Background:
    """What goes on in a thread of its own during a `with` block; its error becomes the block's."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._errors: list[BaseException] = []

    def work(self) -> None:
        """To be defined; returns soon after `stopping` is set."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._thread.join()
        if self._errors:
            raise self._errors[0]

    def _run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self._errors.append(error)
