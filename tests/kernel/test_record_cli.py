"""`tcptrace record` as a command: how it ends, what it refuses, and whose file it makes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import require, why_no_recording
from drive import LIMIT_SECONDS, connect, listen, poll, receive
from recording import COMMAND, Recording, run
from tcptrace.errors import EXIT_FAILURE, EXIT_HOST, EXIT_INCOMPLETE, EXIT_OK, EXIT_USAGE
from tcptrace.lab.namespaces import SIDE_B, Namespace

Wired = tuple[Namespace, Namespace]
Record = Callable[..., Recording]

AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
POWERLESS = ("setpriv", "--bounding-set=-all")
READY_SECONDS = 2.0


@pytest.fixture(autouse=True)
def _can_record() -> None:
    require(not why_no_recording(), why_no_recording())


@pytest.fixture
def space() -> Iterator[Namespace]:
    """A quiet namespace, so that --netns leaves the host's own connections out."""
    with Namespace() as made:
        yield made


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return done.stderr.splitlines()


def is_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """The command said one line, on stderr, with these parts in it."""
    assert len(lines(done)) == 1, done.stderr
    assert done.stderr.startswith("tcptrace: ")
    assert not done.stdout
    for part in parts:
        assert part in done.stderr


def complete(path: Path) -> dict[str, Any]:
    """`info --json` of a trace that ended well. What the kernel skipped elsewhere is no fault of ours."""
    done = run("info", str(path), "--json")
    assert done.returncode in (EXIT_OK, EXIT_INCOMPLETE), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["clean_end"] is True and not found["truncated"] and not found["damaged"], found
    assert all(cause == "total" or cause.startswith("recursion.") for cause in found["lost"]), found["lost"]
    return found


def ended_well(code: int, path: Path) -> bool:
    """Exit code 0, or 5 where the trace says that the kernel skipped something."""
    return code == (EXIT_INCOMPLETE if complete(path)["lost"]["total"] else EXIT_OK)


# How it ends


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


# The file


def test_an_existing_file_is_refused_and_kept(space: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "kept.tct"
    path.write_text("precious")
    done = run("record", "-o", str(path), "-d", "100ms", "--netns", str(space.inode))
    assert done.returncode == EXIT_FAILURE
    is_one_line(done, str(path), "--force")
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["kept.tct"]


def test_a_dangling_link_is_refused_and_kept(space: Namespace, tmp_path: Path) -> None:
    path, target = tmp_path / "link.tct", tmp_path / "elsewhere"
    path.symlink_to(target)
    done = run("record", "-o", str(path), "-d", "100ms", "--netns", str(space.inode))
    assert done.returncode == EXIT_FAILURE
    is_one_line(done, str(path))
    assert path.is_symlink() and not target.exists()


def test_force_replaces_the_file(space: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "old.tct"
    path.write_text("old")
    done = run("record", "-o", str(path), "-d", "100ms", "--netns", str(space.inode), "--force")
    assert ended_well(done.returncode, path)
    assert os.listdir(tmp_path) == ["old.tct"]


@pytest.mark.parametrize("where", ["missing/x.tct", "."])
def test_a_place_that_cannot_be_written_is_refused(space: Namespace, tmp_path: Path, where: str) -> None:
    done = run("record", "-o", str(tmp_path / where), "-d", "100ms", "--netns", str(space.inode), "--force")
    assert done.returncode in (EXIT_FAILURE, EXIT_USAGE)
    is_one_line(done, str(tmp_path / where))
    assert not os.listdir(tmp_path)


def test_the_file_is_private_and_root_s(space: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "own.tct"
    before = os.umask(0)
    try:
        run("record", "-o", str(path), "-d", "100ms", "--netns", str(space.inode))
    finally:
        os.umask(before)
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert (found.st_uid, found.st_gid) == (0, 0)


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_under_sudo_the_file_belongs_to_the_invoking_user(
    space: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: list[str]
) -> None:
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "2345")
    path = tmp_path / "own.tct"
    run("record", "-o", str(path), "-d", "100ms", "--netns", str(space.inode), *force)
    found = path.stat()
    assert (found.st_uid, found.st_gid) == (1234, 2345)
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_the_default_name_has_host_and_time(
    space: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("record", "-d", "100ms", "--netns", str(space.inode))
    (name,) = os.listdir(tmp_path)
    assert re.fullmatch(rf"tcptrace-{re.escape(os.uname().nodename)}-\d{{8}}-\d{{6}}\.tct", name)
    assert ended_well(done.returncode, tmp_path / name)
    assert f"recording to {name}" in done.stderr


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--port", "0"], "0"),
        (["--port", "65536"], "65536"),
        (["--port", "http"], "http"),
        (["--peer", "nonsense"], "nonsense"),
        (["--peer", "10.0.0.0/33"], "10.0.0.0/33"),
        (["--buffer", "5000"], "5000"),
        (["--buffer", "1"], "'1'"),
        (["--buffer", "4G"], "4G"),
        (["--buffer", "big"], "big"),
        (["-d", "xyz"], "xyz"),
        (["-d", "0"], "'0'"),
        (["--netns", "nosuch"], "nosuch"),
        (["--netns", "/no/such"], "/no/such"),
        (["--pid", "abc"], "abc"),
        (["--pid", "0"], "0"),
        (["--comm", ""], "''"),
        (["--mode", "budget"], "budget"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, arguments: list[str], value: str) -> None:
    path = tmp_path / "none.tct"
    done = run("record", "-o", str(path), "-d", "100ms", *arguments)
    assert done.returncode == EXIT_USAGE
    is_one_line(done, value)
    assert not path.exists()


def test_a_control_character_in_a_value_cannot_reach_the_terminal(tmp_path: Path) -> None:
    done = run("record", "-o", str(tmp_path / "none.tct"), "--netns", "\x1b]0;owned\x07")
    assert done.returncode == EXIT_USAGE
    assert "\x1b" not in done.stderr and "\x07" not in done.stderr


@pytest.mark.parametrize("who", [AS_NOBODY, POWERLESS], ids=["nobody", "root without capabilities"])
def test_without_privileges_the_next_command_is_named(tmp_path: Path, who: tuple[str, ...]) -> None:
    if subprocess.run([*who, *COMMAND, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("this checkout is hidden from other users")
    path = tmp_path / "none.tct"
    done = subprocess.run(
        [*who, *COMMAND, "record", "-o", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == EXIT_HOST, done.stderr
    is_one_line(done, "root", "sudo", "tcptrace doctor")
    assert not path.exists()


HIDE_BTF = 'mount -t tmpfs tmpfs /sys/kernel/btf && exec "$@"'


def without_btf(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, where no other process is affected, on a kernel that shows no BTF."""
    if any(Path("/boot").glob(f"vmlinux-{os.uname().release}")):
        pytest.skip("libbpf finds BTF in /boot")
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", HIDE_BTF, "sh", *COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_without_btf_this_host_cannot_record(tmp_path: Path) -> None:
    path = tmp_path / "none.tct"
    done = without_btf("record", "-o", str(path))
    assert done.returncode == EXIT_HOST, done.stderr
    is_one_line(done, "BTF", "tcptrace doctor")
    assert not path.exists()


def test_without_btf_doctor_says_so() -> None:
    done = without_btf("doctor", "--json")
    assert done.returncode == EXIT_HOST, done.stderr
    found = json.loads(done.stdout)
    failed = [check for check in found["checks"] if check["required"] and check["ok"] is False]
    assert [check["name"] for check in failed] == ["BTF"]
    assert failed[0]["consequence"] and "CONFIG_DEBUG_INFO_BTF" in failed[0]["remedy"]


# A full disk


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_said_and_what_was_written_can_be_read(tiny: Path, wired: Wired) -> None:
    a, b = wired
    path = tiny / "full.tct"
    marker = tiny.parent / "marker"
    script = f"trap 'echo told > {marker}; exit 0' TERM; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [*COMMAND, "record", "-o", str(path), "--netns", str(b.inode), "--", "sh", "-c", script],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr and process.stderr.readline().startswith("recording")
        with listen(b) as listener:
            made = _connect_until(a, listener, lambda: path.stat().st_size > 50_000)
            # the next batch does not fit
            (tiny / "rest").write_bytes(bytes(_free(tiny)))
            made += _connect_until(a, listener, lambda: process.poll() is not None)
        error = process.stderr.read()
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == EXIT_FAILURE, error
    assert error.splitlines()[-1] == f"tcptrace: cannot write {path}: No space left on device", error
    assert len(error.splitlines()) == 1
    poll(marker.exists, "told: the command ends with the recording")

    done = run("connections", str(path), "--format", "ndjson")
    assert done.returncode == EXIT_INCOMPLETE
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert 0 < len(rows) <= made
    assert {row["netns"] for row in rows} == {b.inode}
    assert len({row["connection_id"] for row in rows}) == len(rows)


def _free(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_bsize


def _connect_until(a: Namespace, listener: socket.socket, over: Callable[[], bool]) -> int:
    """Short connections from a until the condition holds. Returns how many."""
    made, deadline = 0, time.monotonic() + 20
    while not over():
        assert time.monotonic() < deadline, f"never over after {made} connections"
        with connect(a, SIDE_B.ipv4) as client:
            server = listener.accept()[0]
            server.close()
            assert receive(client, 1) == b""
        made += 1
    return made


def test_a_disk_that_is_full_from_the_start(tiny: Path, space: Namespace) -> None:
    (tiny / "rest").write_bytes(bytes(_free(tiny)))
    path = tiny / "full.tct"
    done = run("record", "-o", str(path), "-d", "100ms", "--netns", str(space.inode))
    assert done.returncode == EXIT_FAILURE
    is_one_line(done, str(path), "No space left on device")
    assert not path.exists()


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
        _connect_until(a, listener, iter((False, False, True)).__next__)
    recording.finish()
    assert "\r" not in recording.messages() and "\x1b" not in recording.messages()
    assert len(recording.messages().splitlines()) == 2
