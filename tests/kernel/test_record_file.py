"""`tcptrace record`: what it refuses, whose file it makes, and what a full disk leaves of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from drive import listen, poll
from ending import connect_until, ended_well, is_one_line
from recording import COMMAND, run
from tcptrace.errors import EXIT_FAILURE, EXIT_HOST, EXIT_INCOMPLETE, EXIT_USAGE
from tcptrace.lab.namespaces import Namespace

Wired = tuple[Namespace, Namespace]

AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
POWERLESS = ("setpriv", "--bounding-set=-all")


pytestmark = pytest.mark.usefixtures("can_record")


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
        (["--mode", "queues"], "queues"),
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
        start_new_session=True,
    )
    try:
        assert process.stderr and process.stderr.readline().startswith("recording")
        with listen(b) as listener:
            made = connect_until(a, listener, lambda: path.stat().st_size > 50_000)
            # the next batch does not fit
            _fill(tiny)
            made += connect_until(a, listener, lambda: process.poll() is not None)
        error = process.stderr.read()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the command holds stderr open, too
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


def _fill(place: Path) -> None:
    """Takes all that is free, also while somebody else takes some of it."""
    with (place / "rest").open("wb", buffering=0) as rest, contextlib.suppress(OSError):
        while rest.write(bytes(4096)):
            pass


def test_a_disk_that_is_full_from_the_start(tiny: Path, space: Namespace) -> None:
    _fill(tiny)
    path = tiny / "full.tct"
    done = run("record", "-o", str(path), "-d", "100ms", "--netns", str(space.inode))
    assert done.returncode == EXIT_FAILURE
    is_one_line(done, str(path), "No space left on device")
    assert not path.exists()
