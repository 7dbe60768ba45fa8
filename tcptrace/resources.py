"""Files that are shipped with the package but live outside it in a checkout.

A wheel carries them inside the package (setup.py puts them there); in a checkout, where the package is
installed in editable mode, they are found beside it:

    ==============  =================================  =========================
    what            in a wheel                         in a checkout
    ==============  =================================  =========================
    eBPF objects    tcptrace/_bpf/ARCH/NAME.bpf.o      build/ARCH/NAME.bpf.o
    eBPF sources    tcptrace/_bpf/src                  bpf
    report pages    tcptrace/_reports                  reports
    ==============  =================================  =========================
"""

import platform
from pathlib import Path

from tcptrace.errors import HostError, TcptraceError

_PACKAGE = Path(__file__).resolve().parent


def bpf_object(name: str, *, package: Path = _PACKAGE) -> Path:
    """The compiled eBPF programs of bpf/NAME.bpf.c for this machine's architecture.

    Raises HostError when there is none: not compiled yet, or another architecture; or when a checkout's is
    older than its sources, because the records that it makes may be others than the ones read here.
    """
    machine = platform.machine()
    shipped = package / "_bpf" / machine / f"{name}.bpf.o"
    built = package.parent / "build" / machine / f"{name}.bpf.o"
    if shipped.is_file():
        return shipped
    if built.is_file():
        newer = _newer_source(built, package.parent, name)
        if newer:
            raise HostError(f"{built} is older than {newer}: run `make bpf` in {package.parent}")
        return built
    if (package / "_bpf").is_dir():
        raise HostError(f"this installation has no eBPF programs for {machine}: nothing can be recorded here")
    raise HostError(f"{built} is missing, so nothing can be recorded: run `make setup` in {package.parent}")


def _newer_source(built: Path, checkout: Path, name: str) -> str | None:
    """The first source of an object, by the compiler's own list of them, that was changed after it."""
    try:
        words = (checkout / "build" / f"{name}.bpf.d").read_text().split()
    except OSError:
        return None
    sources = [word for word in words if word.startswith("bpf/") and not word.endswith(":")]
    compiled = built.stat().st_mtime_ns
    for source in sources:
        path = checkout / source
        if path.exists() and path.stat().st_mtime_ns > compiled:
            return source
    return None


def bpf_source_dir(*, package: Path = _PACKAGE) -> Path:
    """The directory of the eBPF sources, for loaders that compile on the host. Raises TcptraceError."""
    return _directory("eBPF sources", package / "_bpf" / "src", package.parent / "bpf")


def reports_dir(*, package: Path = _PACKAGE) -> Path:
    """The directory of the report's templates and assets. Raises TcptraceError."""
    return _directory("report's pages", package / "_reports", package.parent / "reports")


def _directory(what: str, *candidates: Path) -> Path:
    for path in candidates:
        if path.is_dir():
            return path
    raise TcptraceError(f"the {what} are missing from this installation: {candidates[0]}")
