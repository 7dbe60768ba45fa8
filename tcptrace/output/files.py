"""Files for the user: private, whole or not there at all, and never over an existing one by accident."""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from tcptrace.errors import TcptraceError


def write_private(
    path: Path, content: bytes | str | Callable[[BinaryIO], object], *, force: bool = False
) -> None:
    """Write a file that only its owner can read (mode 0600; under sudo, the invoking user).

    The content, bytes, text (UTF-8) or a function that writes to an open binary file, goes to a new file
    beside the path, which then takes the name: nobody ever sees half a file. Symbolic links are replaced,
    not followed. Raises TcptraceError when the path exists and force is not set, when it is no regular
    file, and when writing fails; then nothing is left behind.
    """
    check_target(path, force=force)
    try:
        number, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _failed(path, error) from None
    beside = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
            if (owner := invoking_user()) is not None:
                os.fchown(file.fileno(), *owner)
        _take_name(beside, path, force)
    except OSError as error:
        raise _failed(path, error) from None
    finally:
        beside.unlink(missing_ok=True)


def check_target(path: Path, *, force: bool) -> None:
    """Raise the error of write_private before the work that makes the content."""
    try:
        there = path.lstat()
        if stat.S_ISLNK(there.st_mode) and path.exists():
            there = path.stat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise TcptraceError(f"cannot write {path}: there is no directory {path.parent}") from None
        return
    except (OSError, ValueError) as error:
        raise _failed(path, error) from None
    if stat.S_ISDIR(there.st_mode):
        raise TcptraceError(f"cannot write {path}: it is a directory")
    if not stat.S_ISREG(there.st_mode) and not stat.S_ISLNK(there.st_mode):
        raise TcptraceError(f"cannot write {path}: it is no regular file")
    if not force:
        raise TcptraceError(f"{path} exists; name another file with -o, or replace it with --force")


def invoking_user() -> tuple[int, int] | None:
    """(uid, gid) of who called sudo, when root runs for somebody else; None otherwise."""
    if os.geteuid() != 0:
        return None
    try:
        return int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    except (KeyError, ValueError):
        return None


def _take_name(beside: Path, path: Path, force: bool) -> None:
    if not force:
        try:
            path.hardlink_to(beside)  # fails when somebody made the path meanwhile
            return
        except FileExistsError:
            raise TcptraceError(
                f"{path} exists; name another file with -o, or replace it with --force"
            ) from None
        except OSError:
            # No hard links in this file system: the check before is all there is.
            pass
    beside.replace(path)


def _failed(path: Path, error: Exception) -> TcptraceError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return TcptraceError(f"cannot write {path}: {reason}")
