"""Files for the user are private, whole, and never replace anything by accident."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from tcptrace.errors import TcptraceError
from tcptrace.output import files
from tcptrace.output.files import write_private


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("content", [b"caf\xc3\xa9", "café", lambda file: file.write(b"caf\xc3\xa9")])
def test_a_file_has_its_content_and_nobody_else_reads_it(tmp_path: Path, content: object) -> None:
    path = tmp_path / "out"
    write_private(path, content)  # type: ignore[arg-type]
    assert path.read_text(encoding="utf-8") == "café"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["out"]


def test_an_existing_file_stays_without_force(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(TcptraceError, match=r"out exists.*--force"):
        write_private(path, "new")
    assert path.read_text() == "old"
    write_private(path, "new", force=True)
    assert path.read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_a_file_that_appears_meanwhile_stays_too(tmp_path: Path) -> None:
    path = tmp_path / "out"

    def content(file: BinaryIO) -> None:
        path.write_text("other")
        file.write(b"new")

    with pytest.raises(TcptraceError, match="exists"):
        write_private(path, content)
    assert path.read_text() == "other"
    assert names(tmp_path) == ["out"]


def test_failing_content_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def content(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(TcptraceError, match=r"cannot write .*out: No space left on device"):
        write_private(path, content, force=True)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)
    with pytest.raises(TcptraceError, match="exists"):
        write_private(link, "new")
    write_private(link, "new", force=True)
    assert target.read_text() == "precious"
    assert not link.is_symlink() and link.read_text() == "new"


def test_a_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(TcptraceError, match="exists"):
        write_private(link, "new")
    assert not (tmp_path / "nowhere").exists()


def test_devices_pipes_and_directories_are_refused_even_with_force(tmp_path: Path) -> None:
    pipe, device = tmp_path / "pipe", tmp_path / "device"
    os.mkfifo(pipe)
    device.symlink_to("/dev/null")
    for path in (pipe, device, tmp_path, Path("/dev/null")):
        with pytest.raises(TcptraceError, match="cannot write"):
            write_private(path, "new", force=True)
    assert names(tmp_path) == ["device", "pipe"]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(TcptraceError, match=f"there is no directory {tmp_path}/no"):
        write_private(tmp_path / "no" / "out", "new")


def test_the_file_belongs_to_who_called_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "12")
    monkeypatch.setenv("SUDO_GID", "34")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert files.invoking_user() is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert files.invoking_user() == (12, 34)
    monkeypatch.setenv("SUDO_UID", "x")
    assert files.invoking_user() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_gives_the_file_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "12")
    monkeypatch.setenv("SUDO_GID", "34")
    write_private(tmp_path / "out", "new")
    there = (tmp_path / "out").stat()
    assert (there.st_uid, there.st_gid, stat.S_IMODE(there.st_mode)) == (12, 34, 0o600)
