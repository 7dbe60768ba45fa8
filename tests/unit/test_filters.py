"""Filters become exactly the keys that the programs look up, or an error that names the value."""

from __future__ import annotations

import ipaddress
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.acquire import filters
from tcptrace.acquire.filters import Filters, comm_key, namespace_inode, prefix_key
from tcptrace.errors import EXIT_USAGE, UsageError
from tcptrace.trace import wire

MAPPED = bytes(10) + b"\xff\xff"


def split(key: bytes) -> tuple[int, bytes]:
    """Prefix length and address of a key."""
    assert len(key) == wire.PREFIX.itemsize
    return struct.unpack_from("<I", key)[0], key[4:]


def matches(key: bytes, address: bytes) -> bool:
    """What the kernel's longest-prefix map says of an address of 128 bits."""
    length, prefix = split(key)
    return int.from_bytes(prefix) >> (128 - length) == int.from_bytes(address) >> (128 - length)


@pytest.mark.parametrize(
    ("text", "length", "address"),
    [
        ("10.1.2.3", 128, MAPPED + bytes([10, 1, 2, 3])),
        ("10.1.2.3/32", 128, MAPPED + bytes([10, 1, 2, 3])),
        ("10.1.2.3/8", 104, MAPPED + bytes([10, 0, 0, 0])),
        ("0.0.0.0/0", 96, MAPPED + bytes(4)),
        ("10.0.0.0/255.0.0.0", 104, MAPPED + bytes([10, 0, 0, 0])),
        ("fd00::1", 128, bytes.fromhex("fd000000000000000000000000000001")),
        ("fd00::1/8", 8, b"\xfd" + bytes(15)),
        ("::/0", 0, bytes(16)),
        ("::ffff:10.0.0.0/104", 104, MAPPED + bytes([10, 0, 0, 0])),
    ],
)
def test_a_peer_becomes_a_prefix_of_its_mapped_address(text: str, length: int, address: bytes) -> None:
    assert split(prefix_key(text)) == (length, address)


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4))
def test_an_ipv4_prefix_matches_what_it_contains(
    base: ipaddress.IPv4Address, length: int, other: ipaddress.IPv4Address
) -> None:
    network = ipaddress.ip_network(f"{base}/{length}", strict=False)
    assert matches(prefix_key(f"{base}/{length}"), MAPPED + other.packed) == (other in network)


@given(st.ip_addresses(v=6), st.integers(0, 128), st.ip_addresses(v=6))
def test_an_ipv6_prefix_matches_what_it_contains(
    base: ipaddress.IPv6Address, length: int, other: ipaddress.IPv6Address
) -> None:
    network = ipaddress.IPv6Network((int(base), length), strict=False)
    assert matches(prefix_key(str(network)), other.packed) == (other in network)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "10.0.0.0/33", "10.0.0", "fd00::/129", "10.0.0.1 ", "::1%lo/1x"]
)
def test_what_is_no_network_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--peer") as raised:
        prefix_key(text)
    assert repr(text) in str(raised.value)
    assert raised.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("nginx", b"nginx".ljust(16, b"\0")),
        ("exactly15chars!", b"exactly15chars!\0"),
        ("a-name-that-the-kernel-cuts", b"a-name-that-the\0"),
        ("µ", "µ".encode().ljust(16, b"\0")),
        ("tab\there", b"tab\there".ljust(16, b"\0")),
    ],
)
def test_a_comm_is_kept_as_the_kernel_keeps_it(name: str, key: bytes) -> None:
    assert comm_key(name) == key


def test_the_own_comm_becomes_its_key() -> None:
    """What the kernel says of this very task, cut off where the kernel does."""
    path = Path("/proc/thread-self/comm")
    before = path.read_bytes()
    try:
        path.write_text("a-name-that-the-kernel-cuts")
        assert comm_key("a-name-that-the-kernel-cuts").rstrip(b"\0") == path.read_bytes().rstrip(b"\n")
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_is_no_comm_is_named(name: str) -> None:
    with pytest.raises(UsageError, match="--comm"):
        comm_key(name)


def test_a_namespace_is_an_inode_a_name_or_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.stat("/proc/self/ns/net").st_ino
    assert namespace_inode("4026531840") == 4026531840
    assert namespace_inode("/proc/self/ns/net") == own
    (tmp_path / "blue").symlink_to("/proc/self/ns/net")
    (tmp_path / "12monkeys").symlink_to("/proc/self/ns/net")
    monkeypatch.setattr(filters, "NAMED_NAMESPACES", str(tmp_path))
    assert namespace_inode("blue") == own
    assert namespace_inode("12monkeys") == own


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "nosuch",
        "/no/such",
        "/proc/self/ns/mnt",
        "/etc/passwd",
        "../x",
        "4294967296",
        "-1",
        "a\0b",
        "²",
    ],
)
def test_what_is_no_namespace_is_named(name: str) -> None:
    with pytest.raises(UsageError, match="--netns") as raised:
        namespace_inode(name)
    assert repr(name) in str(raised.value)


def test_only_filters_in_use_have_keys() -> None:
    assert Filters().keys() == {}
    keys = Filters(ports=(80, 443), pids=(1,), comms=("a",), peers=("::1",), namespaces=("5",)).keys()
    assert {name: len(values) for name, values in keys.items()} == {
        "wanted_ports": 2,
        "wanted_peers": 1,
        "wanted_pids": 1,
        "wanted_comms": 1,
        "wanted_netns": 1,
    }
    assert keys["wanted_ports"] == [b"\x50\0\0\0", b"\xbb\x01\0\0"]
    assert keys["wanted_netns"] == [np.uint32(5).tobytes()]
    assert sys.byteorder == "little"


def test_more_values_than_a_map_holds_are_refused() -> None:
    assert len(Filters(ports=tuple(range(1, 1025))).keys()["wanted_ports"]) == 1024
    with pytest.raises(UsageError, match="1025"):
        Filters(ports=tuple(range(1, 1026))).keys()


def test_the_header_has_what_was_asked_for() -> None:
    asked = Filters(ports=(80,), peers=("10.0.0.0/8",), comms=("nginx",), namespaces=("blue",))
    assert asked.as_json() == {
        "port": [80],
        "peer": ["10.0.0.0/8"],
        "pid": [],
        "comm": ["nginx"],
        "netns": ["blue"],
    }
