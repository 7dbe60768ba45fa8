"""The few calls of libbpf.so.1 that tcptrace needs, typed, with errors as exceptions.

libbpf returns NULL or a negative errno; every wrapper here raises instead. What libbpf and the verifier
print is collected and shown only when something fails.
"""

import ctypes
import os
from collections import deque
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from tcptrace.errors import HostError, TcptraceError

LIBRARY = "libbpf.so.1"

_LOG_LINES = 2000
_log: deque[str] = deque(maxlen=_LOG_LINES)


class BpfError(TcptraceError):
    """A call of libbpf failed. `errno` is its error number, `log` what libbpf and the verifier said."""

    def __init__(self, what: str, errno: int) -> None:
        super().__init__(f"{what}: {os.strerror(errno) if errno > 0 else 'failed'}")
        self.errno = errno
        self.log = list(_log)


_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.vsnprintf.argtypes = [ctypes.c_char_p, c_size_t, c_char_p, c_void_p]


_DEBUG = 2  # LIBBPF_DEBUG: thousands of lines for each object, which say nothing of a failure
# the verifier's log of one failed load is one message of up to megabytes: its end says why
_message = ctypes.create_string_buffer(1 << 20)


def _collect(level: int, template: bytes, arguments: int | None) -> int:
    if level < _DEBUG:
        _libc.vsnprintf(_message, len(_message), template, arguments)
        _log.extend(_message.value.decode(errors="replace").splitlines())
    return 0


_print = _PRINT(_collect)  # kept: libbpf calls it as long as it lives

# name -> (result type, argument types)
_CALLS: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_set_print": (c_void_p, [c_void_p]),
    "libbpf_major_version": (c_uint32, []),
    "libbpf_minor_version": (c_uint32, []),
    "libbpf_num_possible_cpus": (c_int, []),
    "bpf_prog_load": (c_int, [c_uint32, c_char_p, c_char_p, c_void_p, c_size_t, c_void_p]),
    "bpf_object__open_file": (c_void_p, [c_char_p, c_void_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
    "bpf_object__next_map": (c_void_p, [c_void_p, c_void_p]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map__name": (c_char_p, [c_void_p]),
    "bpf_map__reuse_fd": (c_int, [c_void_p, c_int]),
    "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
    "bpf_map__set_autocreate": (c_int, [c_void_p, ctypes.c_bool]),
    "bpf_map__set_initial_value": (c_int, [c_void_p, c_void_p, c_size_t]),
    "bpf_program__name": (c_char_p, [c_void_p]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "bpf_program__set_autoload": (c_int, [c_void_p, ctypes.c_bool]),
    "bpf_program__attach": (c_void_p, [c_void_p]),
    "bpf_program__attach_iter": (c_void_p, [c_void_p, c_void_p]),
    "bpf_link__fd": (c_int, [c_void_p]),
    "bpf_link__destroy": (c_int, [c_void_p]),
    "bpf_iter_create": (c_int, [c_int]),
    "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
    "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, POINTER(c_uint32)]),
    "btf__load_vmlinux_btf": (c_void_p, []),
    "btf__free": (None, [c_void_p]),
    "btf__find_by_name_kind": (ctypes.c_int32, [c_void_p, c_char_p, c_uint32]),
    "btf__type_by_id": (c_void_p, [c_void_p, c_uint32]),
    "btf__name_by_offset": (c_char_p, [c_void_p, c_uint32]),
}


@cache
def library() -> ctypes.CDLL:
    """libbpf.so.1, its log collected. Raises HostError when it is missing or too old."""
    try:
        lib = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError:
        old = _loads("libbpf.so.0")
        raise HostError(
            f"{LIBRARY} is missing{' (only libbpf 0.x is here)' if old else ''}, so no eBPF program can be "
            "loaded: apt install libbpf1"
        ) from None
    for name, (result, arguments) in _CALLS.items():
        try:
            function = getattr(lib, name)
        except AttributeError:
            raise HostError(f"{LIBRARY} lacks {name}: install libbpf 1.0 or later") from None
        function.restype, function.argtypes = result, arguments
    lib.libbpf_set_print(_print)
    return lib


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def version() -> str:
    lib = library()
    return f"{lib.libbpf_major_version()}.{lib.libbpf_minor_version()}"


def possible_cpus() -> int:
    return int(library().libbpf_num_possible_cpus())


def pointer(result: int | None, what: str) -> int:
    """A pointer that a call returned. Raises BpfError instead of NULL."""
    if not result:
        raise BpfError(what, ctypes.get_errno())
    return result


def _status(result: int, what: str) -> int:
    if result < 0:
        raise BpfError(what, ctypes.get_errno() or -result)
    return result


class Map:
    """A loaded map. Keys and values are bytes of exactly the map's sizes."""

    def __init__(self, name: str, fd: int) -> None:
        self.name, self.fd = name, fd

    def update(self, key: bytes, value: bytes) -> None:
        _status(library().bpf_map_update_elem(self.fd, key, value, 0), f"map {self.name}")

    def info(self) -> dict[str, int]:
        """type, key_size, value_size and max_entries (struct bpf_map_info begins with them)."""
        words = (c_uint32 * 6)()
        size = c_uint32(ctypes.sizeof(words))
        _status(library().bpf_obj_get_info_by_fd(self.fd, words, byref(size)), f"map {self.name}")
        names = ("type", "id", "key_size", "value_size", "max_entries")
        return {name: int(word) for name, word in zip(names, words, strict=False)}

    def lookup(self, key: bytes, size: int) -> bytes:
        """The value under `key`; `size` is the value's size, times the possible CPUs for a per-CPU map."""
        value = ctypes.create_string_buffer(size)
        _status(library().bpf_map_lookup_elem(self.fd, key, value), f"map {self.name}")
        return value.raw


class _ProgramInfo(ctypes.Structure):
    """struct bpf_prog_info up to verified_insns (include/uapi/linux/bpf.h); it only ever grows."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", c_uint32),
        ("xlated_prog_len", c_uint32),
        ("jited_prog_insns", c_uint64),
        ("xlated_prog_insns", c_uint64),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", ctypes.c_char * 16),
        ("ifindex", c_uint32),
        ("gpl_compatible", c_uint32),
        ("netns_dev", c_uint64),
        ("netns_ino", c_uint64),
        ("nr_jited_ksyms", c_uint32),
        ("nr_jited_func_lens", c_uint32),
        ("jited_ksyms", c_uint64),
        ("jited_func_lens", c_uint64),
        ("btf_id", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("func_info", c_uint64),
        ("nr_func_info", c_uint32),
        ("nr_line_info", c_uint32),
        ("line_info", c_uint64),
        ("jited_line_info", c_uint64),
        ("nr_jited_line_info", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("jited_line_info_rec_size", c_uint32),
        ("nr_prog_tags", c_uint32),
        ("prog_tags", c_uint64),
        ("run_time_ns", c_uint64),
        ("run_cnt", c_uint64),
        ("recursion_misses", c_uint64),
        ("verified_insns", c_uint32),
    ]


class Program:
    """A program of an open or loaded object."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self.name = library().bpf_program__name(handle).decode()
        self._link: int | None = None

    def set_autoload(self, wanted: bool) -> None:
        _status(library().bpf_program__set_autoload(self._handle, wanted), f"program {self.name}")

    def attach(self) -> None:
        self._link = pointer(
            library().bpf_program__attach(self._handle), f"program {self.name} cannot attach"
        )

    def attach_iterator(self) -> None:
        link = library().bpf_program__attach_iter(self._handle, None)
        self._link = pointer(link, f"program {self.name} cannot attach")

    def iterate(self) -> None:
        """Runs an attached iterator once, over the caller's network namespace."""
        if self._link is None:
            raise ValueError(f"{self.name} is not attached")
        lib = library()
        fd = _status(lib.bpf_iter_create(lib.bpf_link__fd(self._link)), f"program {self.name} cannot run")
        try:
            # EAGAIN: the kernel pauses after a million sockets
            while True:
                try:
                    if not os.read(fd, 4096):
                        return
                except BlockingIOError:
                    continue
        finally:
            os.close(fd)

    def detach(self) -> None:
        if self._link is not None:
            library().bpf_link__destroy(self._link)
            self._link = None

    @property
    def attached(self) -> bool:
        return self._link is not None

    def statistics(self) -> dict[str, int | None]:
        """run_count and run_time_ns (null while kernel.bpf_stats_enabled is off), and recursion_misses."""
        info = _ProgramInfo()
        size = c_uint32(ctypes.sizeof(info))
        fd = library().bpf_program__fd(self._handle)
        _status(library().bpf_obj_get_info_by_fd(fd, byref(info), byref(size)), f"program {self.name}")
        counting = _counts_runs()
        return {
            "run_count": int(info.run_cnt) if counting else None,
            "run_time_ns": int(info.run_time_ns) if counting else None,
            "recursion_misses": int(info.recursion_misses),
        }


def _counts_runs() -> bool:
    try:
        return Path("/proc/sys/kernel/bpf_stats_enabled").read_text().strip() != "0"
    except OSError:
        return False


class Object:
    """An eBPF object file. Closing it unloads everything. Raises BpfError."""

    def __init__(self, path: os.PathLike[str]) -> None:
        _log.clear()
        self.name = os.path.basename(path)
        handle = library().bpf_object__open_file(os.fsencode(path), None)
        self._handle: int | None = pointer(handle, f"cannot open {os.fspath(path)}")
        self.programs: dict[str, Program] = {}
        current = library().bpf_object__next_program(self._handle, None)
        while current:
            program = Program(current)
            self.programs[program.name] = program
            current = library().bpf_object__next_program(self._handle, current)

    def _map(self, name: str) -> int:
        handle = library().bpf_object__find_map_by_name(self._handle, name.encode())
        return pointer(handle, f"map {name} is missing")

    def set_max_entries(self, name: str, entries: int) -> None:
        _status(library().bpf_map__set_max_entries(self._map(name), entries), f"map {name}")

    def set_autocreate(self, name: str, wanted: bool) -> None:
        _status(library().bpf_map__set_autocreate(self._map(name), wanted), f"map {name}")

    def set_initial_value(self, name: str, value: bytes) -> None:
        _status(library().bpf_map__set_initial_value(self._map(name), value, len(value)), f"map {name}")

    def map_names(self) -> list[str]:
        """Those of the object's own data begin with a dot, or have one."""
        names, current = [], library().bpf_object__next_map(self._handle, None)
        while current:
            names.append(library().bpf_map__name(current).decode())
            current = library().bpf_object__next_map(self._handle, current)
        return names

    def reuse(self, name: str, fd: int) -> None:
        """Before loading: this map is to be one that exists already."""
        _status(library().bpf_map__reuse_fd(self._map(name), fd), f"map {name}")

    def load(self) -> None:
        _status(library().bpf_object__load(self._handle), "the kernel refuses the eBPF programs")

    def map(self, name: str) -> Map:
        return Map(name, _status(library().bpf_map__fd(self._map(name)), f"map {name}"))

    def close(self) -> None:
        if self._handle is not None:
            for program in self.programs.values():
                program.detach()
            library().bpf_object__close(self._handle)
            self._handle = None


__all__ = ["BpfError", "Map", "Object", "Program", "library", "possible_cpus", "version"]
