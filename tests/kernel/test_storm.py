"""Under a storm of short connections nothing is lost silently."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import require
from recording import Recording, Row, is_skip, run
from tcptrace.errors import EXIT_INCOMPLETE
from tcptrace.lab import namespaces
from tcptrace.lab.namespaces import Namespace

STORM = Path(__file__).resolve().parents[2] / "build" / "storm"
PORT = 7790
CONNECTIONS = 10_000

Record = Callable[..., Recording]


@pytest.fixture
def arena() -> Iterator[Namespace]:
    """A namespace for the storm's loopback."""
    require(STORM.exists(), f"{STORM} is missing: make build/storm")
    with Namespace() as space:
        yield space


def storm(space: Namespace, connections: int = CONNECTIONS) -> int:
    """Make connections, one after the other, each closed by the client's RST. Returns how many it made."""
    result: dict[str, Any] = json.loads(
        space.check([str(STORM), "-p", str(PORT), "-n", str(connections)], timeout=120).stdout
    )
    return int(result["connections"])


def rows_in(rows: list[Row], space: Namespace) -> list[Row]:
    return [row for row in rows if row["netns"] == space.inode]


def test_what_does_not_fit_the_smallest_buffer_is_counted(
    arena: Namespace, record: Record, tmp_path: Path
) -> None:
    recording = record("--buffer", "4096", "--port", PORT, "--netns", arena.inode)
    made = storm(arena)
    assert recording.finish() == EXIT_INCOMPLETE
    rows = recording.rows(exit_code=EXIT_INCOMPLETE)
    lost = recording.lost()["connection_ring"]
    assert lost > 0, "the storm did not fill 4096 bytes"
    assert len(rows_in(rows, arena)) == len(rows)
    assert len(rows) + lost == 2 * made
    assert len({row["connection_id"] for row in rows}) == len(rows)

    summary = run("summary", str(recording.path), "--json")
    assert summary.returncode == EXIT_INCOMPLETE
    told = json.loads(summary.stdout)
    assert told["connections"]["rows"] == len(rows)
    assert told["lost"]["connection_ring"] == lost
    assert told["lost"]["total"] >= lost
    readable = run("summary", str(recording.path))
    assert readable.returncode == EXIT_INCOMPLETE
    assert f"{lost:,}" in readable.stdout or str(lost) in readable.stdout

    page = tmp_path / "report.html"
    report = run("report", str(recording.path), "-o", str(page))
    assert report.returncode == EXIT_INCOMPLETE
    text = page.read_text()
    assert f"{lost:,}" in text or str(lost) in text


def test_default_buffer_loses_nothing(arena: Namespace, record: Record) -> None:
    recording = record("--port", PORT, "--netns", arena.inode)
    made = storm(arena)
    rows = recording.stop()
    assert len(rows) == 2 * made
    assert_every_end(rows, made)


def test_with_packet_steering_every_end_has_its_row(arena: Namespace, record: Record) -> None:
    """With RPS packets are received in interrupts, which may come while a program runs on that CPU: the
    kernel then skips the inner one. What was skipped is counted, and what it cost is null."""
    # `ip netns exec` shows the namespace's own devices in /sys: the host's loopback is not touched.
    steer = "echo 3 > /sys/class/net/lo/queues/rx-0/rps_cpus"
    namespaces.ip("netns", "exec", arena.name, "sh", "-c", steer)
    recording = record("--port", PORT, "--netns", arena.inode)
    made = storm(arena)
    recording.finish()
    rows = recording.rows(exit_code=recording.exit_code or 0)
    losses = recording.lost()
    assert all(is_skip(cause) for cause in losses), losses
    assert recording.exit_code == (EXIT_INCOMPLETE if losses else 0)
    assert len(rows) == 2 * made, losses
    assert_every_end(rows, made)
    damaged = [row for row in rows if row["established_ns"] is None]
    assert bool(losses) or not damaged, "facts are missing though the kernel skipped nothing"
    assert len(damaged) <= sum(losses.values())


def assert_every_end(rows: list[Row], made: int) -> None:
    """One row per end; what is known of it is what the storm did, what is not is null."""
    assert len({row["connection_id"] for row in rows}) == 2 * made
    clients = [row for row in rows if row["remote_port"] == PORT]
    servers = [row for row in rows if row["local_port"] == PORT]
    assert (len(clients), len(servers)) == (made, made)
    for row in rows:
        assert row["bytes_sent"] in (1, None) and row["bytes_received"] in (1, None), row
        known = [row["syn_sent_ns"], row["syn_recv_ns"], row["established_ns"]]
        assert all(value is None or 0 <= value < 10_000_000_000 for value in known), row
    # The client resets; the server may have sent its FIN before, and then closed by FIN or was reset.
    assert {row["role"] for row in clients} <= {"active", "unknown"}
    assert {row["role"] for row in servers} <= {"passive", "unknown"}
    assert {row["close_reason"] for row in clients} <= {"reset_sent", None}
    assert {row["close_reason"] for row in servers} <= {"reset_received", "fin", None}


def test_starting_and_stopping_under_load_says_nothing_wrong(arena: Namespace, record: Record) -> None:
    """What ends while the programs are being attached or detached may be unknown, never wrong."""
    load = arena.popen([str(STORM), "-p", str(PORT), "-s", "20"], stdout=subprocess.DEVNULL)
    for _ in range(3):
        recording = record("--netns", arena.inode)
        rows = recording.stop()
        assert {row["close_reason"] for row in rows if row["remote_port"] == PORT} <= {
            "reset_sent",
            "open",
            None,
        }
        assert {row["close_reason"] for row in rows if row["local_port"] == PORT} <= {
            "reset_received", "fin", "open", None,
        }  # fmt: skip
        assert sum(row["right_censored"] for row in rows) <= 4, "the storm has one connection at a time"
    namespaces.stop(load)
