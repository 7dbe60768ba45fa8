"""Which provider a fact gets from kernels that have this and lack that."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.acquire.choice import LEFT_OUT, Choice
from tcptrace.acquire.configuration import configuration
from tcptrace.acquire.providers import (
    BUDGET,
    LIFECYCLE,
    NONE,
    SCHEDULER,
    Fact,
    Hook,
    Provider,
    forced,
    function_of,
)
from tcptrace.errors import HostError, UsageError
from tcptrace.trace import wire

FACTS = {fact.name: fact for fact in LIFECYCLE + BUDGET}
TRACEPOINTS = {p.target for fact in FACTS.values() for p in fact.providers if p.kind == "tp_btf"}
FUNCTIONS = {
    function_of(program)
    for fact in FACTS.values()
    for p in fact.providers
    if p.kind not in ("tp_btf", "iter")
    for program in (*p.programs, *p.also)
}
NEWER = ("tp:tcp_sendmsg_locked", "tp:sock_send_length", "tp:sk_data_ready", "tp:sock_recv_length")
"""Tracepoints that Linux 6.1 does not have."""
SENDPAGE = {"do_tcp_sendpages", "tcp_sendpage"}
"""Functions that Linux 6.12 does not have."""


class Kernel:
    """A kernel with everything; a test takes some of it away."""

    def __init__(
        self, *without: str, kprobes: bool = True, arguments: Mapping[str, int] | None = None
    ) -> None:
        self.without = {*without}
        self.kprobes = kprobes
        self.arguments = {**dict.fromkeys(TRACEPOINTS, 5), **(arguments or {})}

    def tracepoint_arguments(self, tracepoint: str) -> int | None:
        return None if f"tp:{tracepoint}" in self.without else self.arguments.get(tracepoint)

    def has_function(self, function: str) -> bool:
        return function in FUNCTIONS - self.without

    def has_member(self, struct: str, member: str) -> bool:
        return f"{struct}.{member}" not in self.without

    def has_kprobes(self) -> bool:
        return self.kprobes


def choose(kernel: Kernel, *options: str) -> Choice:
    return Choice(FACTS.values(), kernel, forced(options))


def used(choice: Choice) -> dict[str, str]:
    return {name: provider.name for name, provider in choice.used().items()}


def hook_of(choice: Choice, fact: str) -> Hook:
    return next(hook for hook in choice.hooks() if hook.fact == fact)


BEST = {name: fact.providers[0].name for name, fact in FACTS.items()}


def test_a_kernel_with_everything_gives_the_best_of_each() -> None:
    choice = choose(Kernel())
    assert used(choice) == BEST
    assert [hook.fact for hook in choice.hooks()] == list(FACTS)
    for hook in choice.hooks():
        assert (hook.provider, hook.exact, hook.reason) == (BEST[hook.fact], True, None)
        assert all(reason is None for _, reason in hook.providers)


def test_functions_are_used_where_there_is_no_tracepoint() -> None:
    choice = choose(Kernel(*NEWER))
    assert used(choice) == BEST | {
        "write entered": "fentry/tcp_sendmsg_locked",
        "write returned": "fexit/tcp_sendmsg",
        "data ready": "fentry/sock_def_readable",
        "read returned": "fexit/tcp_recvmsg",
    }
    hook = hook_of(choice, "write entered")
    assert (hook.exact, hook.reason) == (True, "this kernel has no tracepoint tcp_sendmsg_locked")


def test_kprobes_are_used_where_functions_are_refused() -> None:
    choice = choose(Kernel(*NEWER))
    for program in [program for program in choice.programs() if program.startswith("f")]:
        if program in choice.programs():  # else it went with another
            choice.refuse(program, "refused: Operation not permitted")
    assert used(choice) == BEST | {
        "write entered": "kprobe/tcp_sendmsg_locked",
        "write returned": "kretprobe/tcp_sendmsg",
        "data ready": "kprobe/sock_def_readable",
        "read returned": "kprobe/tcp_recvmsg",
    }
    reason = hook_of(choice, "data ready").reason
    assert reason == (
        "this kernel has no tracepoint sk_data_ready; "
        "fentry/sock_def_readable: refused: Operation not permitted"
    )


def test_with_nothing_left_the_fact_is_missing_with_every_reason() -> None:
    choice = choose(Kernel("tp:sk_data_ready", "sock_def_readable", kprobes=False))
    assert used(choice) == {name: best for name, best in BEST.items() if name != "data ready"}
    hook = hook_of(choice, "data ready")
    assert (hook.provider, hook.exact) == (None, False)
    assert hook.reason == (
        "this kernel has no tracepoint sk_data_ready; this kernel has no function sock_def_readable; "
        f"this kernel has no kprobes, so {FACTS['data ready'].consequence}"
    )


def test_an_estimate_is_marked_with_what_it_cannot_tell() -> None:
    choice = choose(Kernel())
    assert choice.refuse("net_dev_start_xmit", "the verifier says no")
    hook = hook_of(choice, "left for the device")
    assert (hook.provider, hook.exact) == ("tp_btf/net_dev_queue", False)
    assert hook.reason is not None and hook.reason.startswith("estimated: network_ns contains")
    assert hook.reason.endswith("; tp_btf/net_dev_start_xmit: the verifier says no")
    assert choice.lost == {"net_dev_start_xmit"}


def test_a_refused_program_harms_no_other_fact() -> None:
    for fact in FACTS.values():
        for program in fact.providers[0].programs:
            choice = choose(Kernel())
            if fact.required:
                with pytest.raises(HostError, match=fact.name):
                    choice.refuse(program, "no")
                continue
            assert choice.refuse(program, "no")
            others = {name: provider for name, provider in used(choice).items() if name != fact.name}
            assert others == {name: best for name, best in BEST.items() if name != fact.name}
            assert program not in choice.programs()


def test_a_program_in_no_use_is_not_the_choices_to_refuse() -> None:
    choice = choose(Kernel())
    assert not choice.refuse("fentry_tcp_sendmsg_locked", "no")
    assert used(choice) == BEST


def test_a_copy_goes_its_own_way() -> None:
    choice = choose(Kernel())
    twin = choice.copy()
    twin.refuse("sk_data_ready", "no")
    assert used(choice) == BEST
    assert used(twin)["data ready"] == "fentry/sock_def_readable"


def test_programs_that_only_some_kernels_need_come_along() -> None:
    older, newer = choose(Kernel(*NEWER)), choose(Kernel(*NEWER, *SENDPAGE))
    assert {"fentry_do_tcp_sendpages", "fexit_tcp_sendpage"} <= set(older.programs())
    assert not any("sendpage" in program for program in newer.programs())
    assert hook_of(newer, "write returned").reason == "this kernel has no tracepoint sock_send_length"


def test_without_such_a_program_the_fact_stays_and_says_so() -> None:
    choice = choose(Kernel(*NEWER))
    assert choice.refuse("fexit_tcp_sendpage", "the verifier says no")
    assert used(choice)["write returned"] == "fexit/tcp_sendmsg"
    reason = hook_of(choice, "write returned").reason or ""
    assert reason.startswith("sendfile() and splice() are not seen: the verifier says no; ")


def test_transitions_are_attached_last() -> None:
    programs = choose(Kernel()).programs()
    assert programs[-1] == "inet_sock_set_state"
    assert len(set(programs)) == len(programs)


def test_the_socket_is_noted_before_a_return_is_waited_for() -> None:
    programs = choose(Kernel(), "write returned=kretprobe").programs()
    assert programs.index("kprobe_tcp_sendmsg") + 1 == programs.index("kretprobe_tcp_sendmsg")


@pytest.mark.parametrize("name", [name for name, fact in FACTS.items() if fact.required])
def test_without_a_required_tracepoint_there_is_no_choice(name: str) -> None:
    with pytest.raises(HostError) as raised:
        choose(Kernel(FACTS[name].providers[0].capability))
    assert str(raised.value).startswith(f"{name}: this kernel has no tracepoint ")
    assert str(raised.value).endswith(FACTS[name].consequence)


def test_a_tracepoint_that_tells_part_is_exact_with_a_limitation() -> None:
    hook = hook_of(choose(Kernel(arguments={"tcp_send_reset": 2})), "reset sent")
    assert (hook.provider, hook.exact) == ("tp_btf/tcp_send_reset", True)
    assert "not recorded" in (hook.reason or "")


def test_a_setting_that_the_kernel_lacks() -> None:
    hook = hook_of(choose(Kernel(SCHEDULER)), "waiting for a CPU")
    assert hook.reason == "this kernel does not count it, so wakeup_ns and app_late_ns are null"


@pytest.mark.parametrize(("fact", "provider"), [(fact, p) for fact in FACTS.values() for p in fact.providers])
def test_each_can_be_forced_alone(fact: Fact, provider: Provider) -> None:
    choice = choose(Kernel(), f"{fact.name}={provider.name}")
    assert used(choice) == BEST | {fact.name: provider.name}
    hook = hook_of(choice, fact.name)
    assert (hook.exact, ("estimated: " in (hook.reason or ""))) == (provider.exact, not provider.exact)
    listed = {one.name: reason for one, reason in hook.providers}
    assert listed.pop(provider.name) is None
    assert set(listed.values()) <= {"another one was asked for"}


@pytest.mark.parametrize("fact", [fact for fact in FACTS.values() if not fact.required])
def test_none_leaves_out_this_fact_alone(fact: Fact) -> None:
    choice = choose(Kernel(), f"{fact.name}=none")
    assert used(choice) == {name: best for name, best in BEST.items() if name != fact.name}
    hook = hook_of(choice, fact.name)
    assert (hook.provider, hook.reason) == (None, f"{LEFT_OUT}, so {fact.consequence}")


@pytest.mark.parametrize(
    ("option", "kernel", "reason"),
    [
        ("data ready=tp_btf", Kernel("tp:sk_data_ready"), "this kernel has no tracepoint sk_data_ready"),
        ("data ready=fentry", Kernel("sock_def_readable"), "this kernel has no function sock_def_readable"),
        ("data ready=kprobe", Kernel(kprobes=False), "this kernel has no kprobes"),
    ],
)
def test_what_is_forced_and_not_there_is_refused(option: str, kernel: Kernel, reason: str) -> None:
    with pytest.raises(HostError) as raised:
        choose(kernel, option)
    kind = option.partition("=")[2]
    name = next(p.name for p in FACTS["data ready"].providers if p.kind == kind)
    assert str(raised.value) == f"--provider 'data ready={name}': {reason}"


def test_what_is_forced_and_refused_does_not_fall_back() -> None:
    choice = choose(Kernel(), "data ready=fentry")
    with pytest.raises(HostError, match="'data ready=fentry/sock_def_readable': no"):
        choice.refuse("fentry_sock_def_readable", "no")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("write entered", ("'write entered'", "FACT=PROVIDER")),
        ("writes=none", ("no fact 'writes'", *FACTS)),
        ("read=fentry", ("no provider 'fentry'", "tp_btf/tcp_rcv_space_adjust", "none")),
        ("data ready=", ("no provider ''", "tp_btf/sk_data_ready")),
        ("write entered=fentry", ("fentry/tcp_sendmsg_locked or fentry/tcp_sendmsg", "kprobe/")),
        ("state transition=none", ("no connection can be seen",)),
        ("state transition=kprobe", ("tp_btf/inet_sock_set_state",)),
    ],
)
def test_what_cannot_be_meant_is_named_with_what_can(option: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as raised:
        forced([option])
    message = str(raised.value)
    assert "\n" not in message and repr(option) in message
    assert all(word in message for word in words), message


def test_one_fact_cannot_have_two_forced_providers() -> None:
    with pytest.raises(UsageError, match="'read' is given twice"):
        forced(["read=none", "read=tp_btf"])


def test_a_kind_and_blanks_are_enough_where_they_are_clear() -> None:
    assert forced([" read returned = kprobe ", "read=none"]) == {
        "read returned": "kprobe/tcp_recvmsg",
        "read": NONE,
    }


@given(st.text(max_size=40))
def test_any_text_is_a_provider_or_wrong_usage(text: str) -> None:
    try:
        assert set(forced([text]).items()) <= {
            (fact.name, name) for fact in FACTS.values() for name in [NONE, *(p.name for p in fact.providers)]
        }
    except UsageError as error:
        assert repr(text) in str(error)


Flags = Callable[[Choice], dict[str, int]]


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Flags:
    """What the programs are told."""
    monkeypatch.setattr("tcptrace.acquire.libbpf.possible_cpus", lambda: 1)

    def told(choice: Choice) -> dict[str, int]:
        import numpy as np

        config = np.frombuffer(configuration(choice, {}, [], {}, True), wire.CONFIG)[0]
        names = [
            name
            for name in wire.CONFIG.names or ()
            if name.startswith("has_") or "called" in name or name == "before_queue"
        ]
        return {name: int(config[name]) for name in names}

    return told


def test_the_programs_know_how_writes_show(flags: Flags) -> None:
    none = {"before_queue": 0, "has_page_end": 0, "write_called": 0, "end_called": 0}
    every = dict.fromkeys(flags(choose(Kernel())), 1)
    cookie = {"has_cookie": 0, "before_queue": 0}  # the former is a matter of the object's variant
    assert flags(choose(Kernel(*SENDPAGE))) == every | cookie | none
    assert flags(choose(Kernel(*NEWER))) == every | cookie
    assert flags(choose(Kernel(*NEWER, *SENDPAGE))) == every | cookie | {"has_page_end": 0}
    left_out = flags(choose(Kernel(*SENDPAGE), "write returned=none"))
    assert left_out == every | cookie | none | {"has_write_end": 0}


def test_the_programs_know_when_departures_are_estimated(flags: Flags) -> None:
    assert not flags(choose(Kernel()))["before_queue"]
    estimated = flags(choose(Kernel(), "left for the device=tp_btf/net_dev_queue"))
    assert estimated["before_queue"] and estimated["has_departure"]
