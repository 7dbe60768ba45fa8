"""The load: build/storm, short connections over loopback."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STORM = ROOT / "build" / "storm"


@dataclass(frozen=True)
class Load:
    """One run of the storm. CPU time is that of client and server together, user and system."""

    port: int
    connections: int
    seconds: float
    connections_per_s: float
    cpu_us_per_connection: float


def storm(seconds: float) -> Load:
    """Run the storm on a port that the kernel chooses, so that runs do not see each other's sockets."""
    command = [str(STORM), "-s", f"{seconds}"]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60)
    return Load(**json.loads(result.stdout))
