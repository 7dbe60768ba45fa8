"""Can this host run the main job? Each requirement by itself, with what it prevents and what to type.

Trying beats asking: the programs are loaded and attached for a moment, because kernels differ in what they
allow and no version number tells.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tcptrace import invocation, resources
from tcptrace.acquire import libbpf, loader
from tcptrace.acquire.providers import Hook
from tcptrace.errors import HostError, TcptraceError

STATUS = Path("/proc/self/status")
BTF = Path("/sys/kernel/btf/vmlinux")
LOCKDOWN = Path("/sys/kernel/security/lockdown")
TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))

# include/uapi/linux/capability.h; CAP_SYS_ADMIN contains the first two
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39}
_CAP_SYS_ADMIN = 21


@dataclass(frozen=True)
class Check:
    """One requirement. `ok` is None when it cannot be told from here."""

    name: str
    ok: bool | None
    required: bool
    found: str
    consequence: str | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class Preflight:
    checks: list[Check]
    hooks: list[Hook]

    @property
    def ready(self) -> bool:
        """The main job can run."""
        return all(check.ok is not False for check in self.checks if check.required)

    def as_json(self) -> dict[str, Any]:
        return {
            "ready": self.ready,
            "checks": [asdict(check) for check in self.checks],
            "hooks": [hook.as_json() for hook in self.hooks],
        }


def _effective() -> int:
    """This process's effective capabilities as a bit set (proc_pid_status(5))."""
    for line in STATUS.read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def has_capability(number: int) -> bool:
    """Whether the capability of this number (include/uapi/linux/capability.h) is effective here."""
    return bool(_effective() >> number & 1)


def missing_capabilities() -> list[str]:
    """Names of the capabilities that this process lacks for recording; empty for root."""
    admin = has_capability(_CAP_SYS_ADMIN)
    return [
        name
        for name, bit in _CAPABILITIES.items()
        if not has_capability(bit) and not (admin and name != "CAP_NET_ADMIN")
    ]


def require_privileges() -> None:
    """Raises HostError when this process may not record, naming what it lacks."""
    missing = missing_capabilities()
    if missing:
        raise HostError(
            f"recording needs root: {', '.join(missing)} missing; run it with sudo "
            f"(`{invocation.command()} doctor` tells more)"
        )


def _privileges() -> Check:
    missing = missing_capabilities()
    if not missing:
        return Check("privileges", True, True, "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN")
    return Check(
        "privileges",
        False,
        True,
        f"{', '.join(missing)} missing",
        "the kernel will not load the eBPF programs",
        f"sudo {invocation.command()} doctor",
    )


def _other_namespaces() -> Check:
    if _effective() >> _CAP_SYS_ADMIN & 1:
        return Check("other network namespaces", True, False, "CAP_SYS_ADMIN")
    return Check(
        "other network namespaces",
        False,
        False,
        "CAP_SYS_ADMIN missing",
        "connections open before the recording are found in this network namespace only",
        f"sudo {invocation.command()} record",
    )


def _btf() -> Check:
    if BTF.is_file():
        return Check("BTF", True, True, str(BTF))
    return Check(
        "BTF",
        False,
        True,
        f"{BTF} is missing",
        "the programs cannot be fitted to this kernel",
        "boot a kernel with CONFIG_DEBUG_INFO_BTF=y",
    )


def _libbpf() -> Check:
    try:
        return Check("libbpf 1.x", True, True, f"{libbpf.LIBRARY}, version {libbpf.version()}")
    except HostError as error:
        return Check(
            "libbpf 1.x", False, True, str(error), "no eBPF program can be loaded", "apt install libbpf1"
        )


def _programs() -> Check:
    try:
        return Check("eBPF programs", True, True, str(resources.bpf_object("lifecycle")))
    except HostError as error:
        return Check("eBPF programs", False, True, str(error), "nothing can be loaded", "make setup")


def _lockdown() -> Check:
    try:
        text = LOCKDOWN.read_text()
    except OSError:
        found = "cannot be read" if LOCKDOWN.parent.is_dir() else "securityfs is not there"
        remedy = "mount -t securityfs securityfs /sys/kernel/security"
        return Check("lockdown", None, False, found, None, remedy)
    level = text.split("[")[1].split("]")[0]
    if level == "confidentiality":
        return Check(
            "lockdown",
            False,
            True,
            "confidentiality",
            "eBPF may not read kernel memory",
            "boot without lockdown=confidentiality",
        )
    return Check("lockdown", True, False, level)


def _tracefs() -> Check:
    hidden = False
    for path in TRACEFS:
        try:
            if (path / "events").is_dir():
                return Check("tracefs", True, False, str(path))
        except PermissionError:
            hidden = True
    if hidden:
        return Check("tracefs", None, False, "only root can tell")
    return Check(
        "tracefs",
        False,
        False,
        "not mounted",
        "nothing today: the hooks in use are found in BTF",
        "mount -t tracefs tracefs /sys/kernel/tracing",
    )


def _report_packages() -> Check:
    from importlib.util import find_spec

    missing = [name for name in ("pandas", "plotly", "jinja2") if find_spec(name) is None]
    if not missing:
        return Check("report packages", True, False, "pandas, plotly, jinja2")
    return Check(
        "report packages",
        False,
        False,
        f"{', '.join(missing)} missing",
        "tcptrace report cannot write its page; everything else works",
        invocation.install_report(),
    )


def _shadow() -> Check | None:
    """Debian ships an unrelated analyser of packet captures under the same name."""
    path = shutil.which("tcptrace")
    if path is None or not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        if file.read(4) != b"\x7fELF":
            return None
    return Check(
        "command name",
        False,
        False,
        f"{path} is another program called tcptrace",
        "typing tcptrace starts that one",
        "python -m tcptrace",
    )


def _trial(providers: Mapping[str, str]) -> Iterator[Check | list[Hook]]:
    """Loads and attaches everything for a moment."""
    try:
        loaded = loader.load(buffer_bytes=1 << 16, providers=providers)
    except TcptraceError as error:
        yield Check("ring buffer and tracepoints", False, True, str(error), "nothing can be recorded", None)
        return
    try:
        state = "hash" if loaded.variant["use_hash"] else "socket storage"
        if loaded.variant["use_table"]:
            state = f"a table, then {state}"
        cookie = "" if loaded.variant["has_cookie"] else "; no socket cookies on this kernel"
        programs = ""
        if loaded.plain:
            programs = " the plain programs, because this kernel takes no faster ones"
            cookie = "; cookies only of sockets that have one already"
        yield Check("ring buffer", True, True, f"loaded{programs}; state per socket in {state}{cookie}")
        yield loaded.hooks
    finally:
        loaded.close()


def preflight(providers: Mapping[str, str] | None = None) -> Preflight:
    """Checks everything. Needs no privileges; without them the trial load is left out.

    `providers`: as for `loader.load`; one that cannot be used fails the trial.
    """
    checks = [_privileges(), _btf(), _libbpf(), _programs(), _lockdown(), _tracefs(), _other_namespaces()]
    checks.append(_report_packages())
    shadow = _shadow()
    if shadow:
        checks.append(shadow)
    hooks: list[Hook] = []
    if all(check.ok is not False for check in checks if check.required):
        for found in _trial(providers or {}):
            if isinstance(found, Check):
                checks.append(found)
            else:
                hooks = found
    return Preflight(checks, hooks)
