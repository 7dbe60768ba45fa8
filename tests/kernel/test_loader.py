"""What the loader makes of kernels that refuse a program, lack a helper or have no such tracepoint.

The kernel is the real one; a program that it must refuse is compiled for the purpose.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import require
from drive import SERVER, ack_at_once, agreed, connect, linger_zero, listen, receive, wait_closed
from objects import refused_object
from recording import Row, expect, finished, only, run
from tcptrace import resources
from tcptrace.acquire import kernel as kernels
from tcptrace.acquire import libbpf, loader, objects
from tcptrace.acquire.filters import Filters
from tcptrace.acquire.loaded import Loaded
from tcptrace.acquire.providers import BUDGET, LIFECYCLE, Hook
from tcptrace.acquire.recorder import Options, Recorder
from tcptrace.errors import EXIT_INCOMPLETE, EXIT_OK, HostError
from tcptrace.lab.namespaces import SIDE_B, Namespace

Wired = tuple[Namespace, Namespace]

SMALL = 1 << 16
FACTS = LIFECYCLE + BUDGET
FACT = {fact.providers[0].programs[0]: fact for fact in FACTS if fact.providers[0].programs}
"""By the program of the best provider, which is the one in use here."""


pytestmark = pytest.mark.usefixtures("can_record")


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the loader use an object in which the verifier must refuse these programs."""
    require(shutil.which("clang") is not None, "no clang: apt install clang")

    def make(*programs: str, only_with_hash: bool = False) -> None:
        condition = "TT_CONFIG(use_hash)" if only_with_hash else "1"
        object_ = refused_object(tmp_path, *programs, condition=condition)
        monkeypatch.setattr(resources, "bpf_object", lambda name: object_)

    return make


def by_program(loaded: Loaded) -> dict[str, Hook]:
    """The hooks of programs; settings are none."""
    hooks = {hook.fact: hook for hook in loaded.hooks}
    assert list(hooks) == [fact.name for fact in FACTS]
    return {program: hooks[fact.name] for program, fact in FACT.items()}


def loaded_hooks() -> dict[str, Hook]:
    """Fact's program -> its hook, after loading everything for a moment."""
    loaded = loader.load(buffer_bytes=SMALL)
    try:
        return by_program(loaded)
    finally:
        loaded.close()


def missing(hooks: dict[str, Hook]) -> dict[str, str]:
    """Programs whose fact has another provider or none, with the reasons; the others must be as always."""
    for program, hook in hooks.items():
        assert hook.fact == FACT[program].name
        first = FACT[program].providers[0]
        assert (hook.reason is None) == (hook.provider == first.name), hook
        assert hook.exact == any(p.exact for p in FACT[program].providers if p.name == hook.provider)
    return {program: hook.reason or "" for program, hook in hooks.items() if hook.reason}


class Recorded:
    """A recording of this process; `rows` and `header` are there once the block has ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self.header: dict[str, Any] = {}


@contextlib.contextmanager
def recorded(path: Path, *spaces: Namespace) -> Iterator[Recorded]:
    filters = Filters(namespaces=tuple(str(space.inode) for space in spaces))
    recorder = Recorder(Options(path, filters, buffer_bytes=SMALL))
    result = Recorded(path)
    try:
        recorder.start()
        yield result
        losses = recorder.stop()
        # what the kernel skips elsewhere on the host, see docs/adr/0002-journal.md
        assert all(cause.startswith("recursion.") for cause in losses), losses
    finally:
        recorder.close()
    code = EXIT_INCOMPLETE if losses else EXIT_OK
    done = run("connections", str(path), "--format", "ndjson")
    assert done.returncode == code, done.stderr
    result.rows = [json.loads(line) for line in done.stdout.splitlines()]
    result.header = json.loads(run("info", str(path), "--json").stdout)["header"]


def one_connection(a: Namespace, b: Namespace) -> tuple[int, dict[str, object], dict[str, object]]:
    """From a to b, with data each way, closed by the client. The client's port, what both ends agreed on."""
    with listen(b) as listener:
        client = connect(a, SIDE_B.ipv4)
        server = listener.accept()[0]
    port, facts = client.getsockname()[1], (agreed(client), agreed(server))
    client.sendall(b"request")
    assert receive(server, 7) == b"request"
    server.sendall(b"an answer")
    assert receive(client, 9) == b"an answer"
    ack_at_once(server)
    client.close()
    assert receive(server, 1) == b""
    wait_closed(a, port)
    server.close()
    wait_closed(b, SERVER)
    return port, *facts


def one_reset(a: Namespace, b: Namespace) -> int:
    """From a to b, ended by the client's reset. The client's port."""
    with listen(b) as listener:
        client = connect(a, SIDE_B.ipv4)
        server = listener.accept()[0]
    port: int = client.getsockname()[1]
    linger_zero(client)
    client.close()
    with server, contextlib.suppress(ConnectionResetError):
        receive(server, 1)
    wait_closed(a, port)
    wait_closed(b, SERVER)
    return port


@pytest.mark.parametrize("variant", loader._VARIANTS, ids=lambda v: "-".join(k for k in v if v[k]) or "none")
def test_each_variant_gives_the_same_rows(
    wired: Wired, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: dict[str, int]
) -> None:
    a, b = wired
    monkeypatch.setattr(loader, "_VARIANTS", (variant,))
    with (
        listen(b, port=SERVER + 1) as listener,
        connect(a, SIDE_B.ipv4, SERVER + 1),
        listener.accept()[0],
        recorded(tmp_path / "variant.tct", a, b) as recording,
    ):
        port, client, server = one_connection(a, b)
        reset = one_reset(a, b)
    assert recording.header["variant"] == variant
    rows = recording.rows
    assert len(rows) == 6
    cookie = {} if variant["has_cookie"] else {"cookie": None}
    expect(
        only(rows, local_port=port),
        finished(
            a, "active", **cookie, **client, local_port=port, initiator="local",
            bytes_sent=7, bytes_received=9, fin_wait1_ns=only(rows, local_port=port)["fin_wait1_ns"],
        ),
    )  # fmt: skip
    expect(
        only(rows, remote_port=port),
        finished(
            b, "passive", **cookie, **server, remote_port=port, initiator="remote",
            bytes_sent=9, bytes_received=7,
            close_wait_ns=only(rows, remote_port=port)["close_wait_ns"],
            last_ack_ns=only(rows, remote_port=port)["last_ack_ns"],
        ),
    )  # fmt: skip
    assert only(rows, remote_port=port)["close_wait_ns"] > 0
    assert only(rows, local_port=reset)["close_reason"] == "reset_sent"
    assert only(rows, remote_port=reset)["close_reason"] == "reset_received"
    seeded = [row for row in rows if SERVER + 1 in (row["local_port"], row["remote_port"])]
    assert len(seeded) == 2
    assert all(row["left_censored"] and row["right_censored"] for row in seeded)
    assert all((row["cookie"] is not None) == bool(variant["has_cookie"]) for row in rows)
    assert len({row["connection_id"] for row in rows}) == 6


def test_the_best_variant_is_taken_here() -> None:
    loaded = loader.load(buffer_bytes=SMALL)
    try:
        assert loaded.variant == loader._VARIANTS[0]
        assert missing(by_program(loaded)) == {}
    finally:
        loaded.close()


@pytest.mark.parametrize(
    "programs", [("tcp_send_reset",), ("kfree_skb", "tcp_retransmit_skb"), ("tcp_receive_reset",)]
)
def test_a_refused_program_is_left_out_with_the_verifiers_reason(
    broken: Callable[..., None], programs: tuple[str, ...]
) -> None:
    broken(*programs)
    found = missing(loaded_hooks())
    assert set(found) == set(programs)
    for program, reason in found.items():
        before, _, verdict = reason.partition("the kernel refuses the program: ")
        assert not before
        assert reason.endswith(f", so {FACT[program].consequence}")
        verdict = verdict.split(", so ")[0]
        assert any(word in verdict for word in ("access", "invalid", "off")), verdict


def test_without_a_refused_program_the_others_still_work(
    broken: Callable[..., None], wired: Wired, tmp_path: Path
) -> None:
    a, b = wired
    broken("tcp_send_reset", "kfree_skb")
    with recorded(tmp_path / "left-out.tct", a, b) as recording:
        port = one_connection(a, b)[0]
        reset = one_reset(a, b)
    rows = recording.rows
    assert len(rows) == 4
    for row in (only(rows, local_port=port), only(rows, remote_port=port)):
        assert row["close_reason"] == "fin"
    assert only(rows, remote_port=reset)["close_reason"] == "reset_received"
    # what sent it is what was left out: not known, and not invented
    assert only(rows, local_port=reset)["close_reason"] is None
    hooks = {hook["fact"]: hook for hook in recording.header["hooks"]}
    assert hooks["reset sent"]["provider"] is None
    assert "the kernel refuses the program" in hooks["reset sent"]["reason"]
    assert hooks["reset received"]["provider"] == "tp_btf/tcp_receive_reset"


@pytest.mark.parametrize("program", ["inet_sock_set_state", "tcp_destroy_sock"])
def test_without_a_required_program_there_is_no_recording(broken: Callable[..., None], program: str) -> None:
    broken(program)
    with pytest.raises(HostError, match=f"{FACT[program].name}: the kernel refuses the program") as raised:
        loader.load(buffer_bytes=SMALL)
    log = Path(str(raised.value).rpartition("the whole log is in ")[2].rstrip(")"))
    try:
        assert f"prog '{program}': failed to load" in log.read_text()
    finally:
        log.unlink()


def test_a_fallback_that_keeps_all_programs_is_preferred_to_leaving_one_out(
    broken: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_VARIANTS", tuple(reversed(loader._VARIANTS)))
    monkeypatch.setattr(objects, "WHOLE_VARIANT", loader._VARIANTS[0])
    broken("tcp_send_reset", only_with_hash=True)
    loaded = loader.load(buffer_bytes=SMALL)
    try:
        assert loaded.variant == {"use_table": 0, "use_hash": 0, "has_cookie": 0}
        assert all(hook.provider for hook in loaded.hooks)
    finally:
        loaded.close()


def test_a_program_is_left_out_also_where_the_best_variant_cannot_be(
    broken: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first variant fails in a required program, every one in another: the fallback does without it."""
    load = loader._load_variant

    def without_storage(name: str, variant: dict[str, int], *rest: Any) -> Any:
        if not variant["use_hash"]:
            raise loader._Failed("state transition: the kernel refuses the program", [])
        return load(name, variant, *rest)

    monkeypatch.setattr(loader, "_load_variant", without_storage)
    broken("tcp_send_reset")
    loaded = loader.load(buffer_bytes=SMALL)
    try:
        assert loaded.variant == {"use_table": 0, "use_hash": 1, "has_cookie": 1}
        assert {hook.fact for hook in loaded.hooks if hook.provider is None} == {"reset sent"}
    finally:
        loaded.close()


class Kernel(kernels.KernelTypes):
    """The running kernel's types without one tracepoint, or with fewer arguments of it."""

    without: str = ""
    arguments: int | None = None

    def tracepoint_arguments(self, tracepoint: str) -> int | None:
        return self.arguments if tracepoint == self.without else super().tracepoint_arguments(tracepoint)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> type[Kernel]:
    monkeypatch.setattr(Kernel, "without", "")
    monkeypatch.setattr(Kernel, "arguments", None)
    monkeypatch.setattr(kernels, "KernelTypes", Kernel)
    return Kernel


@pytest.mark.parametrize("program", [program for program in FACT if program != "walk"])
def test_a_kernel_without_a_tracepoint(kernel: type[Kernel], program: str) -> None:
    fact = FACT[program]
    kernel.without = program
    reason = f"this kernel has no tracepoint {program}"
    if fact.required:
        with pytest.raises(HostError) as raised:
            loader.load(buffer_bytes=SMALL)
        assert str(raised.value) == f"{fact.name}: {reason}, so {fact.consequence}"
        return
    found = loaded_hooks()
    assert missing(found) == {program: found[program].reason}
    if len(fact.providers) == 1:
        assert found[program].reason == f"{reason}, so {fact.consequence}"
    else:  # others may do
        assert reason in (found[program].reason or "")
        assert (found[program].provider is None) == (fact.consequence in (found[program].reason or ""))


def test_a_kernel_whose_tracepoint_gives_no_reason(kernel: type[Kernel]) -> None:
    kernel.without, kernel.arguments = "kfree_skb", 2
    (reason,) = missing(loaded_hooks()).values()
    assert reason.startswith("this kernel's tracepoint kfree_skb does not give the reason, so ")


def test_a_kernel_that_tells_of_resets_of_its_own_sockets_only(kernel: type[Kernel]) -> None:
    kernel.without, kernel.arguments = "tcp_send_reset", 2
    loaded = loader.load(buffer_bytes=SMALL)
    try:
        (hook,) = [hook for hook in loaded.hooks if hook.reason]
    finally:
        loaded.close()
    assert (hook.fact, hook.provider, hook.exact) == ("reset sent", "tp_btf/tcp_send_reset", True)
    assert hook.reason is not None and "without a connection are not recorded" in hook.reason


def test_no_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "LIBRARY", "libbpf.so.1-is-not-here")
    monkeypatch.setattr(libbpf, "library", libbpf.library.__wrapped__)
    with pytest.raises(HostError, match="apt install libbpf1"):
        loader.load(buffer_bytes=SMALL)


def test_more_holders_than_the_map_has_room_for() -> None:
    """Those that fit are kept: an owner more or less must not end a recording."""
    loaded = loader.load(buffer_bytes=SMALL)
    try:
        holder = bytes(loaded.object.map("holders").info()["value_size"])
        for start in (0, 50_000):
            loaded.set_holders(
                {number.to_bytes(8, "little"): holder for number in range(start, start + 50_000)}
            )
    finally:
        loaded.close()
