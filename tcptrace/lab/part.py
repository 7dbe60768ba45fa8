"""One part of a scenario, server or client, in a process of its own.

    python -m tcptrace.lab.part NAME server|client '{"control": ..., "peer": ...}'

It is the same process between namespaces and between machines. What was noted, and what the kernel of each
namespace counted meanwhile, is one line of JSON on standard output at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tcptrace.errors import EXIT_FAILURE, EXIT_HOST, EXIT_OK, HostError, TcptraceError
from tcptrace.lab import control, kernel_counters
from tcptrace.lab.scenario import FIRST_PORT, Scenario, scenario

LIMIT_SECONDS = 20.0
LIFE_SECONDS = 240
PR_SET_NAME = 15
PUNCTUAL_PRIORITY = 5
"""Below the relay's: a network does not wait for its hosts."""


@dataclass(frozen=True)
class Setting:
    """What a part is told when it starts."""

    control: str = ""
    """"unix:PATH"; empty: TCP."""
    peer: str = ""
    """Address of the other end; the server need not know it."""
    peer6: str = ""
    """Its IPv6 address, where there is one."""
    slack: float = 1.0
    """How much more time everything may take than on a machine of its own."""
    wait_s: float = LIMIT_SECONDS
    """How long to wait for the other part to come."""

    @property
    def life_s(self) -> int:
        """How long a part may play before it is ended."""
        return int(LIFE_SECONDS * max(1.0, self.slack / 5))

    def as_json(self) -> str:
        return json.dumps(asdict(self))


class Part:
    """What `server` and `client` of a scenario work with.

    `peer`, `peer6`: the other end's addresses; `ports`: the scenario's, in order; `role`: whose part.
    """

    def __init__(self, role: str, setting: Setting, ports: list[int], link: control.Control) -> None:
        self.role = role
        self.peer, self.peer6 = setting.peer, setting.peer6
        self.ports = ports
        self.limit_s = LIMIT_SECONDS * max(1.0, setting.slack / 2)
        """For everything that must not take for ever: time-outs of sockets, waits."""
        self.life_s = setting.life_s
        self.notes: dict[str, Any] = {}
        self._link = link

    def note(self, what: str, value: Any) -> None:
        """Keep a value for the truth: notes of the same name make a list, in order."""
        self.notes.setdefault(what, []).append(value)

    def tell(self, word: str, value: Any = None) -> None:
        """Say a word to the other part."""
        self._link.tell(word, value)

    def hear(self, word: str) -> Any:
        """Wait for the other part's next word, which must be this one. Raises TcptraceError."""
        return self._link.hear(word, self.limit_s)

    def ready(self) -> None:
        """The server's: everything listens, the client's part begins."""
        self.tell("ready")

    def until_done(self) -> None:
        """The server's: the client's part is over. Words that nobody waited for are an error."""
        self._link.hear("done", self.life_s)

    def listen(self, port: int, backlog: int = 128) -> socket.socket:
        """A listener on a port, for IPv4 and IPv6."""
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)

    def connect(self, port: int, *, ipv6: bool = False, nodelay: bool = False) -> socket.socket:
        """A connection to the server, with a time-out."""
        one = self.unconnected(ipv6=ipv6)
        if nodelay:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.connect((self.peer6 if ipv6 else self.peer, port))
        return one

    def unconnected(self, *, ipv6: bool = False) -> socket.socket:
        """A socket of the peer's family, with a time-out."""
        one = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET)
        one.settimeout(self.limit_s)
        return one

    def serve(
        self,
        port: int,
        answer: Callable[[socket.socket], None],
        *,
        backlog: int = 128,
        receive_buffer: int | None = None,
    ) -> None:
        """Answer on a port in threads, one per connection, for as long as this process lives. The connection
        is closed when `answer` returns; that the client resets it is no failure. receive_buffer: bytes, which
        the kernel doubles and then leaves as they are."""
        listener = self.listen(port, backlog)
        if receive_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

        def one(connection: socket.socket) -> None:
            with connection, contextlib.suppress(ConnectionError):
                connection.settimeout(self.life_s)
                answer(connection)

        def accept() -> None:
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()


def receive(connection: socket.socket, count: int) -> bytes:
    """Exactly so many bytes. Raises TcptraceError at an early end."""
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise TcptraceError(f"the peer closed after {len(data)} of {count} bytes")
        data += more
    return data


def drain(connection: socket.socket) -> int:
    """Read up to the peer's FIN. Returns how many bytes."""
    count = 0
    while data := connection.recv(65536):
        count += len(data)
    return count


def punctual() -> None:
    """Let this thread, and those that it starts, go before ordinary processes: where fractions of a
    millisecond count, a busy host would measure itself. Without the right to, it stays as it is."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PUNCTUAL_PRIORITY))


@contextlib.contextmanager
def timed(part: Part, what: str) -> Iterator[None]:
    """Note how long a block takes, in ns of CLOCK_MONOTONIC, under `what`."""
    begin = time.monotonic_ns()
    yield
    part.note(what, time.monotonic_ns() - begin)


def play(chosen: Scenario, role: str, setting: Setting) -> dict[str, Any]:
    """Play a part to its end. Returns what was noted, by role: the client has the server's notes as well.
    In either's, `kernel` is what the kernel counted meanwhile.

    Raises:
        TcptraceError: it failed, or the other part did.
    """
    if chosen.private and not setting.control.startswith("unix:"):
        raise TcptraceError(f"{chosen.name} is played in namespaces of the lab alone")
    ports = [FIRST_PORT + number for number in range(chosen.ports)]
    listener = control.listen(setting.control) if role == "server" else None
    wait_s = setting.wait_s * max(1.0, setting.slack / 2)
    if listener:
        print("listening", flush=True)
        link = control.accept(listener, wait_s)
    else:
        link = control.connect(setting.control, setting.peer, wait_s)
    before = kernel_counters.read()
    part = Part(role, setting, ports, link)
    with contextlib.ExitStack() as stack:
        stack.callback(link.close)
        for name, value in chosen.sysctls.get(role, {}).items():
            stack.enter_context(sysctl(name, value))
        try:
            if role == "server":
                chosen.server(part)
            else:
                part.hear("ready")
                chosen.client(part)
                part.tell("done")
            _settle(ports, chosen.settle_s * max(1.0, setting.slack / 2))
            part.notes["kernel"] = kernel_counters.difference(before, kernel_counters.read())
        except BaseException as error:
            with contextlib.suppress(TcptraceError):
                link.tell("failed", f"the {role}: {error or type(error).__name__}")
            raise
        if role == "server":
            part.tell("bye", part.notes)
            return {role: part.notes}
        return {role: part.notes, "server": part.hear("bye")}


@contextlib.contextmanager
def sysctl(name: str, value: object) -> Iterator[None]:
    """Set a sysctl for the length of a block, and put it back. For a whole part: Scenario.sysctls.

    Raises HostError when this kernel has none of this name, or refuses the value.
    """
    path = Path("/proc/sys", *name.split("."))
    try:
        before = path.read_text()
        path.write_text(f"{value}\n")
    except OSError as error:
        raise HostError(f"sysctl {name} cannot be set to {value}: {error.strerror}") from error
    try:
        yield
    finally:
        path.write_text(before)


def _settle(ports: list[int], seconds: float) -> None:
    """Wait until no connection of these ports lives here: what is left then stays open."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and kernel_counters.living(ports):
        time.sleep(0.01)


def main(arguments: list[str]) -> int:
    """NAME server|client SETTING."""
    name, role, words = arguments
    setting = Setting(**json.loads(words))
    ctypes.CDLL(None).prctl(PR_SET_NAME, f"lab-{role}".encode(), 0, 0, 0)
    signal.alarm(setting.life_s)
    try:
        notes = play(scenario(name), role, setting)
    except (TcptraceError, OSError) as error:
        print(f"{name}, {role}: {error}", file=sys.stderr)
        return EXIT_HOST if isinstance(error, HostError) else EXIT_FAILURE
    print(json.dumps(notes), flush=True)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
