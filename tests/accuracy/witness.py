"""The witness: tcpdump in one namespace, and the handshakes in what it wrote."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tcptrace.errors import HostError, TcptraceError
from tcptrace.lab.namespaces import Namespace, stop
from tcptrace.lab.packet import ACK, RST, SYN, Segment, parse

NANOSECOND_MAGIC = 0xA1B23C4D
ETHERNET, RAW_IP = 1, 101
_FILE_HEADER = struct.Struct("=IHHiIII")
_PACKET_HEADER = struct.Struct("=IIII")
READY_SECONDS = 10.0


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(time in ns since 1970, IP packet) of each whole packet in a capture of this host.

    Raises:
        TcptraceError: it is no capture with nanosecond stamps of an Ethernet or TUN device.
    """
    if len(data) < _FILE_HEADER.size:
        return
    magic, _, _, _, _, _, link = _FILE_HEADER.unpack_from(data)
    if magic != NANOSECOND_MAGIC or link not in (ETHERNET, RAW_IP):
        raise TcptraceError(f"an unexpected capture: magic {magic:#x}, link type {link}")
    skip = 14 if link == ETHERNET else 0
    at = _FILE_HEADER.size
    while at + _PACKET_HEADER.size <= len(data):
        seconds, nanoseconds, length, _ = _PACKET_HEADER.unpack_from(data, at)
        at += _PACKET_HEADER.size
        if at + length > len(data):
            return  # still being written
        yield seconds * 1_000_000_000 + nanoseconds, data[at + skip : at + length]
        at += length


@dataclass
class Handshake:
    """Stamps of one connection's first packets in ns since 1970; -1 for a packet that was not seen."""

    syn_ns: int = -1
    synack_ns: int = -1
    ack_ns: int = -1
    repeated: bool = False
    """A packet of the handshake was seen twice: then no stamp is the right one."""


def handshakes(stamped: Iterator[tuple[int, bytes]]) -> dict[int, Handshake]:
    """By the client's port; for a capture of one server, in which no port is used twice."""
    found: dict[int, Handshake] = {}
    for at, packet in stamped:
        segment = parse(packet)
        if segment is not None:
            _note(found, segment, at)
    return found


def _note(found: dict[int, Handshake], segment: Segment, at: int) -> None:
    opening = segment.flags & (SYN | ACK)
    if opening == SYN:
        shake = found.setdefault(segment.source_port, Handshake())
        shake.repeated |= shake.syn_ns >= 0
        shake.syn_ns = at
    elif opening == SYN | ACK:
        shake = found.setdefault(segment.destination_port, Handshake())
        shake.repeated |= shake.synack_ns >= 0
        shake.synack_ns = at
    elif opening == ACK and not segment.flags & RST and segment.source_port in found:
        shake = found[segment.source_port]
        if shake.synack_ns >= 0 and shake.ack_ns < 0:
            shake.ack_ns = at


class Capture:
    """tcpdump on one device of a namespace, running while used as a context manager.

    It takes its stamps from the kernel's tap: an outgoing packet's when it is handed to the device, an
    incoming one's when the device hands it to the stack. It reads in blocks, so it wakes up seldom and
    does not disturb what is measured.
    """

    def __init__(self, space: Namespace, device: str) -> None:
        self._space, self._device = space, device
        self._directory = tempfile.TemporaryDirectory(prefix="tcptrace-capture-")
        self._path = Path(self._directory.name, "capture.pcap")
        self._messages = Path(self._directory.name, "messages")
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Capture:
        program = shutil.which("tcpdump", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if program is None:
            raise HostError("the packet capture needs tcpdump: apt install tcpdump")
        command = [
            program, "-i", self._device, "-p", "-n", "-U", "-s", "128", "-j", "host",
            "--time-stamp-precision=nano", "-Z", "root", "-w", str(self._path), "tcp",
        ]  # fmt: skip
        with self._messages.open("wb") as messages:
            self._child = self._space.popen(command, stdin=subprocess.DEVNULL, stderr=messages)
        self._wait(lambda: "listening on" in self._said(), READY_SECONDS, "tcpdump does not listen")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            stop(self._child)
        self._directory.cleanup()

    def handshakes(self, count: int, seconds: float = 10.0) -> dict[int, Handshake]:
        """The handshakes so far, once `count` are complete; tcpdump gets them a second late."""
        done: dict[int, Handshake] = {}

        def complete() -> bool:
            nonlocal done
            done = handshakes(packets(self._path.read_bytes()))
            return sum(shake.ack_ns >= 0 for shake in done.values()) >= count

        self._wait(complete, seconds, f"tcpdump did not see {count} handshakes")
        return done

    def _said(self) -> str:
        return self._messages.read_text(errors="replace")

    def _wait(self, condition: Callable[[], bool], seconds: float, failure: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            ended = self._child is None or self._child.poll() is not None
            if ended or time.monotonic() > deadline:
                raise TcptraceError(f"{failure} ({' '.join(self._said().split()) or 'it said nothing'})")
            time.sleep(0.05)
