"""The lab: every scenario against its truth, by the real command; what it leaves behind is what it says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import require, why_no_recording
from drive import poll
from tcptrace.analysis.connections import connections
from tcptrace.lab.checks import same
from tcptrace.lab.namespaces import DIRECTORY, PREFIX, SIDE_B, Namespace
from tcptrace.lab.scenario import names, scenario
from tcptrace.lab.verify import exit_code, verify
from tcptrace.trace.reader import read

LAB = [sys.executable, "-m", "tcptrace", "lab"]
LIMIT_SECONDS = 120.0


@pytest.fixture(autouse=True)
def _can_record() -> None:
    require(not why_no_recording(), why_no_recording())


def left_behind(pid: int) -> list[str]:
    """Namespaces of a process, and living parts, relays and recordings that it started."""
    found = [path.name for path in DIRECTORY.glob(f"{PREFIX}{pid}-*")]
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if f"TCPTRACE_TEST_LAB={pid}".encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.parametrize("name", names())
def test_recording_agrees_with_the_truth(name: str) -> None:
    done = subprocess.run(
        [*LAB, "verify", name, "--json"], capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    assert done.stdout, done.stderr
    (outcome,) = json.loads(done.stdout)
    broken = [check for check in outcome["checks"] if check["verdict"] != "ok"]
    assert not broken, f"{broken}\n{done.stderr}"
    if scenario(name).checks:
        assert (done.returncode, outcome["verdict"]) == (0, "ok"), outcome["reason"]
    else:
        assert (done.returncode, outcome["verdict"]) == (1, "no check")


def test_check_that_is_broken_on_purpose_is_found() -> None:
    chosen = scenario("nagle")
    assert chosen.checks
    wrong = replace(
        chosen, checks=lambda truth, rows: [same("connections", 6, len(rows.ends("active", 7001)))]
    )
    (outcome,) = verify([wrong])
    assert outcome.verdict == "broken"
    assert (outcome.checks[0].truth, outcome.checks[0].measured) == (6, 1)
    assert exit_code([outcome]) == 1


def test_run_leaves_a_trace_and_a_report_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [*LAB, "run", "nagle", "-o", str(tmp_path)], capture_output=True, text=True, timeout=LIMIT_SECONDS,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nagle.html", "nagle.tct"]
    assert connections(read(tmp_path / "nagle.tct")).num_rows == 10
    assert "TCP_NODELAY" in done.stderr and "verdict" in done.stdout.splitlines()[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whatever_ends_it_nothing_stays(tmp_path: Path, number: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import os, sys; os.environ['TCPTRACE_TEST_LAB'] = str(os.getpid());"
         "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
         *LAB[1:], "run", "nagle", "-o", str(tmp_path)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stderr
    with child.stderr:
        assert any(line.startswith("recording") for line in child.stderr)
        poll(lambda: any("lab.part" in one for one in left_behind(child.pid)), "the parts play")
        child.send_signal(number)
        child.stderr.read()
        assert child.wait(LIMIT_SECONDS) != 0
    assert left_behind(child.pid) == []


def test_two_labs_at_once_do_not_meet(tmp_path: Path) -> None:
    labs = [
        subprocess.Popen([*LAB, "run", "nagle", "-o", str(tmp_path / one)], stderr=subprocess.DEVNULL)
        for one in ("first", "second")
    ]
    assert [lab.wait(LIMIT_SECONDS) for lab in labs] == [0, 0]
    for one in ("first", "second"):
        assert connections(read(tmp_path / one / "nagle.tct")).num_rows == 10


def play_apart(a: Namespace, b: Namespace, path: Path, first: str) -> list[int]:
    """Both roles of the Nagle scenario, each by its own command. Returns their exit codes."""
    roles = {"server": (b, []), "client": (a, ["--peer", SIDE_B.ipv4])}
    order = [first, *(role for role in roles if role != first)]
    started = []
    for role in order:
        space, more = roles[role]
        words = [*LAB, "run", "nagle", "-o", str(path), "--role", role, *more]
        started.append(space.popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        time.sleep(0.2)
    return [child.wait(LIMIT_SECONDS) for child in started]


@pytest.mark.parametrize("first", ["server", "client"])
def test_parts_play_on_machines_of_their_own(
    wired: tuple[Namespace, Namespace], tmp_path: Path, first: str
) -> None:
    assert play_apart(*wired, tmp_path, first) == [0, 0]
    files = ["nagle-client.tct", "nagle-server.tct", "nagle-truth.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    truth = json.loads((tmp_path / "nagle-truth.json").read_text())
    assert len(truth["turn_7001_ns"]) == 8 and min(truth["turn_7001_ns"]) > 0
    for role in ("client", "server"):
        assert connections(read(tmp_path / f"nagle-{role}.tct")).num_rows >= 5
        assert os.stat(tmp_path / f"nagle-{role}.tct").st_mode & 0o777 == 0o600


def test_server_that_waits_can_be_told_to_stop(
    wired: tuple[Namespace, Namespace], tmp_path: Path, linked: Callable[..., object]
) -> None:
    child = wired[1].popen(
        [*LAB, "run", "nagle", "-o", str(tmp_path), "--role", "server"], stderr=subprocess.PIPE, text=True
    )
    assert child.stderr
    assert any(line.startswith("recording") for line in child.stderr)
    child.send_signal(signal.SIGTERM)
    child.stderr.read()
    assert child.wait(LIMIT_SECONDS) == 128 + signal.SIGTERM
    assert read(tmp_path / "nagle-server.tct").clean_end
