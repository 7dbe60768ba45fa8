"""What the running kernel has, by its own types (BTF) and by a program of four instructions."""

import ctypes
import os
import struct
from ctypes import c_uint32
from pathlib import Path

from tcptrace.acquire import libbpf
from tcptrace.errors import HostError

KPROBES = Path("/sys/bus/event_source/devices/kprobe")

_BTF_KIND_STRUCT, _BTF_KIND_ENUM, _BTF_KIND_TYPEDEF, _BTF_KIND_FUNC = 4, 6, 8, 12


class _BtfType(ctypes.Structure):
    """struct btf_type (include/uapi/linux/btf.h)."""

    _fields_ = [("name_off", c_uint32), ("info", c_uint32), ("size_or_type", c_uint32)]


class KernelTypes:
    """The running kernel's BTF: which tracepoints and functions exist; the names of enums."""

    def __init__(self) -> None:
        """Raises HostError where there is none."""
        handle = libbpf.library().btf__load_vmlinux_btf()
        if not handle:
            raise HostError(
                "this kernel has no readable BTF (/sys/kernel/btf/vmlinux), so the eBPF programs cannot be "
                "fitted to it: `tcptrace doctor` tells more"
            )
        self._btf: int = handle

    def close(self) -> None:
        libbpf.library().btf__free(self._btf)

    def _type(self, number: int) -> tuple[int, _BtfType]:
        address = libbpf.pointer(
            libbpf.library().btf__type_by_id(self._btf, number), "the kernel's BTF is damaged"
        )
        return address, _BtfType.from_address(address)

    def tracepoint_arguments(self, tracepoint: str) -> int | None:
        """How many arguments the tracepoint passes; None when this kernel has no such tracepoint."""
        name = f"btf_trace_{tracepoint}".encode()
        number = libbpf.library().btf__find_by_name_kind(self._btf, name, _BTF_KIND_TYPEDEF)
        if number < 0:
            return None
        for _ in range(2):  # typedef -> pointer -> function prototype
            number = self._type(number)[1].size_or_type
        return int(self._type(number)[1].info & 0xFFFF) - 1  # the first is the probe's own data

    def has_function(self, function: str) -> bool:
        """Whether this kernel has a function of this name that programs can be put at."""
        return int(libbpf.library().btf__find_by_name_kind(self._btf, function.encode(), _BTF_KIND_FUNC)) > 0

    def has_kprobes(self) -> bool:
        """Whether programs can be put at functions by breakpoints (CONFIG_KPROBE_EVENTS)."""
        return KPROBES.exists()

    def has_member(self, struct: str, member: str) -> bool:
        """Whether this kernel has a struct with such a member, at its top level."""
        number = libbpf.library().btf__find_by_name_kind(self._btf, struct.encode(), _BTF_KIND_STRUCT)
        if number < 0:
            return False
        address, entry = self._type(number)
        # struct btf_member: name_off, type, offset
        words = (c_uint32 * (3 * (entry.info & 0xFFFF))).from_address(address + ctypes.sizeof(_BtfType))
        name = libbpf.library().btf__name_by_offset
        return any(name(self._btf, offset) == member.encode() for offset in words[0::3])

    def enum_names(self, enum: str) -> dict[int, str]:
        """number -> name; empty when this kernel has no such enum."""
        number = libbpf.library().btf__find_by_name_kind(self._btf, enum.encode(), _BTF_KIND_ENUM)
        if number < 0:
            return {}
        address, entry = self._type(number)
        values = (c_uint32 * (2 * (entry.info & 0xFFFF))).from_address(address + ctypes.sizeof(_BtfType))
        name = libbpf.library().btf__name_by_offset
        return {values[i + 1]: name(self._btf, values[i]).decode() for i in range(0, len(values), 2)}


# r0 = 0; *(r10 - 8) = r0; r0 = cmpxchg(r10 - 8, r0, r0); exit (struct bpf_insn)
_COMPARE_AND_SWAP = b"".join(
    struct.pack("<BBhi", code, registers, offset, immediate)
    for code, registers, offset, immediate in (
        (0xB7, 0x00, 0, 0),
        (0x7B, 0x0A, -8, 0),
        (0xDB, 0x0A, -8, 0xF1),
        (0x95, 0x00, 0, 0),
    )
)
_SOCKET_FILTER = 1  # BPF_PROG_TYPE_SOCKET_FILTER: a kind that every kernel has


def can_compare_and_swap() -> bool:
    """Whether this kernel's programs may use atomic instructions that return a value."""
    lib, count = libbpf.library(), len(_COMPARE_AND_SWAP) // 8
    fd = lib.bpf_prog_load(_SOCKET_FILTER, b"probe", b"GPL", _COMPARE_AND_SWAP, count, None)
    if fd < 0:
        return False
    os.close(fd)
    return True
