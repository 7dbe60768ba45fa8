"""io_uring for one operation at a time, by raw system calls (io_uring_setup(2), linux/io_uring.h)."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from typing import Self

SETUP, ENTER = 425, 426
GETEVENTS = 1
OFFSET_SQES = 0x1000_0000
SEND, RECV = 26, 27
_PARAMETERS = 120
_SQ_OFFSETS, _CQ_OFFSETS = 40, 80
_ENTRIES = 4

_libc = ctypes.CDLL(None, use_errno=True)


class Ring:
    """A ring of its own; :meth:`send` and :meth:`recv` submit one operation and wait for its end.

    Raises:
        OSError: the kernel has no io_uring or forbids it (kernel.io_uring_disabled).
    """

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(_PARAMETERS)
        self._fd = _libc.syscall(SETUP, _ENTRIES, parameters)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "io_uring_setup")
        sq = struct.unpack_from("7I", parameters, _SQ_OFFSETS)
        cq = struct.unpack_from("6I", parameters, _CQ_OFFSETS)
        self._sq_tail, self._sq_array = sq[1], sq[6]
        self._cq_head, self._cq_mask, self._cqes = cq[0], cq[2], cq[5]
        cq_entries = struct.unpack_from("I", parameters, 4)[0]
        # One mapping holds both rings (IORING_FEAT_SINGLE_MMAP, every kernel that has SEND and RECV).
        size = max(self._sq_array + _ENTRIES * 4, self._cqes + cq_entries * 16)
        self._rings = mmap.mmap(self._fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._sqes = mmap.mmap(
            self._fd, _ENTRIES * 64, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=OFFSET_SQES
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rings.close()
        self._sqes.close()
        os.close(self._fd)

    def send(self, descriptor: int, data: bytes) -> int:
        buffer = ctypes.create_string_buffer(data, len(data))
        return self._run(SEND, descriptor, buffer)

    def recv(self, descriptor: int, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        count = self._run(RECV, descriptor, buffer)
        return buffer.raw[:count]

    def _run(self, operation: int, descriptor: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
        address = ctypes.addressof(buffer)
        entry = struct.pack("<BBHiQQI36x", operation, 0, 0, descriptor, 0, address, len(buffer))
        self._sqes[:64] = entry
        (tail,) = struct.unpack_from("I", self._rings, self._sq_tail)
        struct.pack_into("I", self._rings, self._sq_array + tail % _ENTRIES * 4, 0)
        struct.pack_into("I", self._rings, self._sq_tail, (tail + 1) & 0xFFFFFFFF)
        if _libc.syscall(ENTER, self._fd, 1, 1, GETEVENTS, None, 0) < 0:
            raise OSError(ctypes.get_errno(), "io_uring_enter")
        (head,) = struct.unpack_from("I", self._rings, self._cq_head)
        (mask,) = struct.unpack_from("I", self._rings, self._cq_mask)
        result: int = struct.unpack_from("<Qi", self._rings, self._cqes + (head & mask) * 16)[1]
        struct.pack_into("I", self._rings, self._cq_head, (head + 1) & 0xFFFFFFFF)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result
