"""kernels.toml: which kernels the matrix runs on, where they come from and what they may be without."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().with_name("kernels.toml")

CAPABILITIES = ("fentry", "kprobe", "socket-storage", "socket-cookie", "compare-and-swap", "netem", "tun")
"""What a kernel may be without, besides tracepoints, which are named "tp:NAME"."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
TRACEPOINT = re.compile(r"tp:\w+")


class MatrixError(Exception):
    """Something the matrix needs is wrong or missing; the text says what, and what to do about it."""


@dataclass(frozen=True)
class Kernel:
    """One entry of kernels.toml."""

    name: str
    suites: tuple[str, ...]
    package: str
    may_lack: tuple[str, ...]


def load(path: Path = FILE) -> list[Kernel]:
    """Every kernel of the file, in its order.

    Raises:
        MatrixError: the file cannot be read, or says what it may not; names the entry and the value.
    """
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise MatrixError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MatrixError(f"{path}: {error}") from None
    entries = document.pop("kernel", None)
    if document:
        raise MatrixError(f"{path}: unknown: {', '.join(sorted(document))}; only [[kernel]] is")
    if not isinstance(entries, list) or not entries:
        raise MatrixError(f"{path}: no [[kernel]]")
    kernels = [_kernel(f"{path}: kernel {number}", entry) for number, entry in enumerate(entries, 1)]
    names = [kernel.name for kernel in kernels]
    for name in names:
        if names.count(name) > 1:
            raise MatrixError(f"{path}: two kernels are named {name}")
    return kernels


def choose(kernels: Sequence[Kernel], names: Sequence[str]) -> list[Kernel]:
    """The kernels with these names, in the order of the file; all of them without a name.

    Raises:
        MatrixError: there is no kernel of a name.
    """
    known = [kernel.name for kernel in kernels]
    for name in names:
        if name not in known:
            raise MatrixError(f"no kernel is named {name!r}; there are: {', '.join(known)}")
    return [kernel for kernel in kernels if not names or kernel.name in names]


def _kernel(where: str, entry: Any) -> Kernel:
    if not isinstance(entry, dict):
        raise MatrixError(f"{where} is no table")
    fields = {"name": str, "package": str, "suites": list, "may_lack": list}
    for key, value in entry.items():
        if key not in fields:
            raise MatrixError(f"{where}: unknown: {key}")
        if not isinstance(value, fields[key]):
            raise MatrixError(f"{where}: {key} is {value!r}")
    missing = [key for key in fields if key not in entry]
    if missing:
        raise MatrixError(f"{where}: without {', '.join(missing)}")
    for word in (entry["name"], entry["package"], *entry["suites"]):
        # Suites and packages become words of apt's files and commands.
        if not isinstance(word, str) or not NAME.fullmatch(word):
            raise MatrixError(f"{where}: {word!r} is no name")
    if not entry["suites"]:
        raise MatrixError(f"{where}: no suite")
    for capability in entry["may_lack"]:
        if capability not in CAPABILITIES and not TRACEPOINT.fullmatch(str(capability)):
            allowed = ", ".join((*CAPABILITIES, "tp:NAME"))
            raise MatrixError(f"{where}: may_lack has {capability!r}; there are: {allowed}")
    return Kernel(entry["name"], tuple(entry["suites"]), entry["package"], tuple(entry["may_lack"]))
