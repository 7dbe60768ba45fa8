"""The load: build/storm, short connections over loopback."""

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STORM = ROOT / "build" / "storm"


@dataclass(frozen=True)
class Load:
    """One run of the storm. CPU time is that of client and server together, user and system.

    `busy_share` is the share of all CPUs' time in which anybody worked while it ran, and `own_share` the
    share of the storm itself; time that a hypervisor gave to others counts as busy.
    """

    port: int
    connections: int
    seconds: float
    connections_per_s: float
    cpu_us_per_connection: float
    busy_share: float
    own_share: float


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


def storm(seconds: float, cpu: int | None = None) -> Load:
    """Run the storm on a port that the kernel chooses, so that runs do not see each other's sockets.

    With `cpu`, client and server stay there.
    """
    command = [str(STORM), "-s", f"{seconds}", *([] if cpu is None else ["-c", str(cpu)])]
    began, busy = time.monotonic(), _busy_seconds()
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60)
    whole_s = (time.monotonic() - began) * (os.cpu_count() or 1)
    busy_share = (_busy_seconds() - busy) / whole_s
    said = json.loads(result.stdout)
    own_share = said["cpu_us_per_connection"] * said["connections"] / 1e6 / whole_s
    return Load(**said, busy_share=busy_share, own_share=own_share)
