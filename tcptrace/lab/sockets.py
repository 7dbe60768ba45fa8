"""What the parts of scenarios do to their sockets, beyond what Python's module has names for."""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from collections.abc import Callable

from tcptrace.errors import HostError, TcptraceError

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
TCP_REPAIR = 19
_POLL_SECONDS = 0.001


class _Instruction(ctypes.Structure):  # struct sock_filter of linux/filter.h
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):  # struct sock_fprog
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def ack_at_once(one: socket.socket) -> None:
    """What is not acknowledged yet is at once; the next segments may be, too."""
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def linger_zero(one: socket.socket) -> None:
    """close() will send a reset instead of a FIN, and forget what was not sent."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def go_silent(one: socket.socket) -> None:
    """From now on this end hears nothing and answers nothing, like a host without power: a filter drops
    what arrives for the socket, before TCP sees it. Does not keep it from sending."""
    nothing = _Instruction(code=0x06, k=0)  # BPF_RET | BPF_K: keep 0 bytes
    one.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(_Program(1, ctypes.pointer(nothing))))


def forget(one: socket.socket) -> None:
    """Take the connection away without a packet, like a host that restarts, and close the socket.

    Raises:
        HostError: the kernel has no TCP_REPAIR, or does not allow it (CAP_NET_ADMIN).
    """
    try:
        one.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    except OSError as error:
        raise HostError(
            f"a connection cannot be forgotten here: TCP_REPAIR: {error.strerror} (that takes root and "
            "CONFIG_CHECKPOINT_RESTORE)"
        ) from error
    one.close()


def until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait for a condition.

    Raises:
        TcptraceError: it did not come within so many seconds; `what` completes the sentence "... never".
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TcptraceError(f"{what} never within {seconds:g} s")
        time.sleep(_POLL_SECONDS)
