"""A bounded flood of SYNs from addresses that nobody has, for scenarios that stay inside namespaces.

The addresses are of 198.18.0.0/15, which is set aside for benchmarks (RFC 2544), and a packet may make one
hop only: no router passes it on.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass

from tcptrace.errors import HostError
from tcptrace.lab.packet import SYN, TCP

NETWORK = "198.18.0.0/15"
FIRST_ADDRESS, ADDRESSES = int.from_bytes(socket.inet_aton("198.18.0.0"), "big"), 1 << 17
HOPS = 1
WINDOW = 64_240
MOST_PACKETS = 10_000
MSS_OPTION = b"\x02\x04\x05\xb4"
_IP = struct.Struct("!BBHHHBBH4s4s")
_TCP = struct.Struct("!HHIIBBHHH")


@dataclass(frozen=True)
class Pace:
    """`burst` SYNs every `gap_s` seconds, for `seconds` at most."""

    burst: int
    gap_s: float
    seconds: float

    def __post_init__(self) -> None:
        assert self.burst * self.seconds / self.gap_s <= MOST_PACKETS, "a lesson, not an attack"


def syn(number: int, target: str, port: int) -> bytes:
    """The nth SYN to an IPv4 address and port, with its IP header: each from an address of its own, until
    after 131,072 they begin again."""
    source = (FIRST_ADDRESS + number % ADDRESSES).to_bytes(4, "big")
    source_port = 1024 + number % 60_000
    destination = socket.inet_aton(target)
    size = _TCP.size + len(MSS_OPTION)
    offset = size // 4 << 4
    header = _TCP.pack(source_port, port, number, 0, offset, SYN, WINDOW, 0, 0) + MSS_OPTION
    pseudo = struct.pack("!4s4sBBH", source, destination, 0, TCP, size)
    header = header[:16] + checksum(pseudo + header).to_bytes(2, "big") + header[18:]
    # The kernel fills in the length and the checksum of the IP header (raw(7)).
    return _IP.pack(0x45, 0, _IP.size + size, 0, 0, HOPS, TCP, 0, source, destination) + header


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Flood:
    """Sends SYNs in a thread while used as a context manager; `sent` counts them.

    Raises:
        HostError: not root.
    """

    def __init__(self, target: str, port: int, pace: Pace) -> None:
        self.sent = 0
        self._target, self._port, self._pace = target, port, pace
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        try:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        except PermissionError as error:
            raise HostError("a flood needs a raw socket, and that needs root: run it with sudo") from error

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Nothing is sent any more."""
        self._stopping.set()
        self._thread.join()
        self._socket.close()

    def wait(self, packets: int = MOST_PACKETS) -> None:
        """Until so many were sent, or it is over by itself."""
        while self._thread.is_alive() and self.sent < packets:
            time.sleep(0.002)

    def _run(self) -> None:
        end = time.monotonic() + self._pace.seconds
        while time.monotonic() < end and not self._stopping.wait(self._pace.gap_s):
            for _ in range(self._pace.burst):
                # A full device queue is no reason to end: such a SYN was never sent.
                with contextlib.suppress(OSError):
                    self._socket.sendto(syn(self.sent, self._target, self._port), (self._target, 0))
                    self.sent += 1
