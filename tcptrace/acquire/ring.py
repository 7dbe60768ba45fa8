"""Ring buffers read as columns.

The kernel maps a ring's data pages twice in a row, so records that wrap around are contiguous, and every
ring here holds records of one size whose slot (record plus the 8-byte header) is a power of two. Together
that makes the pending part of a ring one numpy array: no Python runs per record. Layout and protocol:
kernel/bpf/ringbuf.c. Loads and stores of aligned 64-bit words are ordered on x86-64, the one architecture
that a wheel is built for.
"""

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from tcptrace.errors import TcptraceError

BUSY = 1 << 31  # BPF_RINGBUF_BUSY_BIT
DISCARDED = 1 << 30  # BPF_RINGBUF_DISCARD_BIT
HEADER_BYTES = 8

Records = npt.NDArray[np.void]
Positions = npt.NDArray[np.uint64]


class RingError(TcptraceError):
    """The ring's positions or lengths are impossible: its memory is not what it should be."""


def slot_dtype(record: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of one slot: {length, page_offset, record}. ValueError when it is no power of two."""
    size = record.itemsize + HEADER_BYTES
    if size & (size - 1):
        raise ValueError(f"a slot of {size} bytes does not tile a ring")
    return np.dtype([("length", "<u4"), ("page_offset", "<u4"), ("record", record)])


def drain(
    consumer: Positions, producer: Positions, data: npt.NDArray[np.uint8], slot: np.dtype[Any]
) -> Records:
    """Takes every finished record out of a ring and moves its consumer position on.

    `consumer` and `producer` have one element, the byte positions; `data` is the doubly mapped ring, twice
    its size. Stops at the first record that is still being written; skips discarded ones. Returns a copy,
    shape (n,), of the records. Raises RingError.
    """
    size = len(data) // 2
    start, end = int(consumer[0]), int(producer[0])
    pending = end - start
    if not 0 <= pending <= size or start % slot.itemsize or pending % slot.itemsize:
        raise RingError(f"ring buffer of {size} bytes has positions {start} and {end}")
    offset = start & (size - 1)
    slots = data[offset : offset + pending].view(slot)
    lengths = slots["length"]
    busy = lengths >= BUSY
    if busy.any():
        slots = slots[: int(busy.argmax())]
        lengths = slots["length"]
    taken = len(slots)
    discarded = lengths >= DISCARDED  # no busy one is left
    if discarded.any():
        slots = slots[~discarded]
    if (slots["length"] != slot["record"].itemsize).any():
        raise RingError(f"ring buffer of {size} bytes holds a record of another size")
    # As opaque bytes: numpy copies a record field by field, which takes eight times as long.
    records: Records = slots.view(f"V{slot.itemsize}").copy().view(slot)["record"]
    consumer[0] = start + taken * slot.itemsize
    return records


class Ring:
    """A kernel ring buffer of `size_bytes` (a power of two, whole pages), mapped through its map's fd."""

    def __init__(self, fd: int, size_bytes: int, record: np.dtype[Any]) -> None:
        page = mmap.PAGESIZE
        self.size_bytes = size_bytes
        self._slot = slot_dtype(record)
        self._consumer_page = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._producer_pages = mmap.mmap(
            fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._consumer: Positions = np.frombuffer(self._consumer_page, np.uint64, 1)
        self._producer: Positions = np.frombuffer(self._producer_pages, np.uint64, 1)
        self._data: npt.NDArray[np.uint8] = np.frombuffer(
            self._producer_pages, np.uint8, 2 * size_bytes, page
        )

    def drain(self) -> Records:
        return drain(self._consumer, self._producer, self._data, self._slot)

    def fill(self) -> float:
        """The share of the ring that waits to be read, 0 to 1."""
        return (int(self._producer[0]) - int(self._consumer[0])) / self.size_bytes
