"""`tcptrace record` as a command: how it ends, alone and with a command of the user's, and what it shows."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from drive import LIMIT_SECONDS, listen
from ending import complete, connect_until, ended_well, is_one_line, lines
from recording import COMMAND, Recording, run
from tcptrace.errors import EXIT_OK
from tcptrace.lab.namespaces import SIDE_B, Namespace

Wired = tuple[Namespace, Namespace]
Record = Callable[..., Recording]

READY_SECONDS = 2.0


pytestmark = pytest.mark.usefixtures("can_record")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_file_whole(space: Namespace, record: Record, number: signal.Signals) -> None:
    recording = record("--netns", space.inode)
    code = recording.finish(number)
    assert ended_well(code, recording.path)
    said = recording.messages().splitlines()
    assert len(said) == 2, said
    assert said[0].startswith(f"recording to {recording.path}")
    assert str(recording.path) in said[1]


def test_a_second_signal_while_it_ends_changes_nothing(space: Namespace, record: Record) -> None:
    recording = record("--netns", space.inode)
    for _ in range(5):
        recording.process.send_signal(signal.SIGINT)
    assert ended_well(recording.finish(signal.SIGTERM), recording.path)


def test_the_duration_ends_it(space: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "short.tct"
    begun = time.monotonic()
    done = run("record", "-o", str(path), "-d", "700ms", "--netns", str(space.inode))
    assert time.monotonic() - begun >= 0.7
    assert ended_well(done.returncode, path)
    assert complete(path)["duration_ns"] >= 700_000_000


def test_it_records_within_two_seconds(space: Namespace, tmp_path: Path) -> None:
    best = min(_ready_seconds(space, tmp_path / f"{n}.tct") for n in range(3))
    assert best < READY_SECONDS


def _ready_seconds(space: Namespace, path: Path) -> float:
    begun = time.monotonic()
    with subprocess.Popen(
        [*COMMAND, "record", "-o", str(path), "--netns", str(space.inode)], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr and process.stderr.readline().startswith("recording")
            return time.monotonic() - begun
        finally:
            process.terminate()


# With a command


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], EXIT_OK),
        (["false"], 1),
        (["sh", "-c", "exit 42"], 42),
        (["sh", "-c", "kill -9 $$"], 128 + 9),
        (["sh", "-c", "exit 5"], 5),
    ],
)
def test_the_status_of_the_command_wins(
    space: Namespace, tmp_path: Path, command: list[str], code: int
) -> None:
    path = tmp_path / "command.tct"
    done = run("record", "-o", str(path), "--netns", str(space.inode), "--", *command)
    assert ended_well(done.returncode, path) if code == EXIT_OK else done.returncode == code
    complete(path)


def test_the_command_runs_after_everything_is_attached(wired: Wired, tmp_path: Path) -> None:
    """Its very first connection is in the trace, with it as owner; its output is its own."""
    a, b = wired
    path = tmp_path / "command.tct"
    code = f"import socket; socket.create_connection(({SIDE_B.ipv4!r}, 7700)).recv(9); print('hello')"
    with listen(b) as listener:
        process = a.popen(
            [*COMMAND, "record", "-o", str(path), "--netns", str(a.inode), "--", sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        listener.accept()[0].close()
        output, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert output == "hello\n"
    assert ended_well(process.returncode, path)
    rows = [
        json.loads(line) for line in run("connections", str(path), "--format", "ndjson").stdout.splitlines()
    ]
    assert len(rows) == 1
    assert rows[0]["role"] == "active" and not rows[0]["left_censored"]
    assert rows[0]["comm"].startswith("python")


def test_a_command_that_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "none.tct"
    done = run("record", "-o", str(path), "--", "no-such-command", "-x")
    assert done.returncode == 127
    is_one_line(done, "no-such-command")
    assert not path.exists()


def test_a_command_that_cannot_be_run(space: Namespace, tmp_path: Path) -> None:
    """Neither a script's shebang nor an ELF file: the kernel refuses, a line says so, the trace is whole."""
    command, path = tmp_path / "broken", tmp_path / "none.tct"
    command.write_bytes(b"\0\1\2")
    command.chmod(0o755)
    done = run("record", "-o", str(path), "--netns", str(space.inode), "--", str(command))
    assert done.returncode == 126
    assert len(lines(done)) <= 3 and str(command) in lines(done)[-1]
    complete(path)


def test_options_of_the_command_are_its_own(space: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "command.tct"
    done = run(
        "record", "-o", str(path), "--netns", str(space.inode), "--", "echo", "-d", "xyz", "--port", "0"
    )
    assert done.stdout == "-d xyz --port 0\n"
    assert ended_well(done.returncode, path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_command(space: Namespace, tmp_path: Path, number: signal.Signals) -> None:
    path, marker = tmp_path / "command.tct", tmp_path / "marker"
    script = f"trap 'echo told > {marker}; exit 0' INT TERM; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [*COMMAND, "record", "-o", str(path), "--netns", str(space.inode), "--", "sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert ended_well(process.wait(LIMIT_SECONDS), path)
    finally:
        process.kill()
        process.communicate()
    assert marker.read_text() == "told\n"


def test_the_duration_ends_the_command_too(space: Namespace, tmp_path: Path) -> None:
    """It was told to end, so its death by that signal is no failure."""
    path = tmp_path / "command.tct"
    begun = time.monotonic()
    done = run("record", "-o", str(path), "-d", "500ms", "--netns", str(space.inode), "--", "sleep", "30")
    assert time.monotonic() - begun < 20
    assert ended_well(done.returncode, path)


# Live counts


def test_live_counts_appear_on_a_terminal_and_are_wiped_at_the_end(space: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "live.tct"
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            [*COMMAND, "record", "-o", str(path), "-d", "1500ms", "--netns", str(space.inode)], stderr=slave
        )
        os.close(slave)
        shown = _read_all(master)
        assert ended_well(process.wait(LIMIT_SECONDS), path)
    finally:
        os.close(master)
    assert "0 connections" in shown and "nothing lost" in shown
    assert shown.startswith("recording to ")
    last = shown.rpartition("\r\x1b[2K")[2]
    assert last.startswith(str(path)), "the summary stands on a line of its own"


def _read_all(descriptor: int) -> str:
    data = b""
    while select.select([descriptor], [], [], LIMIT_SECONDS)[0]:
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            if more := os.read(descriptor, 4096):
                data += more
                continue
        return data.decode()
    raise TimeoutError(data)


def test_ctrl_c_on_a_terminal_ends_command_and_recording(space: Namespace, tmp_path: Path) -> None:
    """Both get SIGINT from the terminal."""
    path = tmp_path / "live.tct"
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            [*COMMAND, "record", "-o", str(path), "--netns", str(space.inode), "--", "sleep", "30"],
            stdin=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        shown = b""
        while b"connections" not in shown:
            assert select.select([master], [], [], LIMIT_SECONDS)[0], shown
            shown += os.read(master, 4096)
        os.write(master, b"\x03")
        _read_all(master)
        assert ended_well(process.wait(LIMIT_SECONDS), path)
    finally:
        os.close(master)


def test_a_closed_terminal_ends_the_file_whole(space: Namespace, tmp_path: Path) -> None:
    """SIGHUP comes, and what is said afterwards cannot be written."""
    path = tmp_path / "live.tct"
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "record", "-o", str(path), "--netns", str(space.inode)],
        stdin=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    try:
        os.close(slave)
        shown = b""
        while b"connections" not in shown:
            assert select.select([master], [], [], LIMIT_SECONDS)[0], shown
            shown += os.read(master, 4096)
        os.close(master)
        assert ended_well(process.wait(LIMIT_SECONDS), path)
    finally:
        process.kill()
        process.wait()


def test_a_reader_of_stderr_that_left_costs_nothing(space: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "left.tct"
    with subprocess.Popen(
        [*COMMAND, "record", "-o", str(path), "-d", "300ms", "--netns", str(space.inode)],
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr
        process.stderr.close()
        assert ended_well(process.wait(LIMIT_SECONDS), path)


def test_a_command_that_does_not_listen_is_killed(space: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "command.tct"
    script = "trap '' TERM; while :; do sleep 0.1; done"
    begun = time.monotonic()
    done = run(
        "record", "-o", str(path), "-d", "200ms", "--netns", str(space.inode), "--", "sh", "-c", script
    )
    assert 5 < time.monotonic() - begun < 20
    assert ended_well(done.returncode, path)


def test_no_live_counts_in_a_file(record: Record, wired: Wired) -> None:
    a, b = wired
    recording = record("--netns", a.inode)
    with listen(b) as listener:
        connect_until(a, listener, iter((False, False, True)).__next__)
    recording.finish()
    assert "\r" not in recording.messages() and "\x1b" not in recording.messages()
    assert len(recording.messages().splitlines()) == 2
