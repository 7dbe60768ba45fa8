"""The demonstration: what it leaves behind is a trace and a report, and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import require, why_no_recording
from drive import poll
from recording import run
from tcptrace.analysis.connections import connections
from tcptrace.lab.namespaces import DIRECTORY, PREFIX
from tcptrace.trace.reader import read

MARK = "TCPTRACE_TEST_DEMO"


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The demonstration as `make demo` starts it, writing into tmp_path/demo."""
    require(not why_no_recording(), why_no_recording())
    with (tmp_path / "messages").open("wb") as messages:
        child = subprocess.Popen(
            [sys.executable, "-m", "tcptrace.lab.demo", str(tmp_path / "demo")],
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            env={**os.environ, "NO_COLOR": "1", MARK: str(tmp_path)},
        )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def left_behind(pid: int, mark: Path) -> list[str]:
    """Namespaces of a process, and living processes with our mark in their environment."""
    found = [path.name for path in DIRECTORY.glob(f"{PREFIX}{pid}-*")]
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_every_kind_of_connection_is_in_the_trace(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    output = demo.communicate(timeout=60)[0]
    assert demo.returncode == 0, (tmp_path / "messages").read_text()
    assert not left_behind(demo.pid, tmp_path)
    trace, report = tmp_path / "demo" / "demo.tct", tmp_path / "demo" / "report.html"
    assert str(trace) in output and str(report) in output and "Handshakes" in output
    assert report.stat().st_size > 100_000
    assert run("info", str(trace)).returncode in (0, 5)

    rows = connections(read(trace)).to_pylist()
    active = [row for row in rows if row["role"] == "active"]
    assert 150 <= len(active) <= 300
    assert {row["family"] for row in active} == {"ipv4", "ipv6"}
    reasons = Counter(row["close_reason"] for row in active)
    assert (reasons["refused"], reasons["open"]) == (6, 1)
    assert (reasons["reset_sent"], reasons["reset_received"]) == (5 + 4 + 2, 5)
    assert reasons["fin"] == len(active) - 6 - 1 - 11 - 5
    established = [row for row in active if row["handshake_ns"] is not None]
    assert sum(row["syn_retransmits"] for row in established) == 3
    assert sum(row["retransmits"] > 0 for row in rows) >= 1
    assert sum(row["handshake_ns"] > 1_000_000_000 for row in established) == 3
    assert sum(20_000_000 < row["handshake_ns"] < 500_000_000 for row in established) >= 50
    assert {"order-gw", "mobile-app", "browser", "web", "api"} <= {row["comm"] for row in rows}
    both = [row for row in rows if row["left_censored"] and row["right_censored"]]
    assert len(both) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(
    demo: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    poll(lambda: "recording to" in (tmp_path / "messages").read_text(), "recording")
    demo.send_signal(number)
    demo.communicate(timeout=20)
    assert demo.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert "Traceback" not in (tmp_path / "messages").read_text()
    assert not left_behind(demo.pid, tmp_path)
