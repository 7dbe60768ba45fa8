"""Receive timestamps: the kernel stamps every packet at its arrival while one socket asks for that.

net_enable_timestamp() in net/core/dev.c switches the stamps on for the whole host; a socket of its own that
receives nothing is enough. The stamps are of CLOCK_REALTIME; the programs need the offset to
CLOCK_MONOTONIC, which changes only when the wall clock is set.
"""

import socket
import time

from tcptrace.errors import TcptraceError

SO_TIMESTAMPNS = 35  # include/uapi/asm-generic/socket.h; the same on x86-64 and arm64


class Arrivals:
    """Stamps are on from construction to `close`. Raises TcptraceError where the kernel refuses."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        except OSError as error:
            raise TcptraceError(f"receive timestamps cannot be switched on: {error.strerror}") from error

    def close(self) -> None:
        self._socket.close()


def realtime_offset_ns() -> int:
    """CLOCK_REALTIME - CLOCK_MONOTONIC, of three readings the one that took least; some 100 ns accurate."""
    best = None
    for _ in range(3):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        wall = time.clock_gettime_ns(time.CLOCK_REALTIME)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        if best is None or after - before < best[0]:
            best = after - before, wall - (before + after) // 2
    assert best is not None
    return best[1]
