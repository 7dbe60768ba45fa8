"""How the two parts of a scenario talk to each other, beside the traffic that is measured.

One connection, one line of JSON per message: through a Unix socket between namespaces, so that no fault of
the link touches it, and through TCP between machines. Whoever leaves is noticed by the other.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from typing import Any

from tcptrace.errors import TcptraceError
from tcptrace.lab.scenario import CONTROL_PORT

RETRY_SECONDS = 0.05
LONGEST_LINE = 1 << 26
"""In bytes: between machines, anybody may come to the port."""


class Control:
    """One end. `tell` sends a word with a value, `hear` waits for the next word, which must be the one.

    Raises:
        TcptraceError: the other part failed (its own words), is gone, or says something else.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._words: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def tell(self, word: str, value: Any = None) -> None:
        """Send a word."""
        try:
            self._connection.sendall(json.dumps({"word": word, "value": value}).encode() + b"\n")
        except OSError as error:
            raise TcptraceError(f"the other part of the scenario is gone ({error.strerror})") from error

    def hear(self, word: str, seconds: float) -> Any:
        """Wait for a word and return its value."""
        try:
            said = self._words.get(timeout=seconds)
        except queue.Empty:
            raise TcptraceError(
                f"the other part of the scenario did not say {word!r} in {seconds:g} s"
            ) from None
        if said["word"] == "failed":
            self._words.put(said)  # nothing comes after it, however often one asks
            raise TcptraceError(str(said["value"]))
        if said["word"] != word:
            raise TcptraceError(f"the other part of the scenario said {said['word']!r} instead of {word!r}")
        return said["value"]

    def close(self) -> None:
        """The other part hears that we are gone."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _listen(self) -> None:
        try:
            with self._connection.makefile("rb") as lines:
                while line := lines.readline(LONGEST_LINE):
                    said = json.loads(line)
                    self._words.put({"word": str(said["word"]), "value": said["value"]})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # what it said before counts, then it is gone
        self._words.put({"word": "failed", "value": "the other part of the scenario is gone"})


def listen(address: str) -> socket.socket:
    """A listener at "unix:PATH", or on CONTROL_PORT of every address when `address` is empty.

    Raises:
        TcptraceError: it cannot be had.
    """
    try:
        if address:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(address.removeprefix("unix:"))
            listener.listen(1)
            return listener
        return socket.create_server(("", CONTROL_PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    except OSError as error:
        where = address or f"port {CONTROL_PORT}"
        raise TcptraceError(f"cannot listen at {where}: {error.strerror}") from error


def accept(listener: socket.socket, seconds: float) -> Control:
    """The other part, when it comes."""
    listener.settimeout(seconds)
    try:
        connection = listener.accept()[0]
    except TimeoutError:
        raise TcptraceError(f"no client came within {seconds:g} s") from None
    connection.settimeout(None)
    return Control(connection)


def connect(address: str, peer: str, seconds: float) -> Control:
    """The other part, at "unix:PATH" or at CONTROL_PORT of `peer`; tries until it is there."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if address:
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(address.removeprefix("unix:"))
            else:
                connection = socket.create_connection((peer, CONTROL_PORT), seconds)
                connection.settimeout(None)
            return Control(connection)
        except socket.gaierror as error:
            raise TcptraceError(f"{peer!r} is no address: {error.strerror}") from error
        except OSError as error:
            if time.monotonic() > deadline:
                raise TcptraceError(
                    f"no server part at {peer} port {CONTROL_PORT} ({error.strerror or error}): start "
                    "`tcptrace lab run NAME --role server` there"
                ) from error
            time.sleep(RETRY_SECONDS)
