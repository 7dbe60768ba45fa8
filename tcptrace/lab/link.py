"""A link between two namespaces that we control packet by packet: devices, the relay process, its log.

    with namespaces.pair(wired=False) as (a, b), Link(a, b, delay_ns=10_000_000) as link:
        ...                         # SIDE_A and SIDE_B reach each other
        link.wait_for(lambda log: (log["rule"] >= 0).any())

The relay is a process of its own so that its timing does not depend on what the test does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tcptrace.errors import TcptraceError
from tcptrace.lab import namespaces
from tcptrace.lab.faults import Drop, Late, to_json
from tcptrace.lab.namespaces import SIDE_A, SIDE_B, Addresses, Namespace

RECORD = np.dtype(
    [
        ("arrived_ns", "<i8"),
        ("left_ns", "<i8"),
        ("flow", "<i8"),
        ("payload", "<i8"),
        ("sequence", "<u4"),
        ("acknowledgement", "<u4"),
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("family", "u1"),
        ("flags", "u1"),
        ("rule", "i1"),
        ("direction", "u1"),
        ("source", "V16"),
        ("destination", "V16"),
    ]
)
"""One packet; see :data:`tcptrace.lab.relay.RECORD`."""

DEVICE = "link0"
READY_SECONDS = 60.0

Log = npt.NDArray[np.void]


class Link:
    """A delaying, dropping link between two namespaces, alive while used as a context manager.

    Args:
        a, b: the namespaces; each gets a TUN device with addresses of its side.
        delay_ns: one way, for every packet.
        flow_delays_ns: one-way delays by flow in the order of their first packets, used in a cycle.
        drops: what to lose; see :class:`tcptrace.lab.faults.Drop`.
        lates: what to keep back, so that others overtake it; see :class:`tcptrace.lab.faults.Late`.
        life_s: the relay ends by itself after so long.
        log_limit: packets kept in the log (80 bytes each).

    Raises:
        HostError: not root, or /dev/net/tun is missing.
        TcptraceError: the relay did not start; the message carries its last line.
    """

    def __init__(
        self,
        a: Namespace,
        b: Namespace,
        *,
        delay_ns: int = 0,
        flow_delays_ns: Sequence[int] = (),
        drops: Sequence[Drop] = (),
        lates: Sequence[Late] = (),
        device: str = DEVICE,
        side_a: Addresses = SIDE_A,
        side_b: Addresses = SIDE_B,
        mtu: int = 1500,
        life_s: float = 300.0,
        log_limit: int = 2_000_000,
    ) -> None:
        self.a, self.b = a, b
        self.device = device
        self._sides = (side_a, side_b)
        self._mtu = mtu
        self._directory = tempfile.TemporaryDirectory(prefix="tcptrace-link-")
        self._path = Path(self._directory.name, "log")
        self._config: dict[str, Any] = {
            "a": [str(a.path), device],
            "b": [str(b.path), device],
            "delay_ns": delay_ns,
            "flow_delays_ns": list(flow_delays_ns),
            "drops": to_json(drops),
            "lates": to_json(lates),
            "mtu": mtu,
            "life_ns": int(life_s * 1e9),
            "log": str(self._path),
            "log_limit": log_limit,
        }
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Link:
        try:
            for space in (self.a, self.b):
                namespaces.ip("-n", space.name, "tuntap", "add", "dev", self.device, "mode", "tun")
                namespaces.ip("-n", space.name, "link", "set", self.device, "mtu", str(self._mtu))
            self._start()
            # Up only now: a device that gets its carrier while it is up drops packets until the kernel
            # has noticed, some time later.
            for space, side in zip((self.a, self.b), self._sides, strict=True):
                namespaces.address(space, self.device, side)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the relay and remove its devices and its log. Calling it twice is harmless."""
        self.stop()
        for space in (self.a, self.b):
            with contextlib.suppress(TcptraceError):
                namespaces.ip("-n", space.name, "link", "delete", self.device)
        self._directory.cleanup()

    def stop(self) -> None:
        """Stop carrying packets. The devices stay, the log is complete."""
        if self._child is None:
            return
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()
        namespaces.stop(self._child)
        self._child = None

    def prefer(self, priority: int) -> None:
        """Let the relay run before everything else, so that its delay is the configured one also on a busy
        host. Where that is not allowed it jitters, and its log says so."""
        assert self._child
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(self._child.pid, os.SCHED_FIFO, os.sched_param(priority))

    def log(self) -> Log:
        """The packets that left or were dropped so far, in this order."""
        data = self._path.read_bytes()
        return np.frombuffer(data[: len(data) - len(data) % RECORD.itemsize], dtype=RECORD)

    def wait_for(self, condition: Callable[[Log], bool], seconds: float = 5.0) -> Log:
        """Wait until the log satisfies a condition and return it.

        Raises:
            TcptraceError: it did not within so many seconds.
        """
        deadline = time.monotonic() + seconds
        while True:
            log = self.log()
            if condition(log):
                return log
            if time.monotonic() > deadline:
                raise TcptraceError(f"the link did not see it within {seconds:g} s ({len(log)} packets)")
            time.sleep(0.002)

    def _start(self) -> None:
        # Unbuffered, so that select() below sees what there is to read.
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tcptrace.lab.relay"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self._child.stdin and self._child.stdout and self._child.stderr
        self._child.stdin.write(json.dumps(self._config).encode() + b"\n")
        readable, _, _ = select.select([self._child.stdout], [], [], READY_SECONDS)
        if readable and self._child.stdout.readline() == b"ready\n":
            return
        self._child.kill()
        lines = self._child.stderr.read().decode(errors="replace").strip().splitlines()
        raise TcptraceError(f"the link's relay did not start: {lines[-1] if lines else 'no answer'}")
