"""The rate of this machine's time stamp counter, which an emulated guest reads as its own.

A guest's kernel measures it against an emulated timer while it boots. On a busy host it is descheduled
meanwhile, gets a wrong rate (three times too low has been seen), and its clock runs away. So it is told.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import time

# rdtsc; shl rdx, 32; or rax, rdx; ret
RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
SECONDS = 0.2


def tsc_khz() -> int | None:
    """kHz, within 0.01 % or so; None on a machine of another kind, or that forbids to find out."""
    if platform.machine() != "x86_64":
        return None
    try:
        code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    with code:
        code.write(RDTSC)
        address = ctypes.c_char.from_buffer(code)
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(address))
        begin_ns, begin = _together(read)
        time.sleep(SECONDS)
        end_ns, end = _together(read)
        del read, address  # else the mapping cannot be closed
    return round((end - begin) * 1_000_000 / (end_ns - begin_ns))


def _together(read: ctypes._CFunctionType) -> tuple[int, int]:
    """CLOCK_MONOTONIC in ns and the counter at one instant: the nearest of several readings."""
    tries = []
    for _ in range(20):
        before = time.monotonic_ns()
        ticks = int(read())
        after = time.monotonic_ns()
        tries.append((after - before, (before + after) // 2, ticks))
    return min(tries)[1:]
