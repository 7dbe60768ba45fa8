"""Each requirement by itself: what doctor says when exactly that one is missing, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tcptrace.acquire import libbpf, loader, preflight
from tcptrace.acquire.objects import WHOLE_VARIANT
from tcptrace.acquire.preflight import Check, missing_capabilities, require_privileges
from tcptrace.acquire.providers import BUDGET, LIFECYCLE, Hook
from tcptrace.errors import EXIT_HOST, EXIT_OK, HostError

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
CAP_SYS_ADMIN = 21
NEEDED = {"CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39}
ALL = sum(1 << bit for bit in NEEDED.values()) | 1 << CAP_SYS_ADMIN
HOOKS = [
    Hook(fact.name, fact.providers[0].name, True, None, ((fact.providers[0], None),)) for fact in LIFECYCLE
]


class Loaded:
    """What a trial load gives, without a kernel."""

    variant: ClassVar[dict[str, int]] = {"use_table": 1, "use_hash": 0, "has_cookie": 1}
    plain = False
    hooks = HOOKS
    closed = 0

    def close(self) -> None:
        Loaded.closed += 1


class Host:
    """A host on which everything is there; a test takes one thing away."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.status = place / "status"
        self.btf = place / "vmlinux"
        self.security = place / "security"
        self.tracing = place / "tracing"
        self.object = place / "lifecycle.bpf.o"
        self.capabilities(ALL)
        self.btf.touch()
        self.security.mkdir()
        (self.security / "lockdown").write_text("none [integrity] confidentiality\n")
        (self.tracing / "events").mkdir(parents=True)
        self.object.touch()
        monkeypatch.setattr(preflight, "STATUS", self.status)
        monkeypatch.setattr(preflight, "BTF", self.btf)
        monkeypatch.setattr(preflight, "LOCKDOWN", self.security / "lockdown")
        monkeypatch.setattr(preflight, "TRACEFS", (place / "nowhere", self.tracing))
        monkeypatch.setattr(libbpf, "version", lambda: "1.1")
        monkeypatch.setattr(preflight.resources, "bpf_object", lambda name: self.object)
        monkeypatch.setattr(loader, "load", lambda **options: Loaded())
        monkeypatch.setenv("PATH", str(place))

    def capabilities(self, bits: int) -> None:
        self.status.write_text(f"Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t{bits:016x}\nCapBnd:\t1\n")

    def fail(self, owner: Any, name: str, error: Exception) -> None:
        def raises(*_: Any, **__: Any) -> Any:
            raise error

        self.monkeypatch.setattr(owner, name, raises)

    def not_ok(self) -> dict[str, Check]:
        """The checks that are not fine; all the others are."""
        return {check.name: check for check in preflight.preflight().checks if check.ok is not True}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    Loaded.closed = 0
    yield Host(tmp_path, monkeypatch)


def test_a_host_with_everything_is_ready(host: Host) -> None:
    result = preflight.preflight()
    assert result.ready
    assert host.not_ok() == {}
    assert result.hooks == HOOKS
    assert Loaded.closed == 2, "the trial leaves nothing loaded"


@pytest.mark.parametrize("name", NEEDED)
def test_each_capability_is_missed_by_name(host: Host, name: str) -> None:
    host.capabilities(ALL & ~(1 << CAP_SYS_ADMIN) & ~(1 << NEEDED[name]))
    assert missing_capabilities() == [name]
    found = host.not_ok()["privileges"]
    assert (found.ok, found.required) == (False, True)
    assert name in found.found
    assert found.consequence and found.remedy and "sudo" in found.remedy
    assert not preflight.preflight().ready
    assert preflight.preflight().hooks == [], "no trial without privileges"
    with pytest.raises(HostError, match=name) as raised:
        require_privileges()
    assert "sudo" in str(raised.value) and "tcptrace doctor" in str(raised.value)


def test_cap_sys_admin_contains_the_two_newer_ones(host: Host) -> None:
    host.capabilities(1 << CAP_SYS_ADMIN | 1 << NEEDED["CAP_NET_ADMIN"])
    assert missing_capabilities() == []
    host.capabilities(1 << CAP_SYS_ADMIN)
    assert missing_capabilities() == ["CAP_NET_ADMIN"]


def test_without_cap_sys_admin_other_namespaces_are_left_out(host: Host) -> None:
    host.capabilities(ALL & ~(1 << CAP_SYS_ADMIN))
    (found,) = host.not_ok().values()
    assert (found.name, found.required) == ("other network namespaces", False)
    assert "this network namespace only" in (found.consequence or "")
    assert found.remedy
    assert preflight.preflight().ready


def test_no_btf(host: Host) -> None:
    host.btf.unlink()
    (found,) = host.not_ok().values()
    assert (found.name, found.ok, found.required) == ("BTF", False, True)
    assert str(host.btf) in found.found
    assert found.consequence and "CONFIG_DEBUG_INFO_BTF" in (found.remedy or "")
    assert not preflight.preflight().ready


@pytest.mark.parametrize("old", [False, True])
def test_no_libbpf(monkeypatch: pytest.MonkeyPatch, old: bool) -> None:
    library = libbpf.library.__wrapped__
    monkeypatch.setattr(libbpf, "LIBRARY", "libbpf.so.1-is-not-here")
    monkeypatch.setattr(libbpf, "_loads", lambda name: old)
    with pytest.raises(HostError, match="apt install libbpf1") as raised:
        library()
    assert ("only libbpf 0.x" in str(raised.value)) == old


def test_libbpf_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "_CALLS", {"bpf_no_such_call": (None, [])})
    with pytest.raises(HostError, match=r"libbpf 1\.0 or later"):
        libbpf.library.__wrapped__()


def test_no_libbpf_is_one_check(host: Host) -> None:
    host.fail(libbpf, "version", HostError("libbpf.so.1 is missing: apt install libbpf1"))
    (found,) = host.not_ok().values()
    assert (found.name, found.ok, found.required) == ("libbpf 1.x", False, True)
    assert found.consequence and found.remedy == "apt install libbpf1"
    assert not preflight.preflight().ready


def test_no_programs(host: Host) -> None:
    host.fail(preflight.resources, "bpf_object", HostError("x.bpf.o is missing"))
    (found,) = host.not_ok().values()
    assert (found.name, found.ok, found.required) == ("eBPF programs", False, True)
    assert found.consequence and found.remedy == "make setup"
    assert not preflight.preflight().ready


def test_lockdown_for_confidentiality(host: Host) -> None:
    (host.security / "lockdown").write_text("none integrity [confidentiality]\n")
    (found,) = host.not_ok().values()
    assert (found.name, found.ok, found.required) == ("lockdown", False, True)
    assert found.consequence and found.remedy
    assert not preflight.preflight().ready


@pytest.mark.parametrize("level", ["none", "integrity"])
def test_other_lockdown_is_fine(host: Host, level: str) -> None:
    text = "none integrity confidentiality\n".replace(level, f"[{level}]")
    (host.security / "lockdown").write_text(text)
    assert host.not_ok() == {}
    assert preflight._lockdown().found == level


@pytest.mark.parametrize("mounted", [True, False])
def test_lockdown_that_cannot_be_read_is_unknown(host: Host, mounted: bool) -> None:
    (host.security / "lockdown").unlink()
    if not mounted:
        host.security.rmdir()
    (found,) = host.not_ok().values()
    assert (found.name, found.ok, found.required) == ("lockdown", None, False)
    assert "securityfs" in (found.remedy or "")
    assert preflight.preflight().ready


def test_a_tracefs_that_only_root_may_enter_is_unknown(host: Host) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    host.monkeypatch.setattr(Path, "is_dir", refused)
    found = preflight._tracefs()
    assert (found.name, found.ok, found.required) == ("tracefs", None, False)


def test_no_tracefs_prevents_nothing(host: Host) -> None:
    (host.tracing / "events").rmdir()
    (found,) = host.not_ok().values()
    assert (found.name, found.ok, found.required) == ("tracefs", False, False)
    assert found.remedy and "mount" in found.remedy
    assert preflight.preflight().ready


@pytest.mark.parametrize("package", ["pandas", "plotly", "jinja2"])
def test_each_report_package_is_missed_by_name(host: Host, package: str) -> None:
    host.monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else object())
    (found,) = host.not_ok().values()
    assert (found.name, found.required, found.found) == ("report packages", False, f"{package} missing")
    assert found.remedy == f"{sys.executable} -m pip install 'tcptrace[report]'"
    assert preflight.preflight().ready


def test_another_tcptrace_in_the_path_is_noted(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "tcptrace"
    path.write_text("#!/usr/bin/python3\n")
    path.chmod(0o755)
    assert host.not_ok() == {}
    path.write_bytes(b"\x7fELF...")
    (found,) = host.not_ok().values()
    assert (found.name, found.ok, found.required) == ("command name", False, False)
    assert str(path) in found.found
    assert found.remedy == "python -m tcptrace"
    assert preflight.preflight().ready


def test_a_trial_that_fails_is_told(host: Host) -> None:
    host.fail(loader, "load", HostError("state transition: this kernel has no tracepoint"))
    (found,) = host.not_ok().values()
    assert (found.ok, found.required) == (False, True)
    assert "no tracepoint" in found.found and found.consequence
    result = preflight.preflight()
    assert not result.ready and result.hooks == []


def test_fallbacks_are_told(host: Host) -> None:
    host.monkeypatch.setattr(Loaded, "variant", {"use_table": 0, "use_hash": 1, "has_cookie": 0})
    found = {check.name: check for check in preflight.preflight().checks}["ring buffer"]
    assert found.ok and "hash" in found.found and "no socket cookies" in found.found


def test_the_plain_object_is_told(host: Host) -> None:
    host.monkeypatch.setattr(Loaded, "variant", WHOLE_VARIANT)
    host.monkeypatch.setattr(Loaded, "plain", True)
    found = {check.name: check for check in preflight.preflight().checks}["ring buffer"]
    assert found.ok and found.found == (
        "loaded the plain programs, because this kernel takes no faster ones; state per socket in hash; "
        "cookies only of sockets that have one already"
    )


def test_every_fact_says_what_is_lost_without_it() -> None:
    facts = (*LIFECYCLE, *BUDGET)
    assert len({fact.name for fact in facts}) == len(facts)
    assert all(fact.consequence for fact in facts)
    assert [fact.name for fact in facts if fact.required] == ["state transition", "end of the socket"]


def doctor(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The real command."""
    return subprocess.run(
        [*prefix, sys.executable, "-m", "tcptrace", "doctor", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
    )


@pytest.fixture(params=["nobody", "root without capabilities"])
def unprivileged(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What makes a command run without privileges."""
    if os.geteuid() != 0:
        return ()
    if request.param != "nobody":
        return ("setpriv", "--bounding-set=-all")
    prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    reachable = [*prefix, sys.executable, "-m", "tcptrace", "--version"]
    if subprocess.run(reachable, capture_output=True, check=False, cwd=ROOT).returncode:
        pytest.skip("this checkout is hidden from other users")
    return prefix


def test_doctor_without_privileges_says_no_and_what_to_type(unprivileged: tuple[str, ...]) -> None:
    done = doctor(prefix=unprivileged)
    assert done.returncode == EXIT_HOST, done.stderr
    assert done.stderr == ""
    lines = [line.strip() for line in done.stdout.splitlines()]
    index = next(i for i, line in enumerate(lines) if "privileges:" in line)
    assert lines[index].startswith("no ") and "CAP_BPF" in lines[index]
    assert lines[index + 1].startswith("prevents:")
    assert lines[index + 2].startswith("type:") and "sudo" in lines[index + 2]
    assert lines[-1].startswith("This host cannot record: privileges")
    assert "\x1b" not in done.stdout


def test_doctor_without_privileges_as_json(unprivileged: tuple[str, ...]) -> None:
    done = doctor("--json", prefix=unprivileged)
    assert done.returncode == EXIT_HOST
    check_schema(json.loads(done.stdout), ready=False)


def check_schema(found: dict[str, Any], ready: bool) -> None:
    assert set(found) == {"ready", "checks", "hooks"}
    assert found["ready"] is ready
    names = [check["name"] for check in found["checks"]]
    assert len(set(names)) == len(names)
    assert {"privileges", "BTF", "libbpf 1.x", "eBPF programs", "lockdown", "tracefs"} <= set(names)
    for check in found["checks"]:
        assert set(check) == {"name", "ok", "required", "found", "consequence", "remedy"}
        assert check["ok"] in (True, False, None)
        assert isinstance(check["required"], bool)
        assert isinstance(check["found"], str) and check["found"]
        if check["ok"] is False:
            assert check["consequence"]
    for hook in found["hooks"]:
        assert set(hook) == {"fact", "provider", "exact", "reason", "providers"}
        used = [listed for listed in hook["providers"] if listed["used"]]
        assert [listed["provider"] for listed in used] == [hook["provider"]] * (hook["provider"] is not None)
        for listed in hook["providers"]:
            assert set(listed) == {"provider", "used", "exact", "capability", "reason"}
    if ready:
        assert [hook["fact"] for hook in found["hooks"]] == [fact.name for fact in (*LIFECYCLE, *BUDGET)]


@pytest.mark.skipif(os.geteuid() != 0, reason="not root")
def test_doctor_as_root() -> None:
    done = doctor("--json")
    found = json.loads(done.stdout)
    assert done.returncode == (EXIT_OK if found["ready"] else EXIT_HOST)
    check_schema(found, found["ready"])
    printed = doctor()
    assert printed.returncode == done.returncode
    for hook in found["hooks"]:
        assert hook["fact"] in printed.stdout and (hook["provider"] or "missing") in printed.stdout
