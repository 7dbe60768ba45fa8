"""The loads: build/storm, build/pingpong and build/bulk, each over loopback."""

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Kind:
    """A load by name: its program, what it is counted in, and the CPU to which it is kept (None: any)."""

    name: str
    title: str
    program: str
    unit: str
    cpu: int | None = None


STORM = Kind("storm", "storm of short connections", "storm", "connection")
PINGPONG = Kind("pingpong", "blocking 1-byte ping-pong", "pingpong", "turn")
PINGPONG_ONE_CPU = Kind("pingpong-1cpu", "the same, both threads on CPU 0", "pingpong", "turn", 0)
BULK = Kind("bulk", "bulk stream", "bulk", "MB")
KINDS = {kind.name: kind for kind in (STORM, PINGPONG, PINGPONG_ONE_CPU, BULK)}


@dataclass(frozen=True)
class Load:
    """One run of a load. CPU time is that of client and server together, user and system.

    `bytes` are those of payload in both directions. `busy_share` is the share of all CPUs' time in which
    anybody worked while it ran, and `own_share` the share of the load itself; time that a hypervisor gave to
    others counts as busy.
    """

    kind: Kind
    port: int
    connections: int
    turns: int
    bytes: int
    seconds: float
    cpu_s: float
    busy_share: float
    own_share: float

    @property
    def units(self) -> float:
        """How much it did, in the kind's unit."""
        return {"connection": self.connections, "turn": self.turns, "MB": self.bytes / 1e6}[self.kind.unit]

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.units / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU time per unit."""
        return self.cpu_s * 1e6 / self.units


def _busy_seconds() -> float:
    """Time that all CPUs together have worked since boot."""
    first = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(ticks) for ticks in first[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(share: float, timeout_s: float) -> None:
    """Until nobody uses more than that share of all CPUs' time, or the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        began, busy = time.monotonic(), _busy_seconds()
        time.sleep(0.4)
        if (_busy_seconds() - busy) / (time.monotonic() - began) / (os.cpu_count() or 1) <= share:
            return


def run(kind: Kind, seconds: float, cpu: int | None = None, *, fifo: bool = False) -> Load:
    """Run a load on a port that the kernel chooses, so that runs do not see each other's sockets.

    With `cpu`, client and server stay there, whatever the kind says. With `fifo` nobody else gets a CPU that
    it uses, but for the twentieth that the kernel keeps for them (sched_rt_runtime_us).
    """
    where = kind.cpu if cpu is None else cpu
    command = ["chrt", "-f", "1"] if fifo else []
    command += [str(ROOT / "build" / kind.program), "-s", f"{seconds}"]
    command += [] if where is None else ["-c", str(where)]
    began, busy = time.monotonic(), _busy_seconds()
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60)
    whole_s = (time.monotonic() - began) * (os.cpu_count() or 1)
    busy_share = (_busy_seconds() - busy) / whole_s
    said = json.loads(result.stdout)
    return Load(kind, **said, busy_share=busy_share, own_share=said["cpu_s"] / whole_s)
