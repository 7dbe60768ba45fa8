"""What a reader of the trace must know about the host: kernel, sysctls, network devices, clocks.

A fact that cannot be read is left out, never guessed.
"""

import ctypes
import fcntl
import os
import platform
import socket
import struct
from pathlib import Path
from typing import Any

# Names as sysctl(8) prints them. Those of net.ipv4 belong to the recorder's network namespace.
SYSCTLS = (
    "net.core.netdev_max_backlog",
    "net.core.rmem_max",
    "net.core.somaxconn",
    "net.core.wmem_max",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_abort_on_overflow",
    "net.ipv4.tcp_autocorking",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_ecn",
    "net.ipv4.tcp_fastopen",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.tcp_orphan_retries",
    "net.ipv4.tcp_retries2",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_sack",
    "net.ipv4.tcp_syn_retries",
    "net.ipv4.tcp_synack_retries",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_window_scaling",
    "net.ipv4.tcp_wmem",
)

# ETHTOOL_G* of include/uapi/linux/ethtool.h: the offloads that change what a packet looks like to TCP
_OFFLOADS = {
    "rx_checksum": 0x14,
    "tx_checksum": 0x16,
    "scatter_gather": 0x18,
    "tso": 0x1E,
    "gso": 0x23,
    "gro": 0x2B,
}
_SIOCETHTOOL = 0x8946


def sysctls() -> dict[str, str]:
    found = {}
    for name in SYSCTLS:
        try:
            text = Path("/proc/sys", name.replace(".", "/")).read_text()
        except OSError:
            continue
        found[name] = " ".join(text.split())
    return found


def boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _offloads(control: socket.socket, name: str) -> dict[str, bool]:
    states = {}
    for offload, command in _OFFLOADS.items():
        value = ctypes.create_string_buffer(struct.pack("II", command, 0), 8)
        request = struct.pack("16sP16x", name.encode(), ctypes.addressof(value))
        try:
            fcntl.ioctl(control, _SIOCETHTOOL, request)
        except OSError:
            continue  # the device has no such switch
        states[offload] = bool(struct.unpack("II", value.raw)[1])
    return states


def network_devices() -> list[dict[str, Any]]:
    """Name, MTU and offloads of each device of the recorder's network namespace."""
    devices: list[dict[str, Any]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for _, name in socket.if_nameindex():
            device: dict[str, Any] = {"name": name}
            try:
                device["mtu"] = int(Path("/sys/class/net", name, "mtu").read_text())
            except (OSError, ValueError):
                pass
            device.update(_offloads(control, name))
            devices.append(device)
    return devices


def host_facts() -> dict[str, Any]:
    """The part of a trace's header that describes the host."""
    system = os.uname()
    return {
        "hostname": system.nodename,
        "boot_id": boot_id(),
        "kernel": {"release": system.release, "version": system.version, "machine": platform.machine()},
        "cpus": os.cpu_count(),
        "sysctls": sysctls(),
        "nics": network_devices(),
    }
