"""The walk over all sockets of the host: every network namespace is entered, iter/tcp runs in each.

An iterator sees only the namespace of the thread that runs it, so one thread of our own goes from
namespace to namespace; it ends afterwards and never serves anything else.
"""

import ctypes
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from tcptrace.acquire.filters import NAMED_NAMESPACES
from tcptrace.trace import wire

_CLONE_NEWNET = 0x40000000
_LISTINGS = 3
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Walk:
    """The namespaces that were entered, and those that were not and why."""

    inodes: list[int] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def _candidates() -> Iterator[str]:
    yield "/proc/self/ns/net"
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            yield f"/proc/{entry}/ns/net"
    with suppress(OSError):  # nobody has used `ip netns` yet
        for entry in os.listdir(NAMED_NAMESPACES):
            yield f"{NAMED_NAMESPACES}/{entry}"
    # namespaces bound elsewhere (containers' runtimes keep theirs where they like)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[3].startswith("net:["):
                yield _unescape(fields[4])


def _unescape(path: str) -> str:
    """A path as mountinfo has it: blanks and backslashes are written in octal (proc_pid_mountinfo(5))."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), path)


def namespaces() -> dict[int, str]:
    """inode -> a path to it, for each network namespace that a process or a mount keeps alive.

    One that only an open descriptor or a socket keeps alive is not found. Its connections are met when
    something happens to them; whether they were open before is then not known (left_censored is null).
    """
    found: dict[int, str] = {}
    for path in _candidates():
        inode = _inode(path)
        if inode is not None:
            found.setdefault(inode, path)
    return found


@cache
def _file_system() -> int:
    return os.stat("/proc/self/ns/net").st_dev


def _inode(path: str) -> int | None:
    try:
        status = os.stat(path)
    except OSError:
        return None  # the process has gone, or its namespace is not ours to see
    # else it is a name that `ip netns` left behind, with nothing mounted
    return status.st_ino if status.st_dev == _file_system() else None


def namespace_names() -> dict[int, str]:
    """inode -> name, for the namespaces that `ip netns` knows."""
    names: dict[int, str] = {}
    with suppress(OSError):
        for entry in os.scandir(NAMED_NAMESPACES):
            inode = _inode(entry.path)
            if inode is not None:
                names[inode] = entry.name
    return names


def walk(run: Callable[[], None]) -> Walk:
    """Calls `run` once in every network namespace. An error of `run` itself is raised here."""
    result = Walk()
    errors: list[BaseException] = []

    def visit() -> None:
        try:
            visit_all()
        except BaseException as error:  # handed to the caller's thread
            errors.append(error)

    def visit_all() -> None:
        with open("/proc/thread-self/ns/net") as own:
            here = os.fstat(own.fileno()).st_ino
            # without CAP_SYS_ADMIN even the own one is refused; those of other processes are not even seen
            if _libc.setns(own.fileno(), _CLONE_NEWNET):
                result.failed.append(f"any but {here}: {os.strerror(ctypes.get_errno())}")
        visited: set[int] = set()
        # the process behind a path may end before it is opened, and its namespace live on in another
        for _ in range(_LISTINGS):
            gone = False
            for inode, path in namespaces().items():
                if inode in visited:
                    continue
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError:
                    gone = True
                    continue
                visited.add(inode)
                try:
                    if inode != here and _libc.setns(fd, _CLONE_NEWNET):
                        result.failed.append(f"{inode}: {os.strerror(ctypes.get_errno())}")
                        continue
                    here = inode
                    run()
                    result.inodes.append(inode)
                finally:
                    os.close(fd)
            if not gone:
                return

    thread = threading.Thread(target=visit, name="tcptrace-walk")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result


def holders(limit: int = 65536) -> dict[bytes, bytes]:
    """Socket inode -> its holder, as key and value of the map `holders`.

    A socket that several processes hold has no one owner and is left out.
    """
    seen: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            descriptors = os.listdir(f"/proc/{entry}/fd")
        except OSError:
            continue  # it ended, or is not ours to look into
        for descriptor in descriptors:
            try:
                target = os.readlink(f"/proc/{entry}/fd/{descriptor}")
            except OSError:
                continue
            if target.startswith("socket:["):
                inode = int(target[8:-1])
                seen[inode] = int(entry) if seen.get(inode, int(entry)) == int(entry) else -1
    values: dict[int, bytes] = {}
    for pid in set(seen.values()) - {-1}:
        try:
            comm = Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n")
        except OSError:
            continue
        value = np.zeros((), wire.HOLDER)
        value["pid"], value["comm"] = pid, comm
        values[pid] = value.tobytes()
    owned = [(inode, pid) for inode, pid in seen.items() if pid in values]
    return {np.uint64(inode).tobytes(): values[pid] for inode, pid in owned[:limit]}
