"""Switches of the host that a benchmark needs, restored afterwards, and what the kernel counts."""

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BPF_STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
RPS_CPUS = Path("/sys/class/net/lo/queues/rx-0/rps_cpus")


@contextlib.contextmanager
def switched(path: Path, value: str) -> Iterator[None]:
    """Write a value to a file of /proc or /sys, and the old one back at the end."""
    before = path.read_text()
    path.write_text(value)
    try:
        yield
    finally:
        path.write_text(before)


def describe() -> dict[str, str | int]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.machine()
    return {"kernel": platform.release(), "cpus": os.cpu_count() or 0, "cpu": cpu}


def cpu_seconds(pid: int) -> float:
    """User and system time of a running process, all threads; in steps of a clock tick (10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def program_ids(pid: int) -> set[int]:
    """The eBPF programs that a process holds, directly or through a link."""
    ids: set[int] = set()
    for path in Path(f"/proc/{pid}/fdinfo").glob("*"):
        with contextlib.suppress(OSError):  # closed meanwhile
            ids |= {
                int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("prog_id:")
            }
    return ids


@dataclass(frozen=True)
class ProgramCost:
    """What the kernel's statistics say of one program; only while kernel.bpf_stats_enabled is 1."""

    name: str
    runs: int
    ns: int

    @property
    def ns_per_run(self) -> float | None:
        return self.ns / self.runs if self.runs else None


def program_costs(pid: int) -> dict[int, ProgramCost]:
    """By program id. bpftool shows the first 15 characters of a name, unless BTF tells the whole."""
    costs = {}
    for number in program_ids(pid):
        command = ["bpftool", "-j", "prog", "show", "id", str(number)]
        shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        costs[number] = ProgramCost(
            shown.get("name", str(number)), shown.get("run_cnt", 0), shown.get("run_time_ns", 0)
        )
    return costs


def cost_between(before: dict[int, ProgramCost], after: dict[int, ProgramCost]) -> list[ProgramCost]:
    """Dearest first."""
    costs = [
        ProgramCost(late.name, late.runs - before[number].runs, late.ns - before[number].ns)
        for number, late in after.items()
        if number in before
    ]
    return sorted(costs, key=lambda cost: -cost.ns)
