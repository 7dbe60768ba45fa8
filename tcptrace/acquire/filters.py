"""What to record: the filters of the command line, as the keys of the maps that the programs look into."""

import fcntl
import ipaddress
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from tcptrace.errors import UsageError
from tcptrace.trace import wire

NAMED_NAMESPACES = "/run/netns"

_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Filters:
    """Alternatives within one field; different fields all hold. Empty: everything."""

    ports: tuple[int, ...] = ()
    peers: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    comms: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "port": list(self.ports),
            "peer": list(self.peers),
            "pid": list(self.pids),
            "comm": list(self.comms),
            "netns": list(self.namespaces),
        }

    def keys(self) -> dict[str, list[bytes]]:
        """Map name -> keys, for the filters in use. Raises UsageError naming a value that is wrong."""
        found = {
            "wanted_ports": [np.uint32(port).tobytes() for port in self.ports],
            "wanted_peers": [prefix_key(peer) for peer in self.peers],
            "wanted_pids": [np.uint32(pid).tobytes() for pid in self.pids],
            "wanted_comms": [comm_key(comm) for comm in self.comms],
            "wanted_netns": [np.uint32(namespace_inode(name)).tobytes() for name in self.namespaces],
        }
        for name, keys in found.items():
            if len(keys) > 1024:
                raise UsageError(f"{len(keys)} values in {name.replace('_', ' ')}: 1024 is the most")
        return {name: keys for name, keys in found.items() if keys}


def prefix_key(text: str) -> bytes:
    """The longest-prefix key of an address or network; IPv4 as IPv4-mapped IPv6."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UsageError(f"--peer {text!r} is no address and no network such as 10.0.0.0/8") from None
    address, length = network.network_address.packed, network.prefixlen
    if network.version == 4:
        address, length = bytes(10) + b"\xff\xff" + address, length + 96
    key = np.zeros((), wire.PREFIX)
    key["prefix_len"] = length
    key["addr"] = np.frombuffer(address, np.uint8)
    return key.tobytes()


def comm_key(name: str) -> bytes:
    """A task name as the kernel keeps it: at most 15 bytes, the rest cut off."""
    data = os.fsencode(name)
    if not data or b"\0" in data:
        raise UsageError(f"--comm {name!r} is no process name")
    return data[:15].ljust(16, b"\0")


def namespace_inode(name: str) -> int:
    """The inode of a network namespace given as inode, name (ip netns) or path (/proc/PID/ns/net)."""
    if name.isdecimal() and int(name) < 1 << 32:
        return int(name)
    path = name if "/" in name else f"{NAMED_NAMESPACES}/{name}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if fcntl.ioctl(fd, _NS_GET_NSTYPE) == _CLONE_NEWNET:
                return os.fstat(fd).st_ino
        finally:
            os.close(fd)
    except PermissionError:
        raise UsageError(f"--netns {name!r}: this process may not open {path}") from None
    except (OSError, ValueError):
        pass
    raise UsageError(f"--netns {name!r} is no inode, no name of `ip netns list` and no path of one")
