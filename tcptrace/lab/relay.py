"""The child process of a link: carries packets between two TUN devices, late, by a script of what to lose
or to keep back.

`python -m tcptrace.lab.relay` reads its configuration, one line of JSON, from standard input, attaches
to both devices, prints `ready` and carries packets until SIGTERM, until its standard input closes (its
parent is gone) or until its life time is over. :class:`tcptrace.lab.link.Link` starts it.

Packets are carried as they are: no checksum, no field is touched. Each one that left or was dropped is
written to the log as one RECORD of fixed size; its instants are this process's own CLOCK_MONOTONIC:
`arrived` when the packet was read from one device, `left` just before it is written to the other.
Measured on two shared virtual cores: a delay of 10 ms is 10.06-10.2 ms, the log tells each packet's own.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import heapq
import json
import os
import signal
import struct
import sys
import time
from types import FrameType
from typing import Any

from tcptrace.lab.faults import Direction, Drop, Late, Script, from_json
from tcptrace.lab.namespaces import enter
from tcptrace.lab.packet import Segment, parse

RECORD = struct.Struct("<qqqqIIHHBBbB16s16s")
"""arrived_ns, left_ns (-1: dropped), flow (-1: no TCP), payload, sequence, acknowledgement, source_port,
destination_port, family (0: no TCP), flags, rule (-1: passed), direction (0 a to b, 1 b to a), source,
destination. :data:`tcptrace.lab.link.RECORD` is the same for numpy."""

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
PR_SET_TIMERSLACK = 29
POLLIN = 1
BURST = 64
DIRECTIONS: tuple[Direction, Direction] = ("ab", "ba")

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _PollFd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("returned", ctypes.c_short))


def attach(namespace: str, device: str) -> int:
    """Enter a namespace and attach to the TUN device that waits there. Returns its descriptor."""
    space = os.open(namespace, os.O_RDONLY)
    try:
        enter(space)
    finally:
        os.close(space)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    return tun


class Relay:
    """Two devices, a script, a queue ordered by departure and a log."""

    def __init__(self, devices: tuple[int, int], script: Script, log: int, mtu: int, log_limit: int) -> None:
        self.devices = devices
        self.script = script
        self.log = log
        self.size = mtu + 4
        self.records_left = log_limit
        self.stopping = False
        self._queue: list[tuple[int, int, int, bytes, tuple[Any, ...]]] = []
        self._serial = 0
        self._lines: list[bytes] = []

    def run(self, until_ns: int) -> None:
        """Carry packets until the deadline or until `stopping`."""
        self._poll_fds = (_PollFd * 3)(*(_PollFd(fd, POLLIN, 0) for fd in (*self.devices, 0)))
        while not self.stopping and time.monotonic_ns() < until_ns:
            self._deliver()
            self._wait(until_ns)
            for side in (0, 1):
                self._take(side)
            if self._poll_fds[2].returned and not os.read(0, 1):
                break
        self._flush()

    def _wait(self, until_ns: int) -> None:
        # At most a second: a SIGTERM just before the wait would otherwise go unseen until the next packet.
        due = min(until_ns, time.monotonic_ns() + 1_000_000_000)
        if self._queue:
            due = min(due, self._queue[0][0])
        left = due - time.monotonic_ns()
        if left > 500_000:
            self._flush()
            left = due - time.monotonic_ns()
        timeout = _Timespec(*divmod(max(left, 0), 1_000_000_000))
        if _libc.ppoll(self._poll_fds, 3, ctypes.byref(timeout), None) < 0:  # a signal: see `stopping`
            for poll_fd in self._poll_fds:
                poll_fd.returned = 0

    def _take(self, side: int) -> None:
        """Read what a device has, decide, and queue or drop."""
        if not self._poll_fds[side].returned:
            return
        direction = DIRECTIONS[side]
        for _ in range(BURST):
            try:
                packet = os.read(self.devices[side], self.size)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EIO, errno.EBADFD):  # empty, or the device is down
                    return
                raise
            now = time.monotonic_ns()
            segment = parse(packet)
            flow, rule, late_ns = self.script.decide(segment, direction, now) if segment else (None, -1, 0)
            facts = (now, flow.number if flow else -1, segment, rule, side)
            if rule >= 0:
                self._note(-1, facts)
            else:
                self._serial += 1
                entry = (now + self.script.delay_of(flow) + late_ns, self._serial, 1 - side, packet, facts)
                heapq.heappush(self._queue, entry)

    def _deliver(self) -> None:
        queue = self._queue
        while queue and queue[0][0] <= time.monotonic_ns():
            _, _, side, packet, facts = heapq.heappop(queue)
            left = time.monotonic_ns()
            try:
                os.write(self.devices[side], packet)
            except OSError as error:
                # The device is down or its queue is full: lost on the link, and the log says so.
                if error.errno not in (errno.EIO, errno.EAGAIN, errno.ENOBUFS, errno.EINVAL):
                    raise
                left = -1
            self._note(left, facts)

    def _note(self, left_ns: int, facts: tuple[Any, ...]) -> None:
        if not self.records_left:
            return
        self.records_left -= 1
        arrived, flow, segment, rule, side = facts
        tcp: Segment = segment or Segment(0, b"", b"", 0, 0, 0, 0, 0, 0)
        self._lines.append(
            RECORD.pack(
                arrived, left_ns, flow, tcp.payload, tcp.sequence, tcp.acknowledgement, tcp.source_port,
                tcp.destination_port, tcp.family, tcp.flags, rule, side, tcp.source, tcp.destination,
            )
        )  # fmt: skip

    def _flush(self) -> None:
        """Write the records at a moment when no packet is due: a disk must not delay a packet."""
        if self._lines:
            data = b"".join(self._lines)
            self._lines.clear()
            os.write(self.log, data)


def main() -> int:
    """Carry packets as one line of JSON on standard input says."""
    config: dict[str, Any] = json.loads(sys.stdin.readline())
    script = Script(
        from_json(Drop, config["drops"]),
        config["delay_ns"],
        config["flow_delays_ns"],
        from_json(Late, config["lates"]),
    )
    log = os.open(config["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    devices = (attach(*config["a"]), attach(*config["b"]))
    relay = Relay(devices, script, log, config["mtu"], config["log_limit"])

    def end(number: int, frame: FrameType | None) -> None:
        relay.stopping = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the parent, which stops us
    # The default slack of 50 us would be added to every departure.
    _libc.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    print("ready", flush=True)
    relay.run(time.monotonic_ns() + config["life_ns"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
