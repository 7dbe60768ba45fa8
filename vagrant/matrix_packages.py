"""From an entry of kernels.toml to an unpacked kernel in the user's cache.

Each kernel has an apt directory of its own, beside the system's: its suites are asked on the mirrors that the
machine's own sources name, so that proxies, credentials and keys are the system's. Nothing is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from matrix_kernels import Kernel, MatrixError

FRESH_SECONDS = 12 * 3600
"""Lists so old are good enough: a run soon after another downloads nothing."""
UPDATE_SECONDS, DOWNLOAD_SECONDS, LOCAL_SECONDS = 300, 600, 120

DEBIAN = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
RELEASES = {"bullseye", "bookworm", "trixie", "forky", "sid"}
RELEASES |= {"oldoldstable", "oldstable", "stable", "testing", "unstable"}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# linux-image-VERSION and the parts into which newer kernels are split; not headers, not linux-base itself.
PART = re.compile(r"linux-(?:image|binary|modules|base)-\d[\w.+-]*")
EXACT = re.compile(r"(\S+) \(= ([^)]+)\)")


@dataclass(frozen=True)
class Source:
    """One suite of one archive, as apt's sources name it."""

    uri: str
    suite: str
    components: tuple[str, ...]


@dataclass(frozen=True)
class Package:
    """A package in exactly one version."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}={self.version}"


def cache() -> Path:
    """Where kernels are kept: ${XDG_CACHE_HOME:-~/.cache}/tcptrace."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tcptrace"


def fetch(kernel: Kernel, say: Callable[[str], None]) -> Path:
    """The directory with the newest version of this kernel, downloaded and unpacked unless it is there.

    Raises:
        MatrixError: it cannot be had; names the step and says what apt said.
    """
    home = cache() / "kernels" / kernel.name
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home / "lock"):
        apt = _Apt(home / "apt", kernel)
        apt.update(say)
        parts = parts_of(kernel.package, apt.show)
        target = home / f"{parts[0].name}_{parts[0].version}".replace("~", "-")
        if not target.exists():
            say(f"downloading {parts[0].name} {parts[0].version}")
            with tempfile.TemporaryDirectory(dir=home, prefix="unpacking-") as name:
                apt.download(parts, Path(name))
                for archive in sorted(Path(name).glob("*.deb")):
                    _run(["dpkg-deb", "-x", str(archive), f"{name}/root"], LOCAL_SECONDS, f"unpack {archive}")
                _depmod(Path(name) / "root")
                Path(name, "root").rename(target)
        (target / "used").touch()
        _forget_others(home, target)
        return target


def parts_of(package: str, show: Callable[[str], str]) -> list[Package]:
    """The packages of a kernel, its image first, by following exact dependencies from a metapackage.

    Args:
        show: what `apt-cache show` prints of a package's newest version.

    Raises:
        MatrixError: the metapackage names no image.
    """
    found: list[Package] = []
    left = [package]
    while left:
        for name, version in EXACT.findall(_field(show(left.pop(0)), "Depends")):
            part = Package(name, version)
            if PART.fullmatch(name) and part not in found:
                found.append(part)
                left.append(name)
    found.sort(key=lambda part: not part.name.startswith("linux-image-"))
    if not found or not found[0].name.startswith("linux-image-"):
        raise MatrixError(f"{package} depends on no linux-image-VERSION of an exact version")
    return found


def _field(stanza: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*)$", stanza.partition("\n\n")[0], re.MULTILINE)
    return found.group(1) if found else ""


def read_sources(text: str) -> list[Source]:
    """What a file of apt's sources names, in either of its formats; what is switched off is left out."""
    found: list[Source] = []
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.lstrip().startswith("#")]
        if any(re.match(r"\s*deb\s", line) for line in lines):
            for line in lines:
                found += _one_line(line)
        else:
            found += _fields(lines)
    return found


def _one_line(line: str) -> list[Source]:
    words = re.sub(r"\[[^]]*\]", "", line.partition("#")[0]).split()
    if len(words) < 4 or words[0] != "deb":
        return []
    return [Source(words[1].rstrip("/"), words[2], tuple(words[3:]))]


def _fields(lines: list[str]) -> list[Source]:
    fields: dict[str, list[str]] = {}
    key = ""
    for line in lines:
        if line[:1].isspace():
            fields.setdefault(key, []).extend(line.split())
        elif ":" in line:
            key, _, value = line.partition(":")
            key = key.lower()
            fields[key] = value.split()
    if "deb" not in fields.get("types", []) or fields.get("enabled", ["yes"])[0].lower() in ("no", "false"):
        return []
    components = tuple(fields.get("components", []))
    return [Source(uri.rstrip("/"), suite, components)
            for uri in fields.get("uris", []) for suite in fields.get("suites", [])]  # fmt: skip


def mirror(suite: str, sources: list[Source]) -> str:
    """The archive that has a suite: where the machine's own sources find the like, else Debian's own."""
    ending = "-security" if suite.endswith("-security") else ""
    alike = {release + ending for release in RELEASES}
    uris = [one.uri for one in sources if one.suite in alike and "main" in one.components]
    # Archives of others use Debian's suite names, too; Debian's end in this on every mirror.
    named = [uri for uri in uris if uri.endswith("/debian" + ending)]
    return (named or uris or [SECURITY if ending else DEBIAN])[0]


def own_sources() -> list[Source]:
    """What this machine's apt is configured to use."""
    etc = Path("/etc/apt")
    files = [etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list"))]
    files += sorted(etc.glob("sources.list.d/*.sources"))
    return [one for file in files if file.is_file() for one in read_sources(file.read_text(errors="replace"))]


class _Apt:
    """apt with sources, lists and cache of its own, and the system's configuration otherwise."""

    def __init__(self, home: Path, kernel: Kernel) -> None:
        self._home, self._kernel = home, kernel
        for name in ("lists/partial", "cache/archives/partial"):
            (home / name).mkdir(parents=True, exist_ok=True)
        (home / "status").touch()
        options = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        known = own_sources()
        lines = [f"deb {options}{mirror(suite, known)} {suite} main\n" for suite in kernel.suites]
        listing = home / "sources.list"
        if not listing.exists() or listing.read_text() != "".join(lines):
            listing.write_text("".join(lines))
            (home / "updated").unlink(missing_ok=True)
        self._options = [
            f"-oDir::Etc::sourcelist={listing}",
            "-oDir::Etc::sourceparts=/dev/null",
            "-oDir::Etc::preferences=/dev/null",
            "-oDir::Etc::preferencesparts=/dev/null",
            f"-oDir::State={home}",
            f"-oDir::State::lists={home / 'lists'}",
            f"-oDir::State::status={home / 'status'}",
            f"-oDir::Cache={home / 'cache'}",
            "-oDir::Cache::pkgcache=pkgcache.bin",  # container images switch it off
            "-oAPT::Architecture=amd64",
            "-oAPT::Sandbox::User=",
            "-oAcquire::Languages=none",
            "-oAcquire::Retries=2",
        ]

    def update(self, say: Callable[[str], None]) -> None:
        """Fetch the lists, unless they are fresh. Old ones are used when that fails."""
        mark = self._home / "updated"
        if mark.exists() and time.time() - mark.stat().st_mtime < FRESH_SECONDS:
            return
        try:
            self._apt("apt-get", "-q", "update", "-oAPT::Update::Error-Mode=any", seconds=UPDATE_SECONDS)
        except MatrixError as error:
            if not mark.exists():
                raise
            say(f"using older lists: {error}")
        else:
            mark.touch()

    def show(self, package: str) -> str:
        """What `apt-cache show` says of a package's newest version."""
        return self._apt("apt-cache", "show", "--no-all-versions", package, seconds=LOCAL_SECONDS)

    def download(self, parts: list[Package], directory: Path) -> None:
        """Fetch packages, checked against the signed lists, into a directory."""
        words = [str(part) for part in parts]
        self._apt("apt-get", "-q", "download", *words, seconds=DOWNLOAD_SECONDS, directory=directory)

    def _apt(self, command: str, *words: str, seconds: float, directory: Path | None = None) -> str:
        whose = f"fetch kernel {self._kernel.name} ({', '.join(self._kernel.suites)})"
        return _run([command, *self._options, *words], seconds, whose, directory)


def _run(command: list[str], seconds: float, purpose: str, directory: Path | None = None) -> str:
    """What a command prints; a :class:`MatrixError` with its last lines when it fails or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False,
            cwd=directory, stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except FileNotFoundError:
        raise MatrixError(f"cannot {purpose}: no {command[0]} here; it comes with Debian") from None
    except subprocess.TimeoutExpired:
        raise MatrixError(f"cannot {purpose}: {command[0]} took longer than {seconds:.0f} s") from None
    if done.returncode:
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-4:]
        shown = [command[0], *(word for word in command[1:] if not word.startswith("-o"))]
        raise MatrixError(f"cannot {purpose}: {shlex.join(shown)}: {'; '.join(last) or done.returncode}")
    return done.stdout


def _depmod(root: Path) -> None:
    """Make modules.dep, which a package's installation would have made."""
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")  # where depmod and modprobe look
    release = next((root / "lib/modules").glob("[0-9]*")).name
    depmod = shutil.which("depmod", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "depmod"
    _run([depmod, "-b", str(root), release], LOCAL_SECONDS, f"index the modules of {release}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget_others(home: Path, current: Path) -> None:
    """Remove versions that nobody used for two weeks; a guest that runs has touched its own."""
    for used in home.glob("linux-image-*/used"):
        if used.parent != current and time.time() - used.stat().st_mtime > 14 * 24 * 3600:
            shutil.rmtree(used.parent, ignore_errors=True)
